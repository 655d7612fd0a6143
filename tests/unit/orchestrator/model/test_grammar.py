"""Grammars of answers, as llguidance makes them of a real tokenizer's vocabulary."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from orchestrator.model import grammar_trial
from orchestrator.model.grammar import GrammarCompiler, GrammarRefused, GrammarState
from orchestrator.model.model import Model
from orchestrator.model.tokenizer import ModelTokenizer
from orchestrator.model.written_numbers import bounded
from schemas.limits import MAX_GRAMMAR_DEPTH
from schemas.messages import Grammar
from tests.support.random_schemas import random_schema


@pytest.fixture(scope="module")
def compiler(tiny_model: Model) -> GrammarCompiler:
    manifest = tiny_model.manifest
    return GrammarCompiler(tiny_model.tokenizer_path, manifest.vocab_size, manifest.eos_ids)


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Model) -> ModelTokenizer:
    return tiny_model.tokenizer()


def schema(document: dict[str, Any]) -> Grammar:
    return Grammar(kind="json_schema", text=json.dumps(document))


def ids_of(mask: bytes) -> list[int]:
    bits = int.from_bytes(mask, "little")
    return [number for number in range(8 * len(mask)) if bits >> number & 1]


def write(state: GrammarState, draw: random.Random, eos_ids: tuple[int, ...]) -> list[int]:
    """An answer of tokens drawn from those that may come."""
    ids: list[int] = []
    while not state.is_complete:
        found = state.expect([draw.randrange(320) for _ in range(3)])
        assert not found.failure
        assert len(found.expected) <= len(found.masks) <= len(found.expected) + 1
        mask = found.masks[0]
        token = found.expected[0] if mask is None else draw.choice(ids_of(mask))
        assert state.take([token]) == 1
        if token in eos_ids:
            break
        ids.append(token)
    return ids


@pytest.mark.parametrize("seed", range(8))
def test_whatever_is_drawn_is_a_document_of_the_schema(
    compiler: GrammarCompiler, tokenizer: ModelTokenizer, tiny_model: Model, seed: int
) -> None:
    wanted = random_schema(seed)
    ids = write(compiler.compile(schema(wanted)).begin(), random.Random(seed), tiny_model.manifest.eos_ids)
    Draft202012Validator(wanted).validate(json.loads(tokenizer.decode(ids)))


def test_what_may_come_leaves_the_state_as_it_was(compiler: GrammarCompiler) -> None:
    state = compiler.compile(schema({"enum": ["one two", "one three", "four"]})).begin()
    before = state.expect(())
    forced = state.expect(before.expected)
    assert state.expect(()) == before == forced
    assert state.take(before.expected) == len(before.expected)
    assert state.expect(()) != before


def test_a_guess_is_followed_as_far_as_it_may_come(compiler: GrammarCompiler, tokenizer: ModelTokenizer) -> None:
    state = compiler.compile(Grammar(kind="regex", text="[ab]{4}")).begin()
    guess = tokenizer.encode("a", special=False) + tokenizer.encode("b", special=False)
    found = state.expect([*guess, 300])
    assert found.expected == tuple(guess)
    assert len(found.masks) == 3
    assert state.expect([300]).expected == ()


def test_a_token_that_may_not_come_is_counted_out(compiler: GrammarCompiler, tiny_model: Model) -> None:
    eos = tiny_model.manifest.eos_ids[0]
    state = compiler.compile(schema({"type": "boolean"})).begin()
    assert state.take([eos]) == 0, "there is no document yet"
    first = state.expect(())
    assert first.masks[0]
    assert state.take([min(set(range(320)) - set(ids_of(first.masks[0])))]) == 0


def test_no_control_token_and_no_second_spelling_may_come_as_text(
    compiler: GrammarCompiler, tokenizer: ModelTokenizer, tiny_model: Model
) -> None:
    tokenizer.encode_chat([{"role": "user", "content": "Hello"}])  # the second spellings are in its vocabulary
    (mask,) = compiler.compile(Grammar(kind="regex", text="(.|\n)*")).begin().expect(()).masks
    assert mask
    may = set(ids_of(mask))
    hidden = {number for number in range(320) if not tokenizer.token_text(number)} - set(tiny_model.manifest.eos_ids)
    assert max(may) < 320
    assert not may & {number for number in hidden if tokenizer.decode([number]) == ""}
    assert set(tiny_model.manifest.eos_ids) <= may


@pytest.mark.parametrize("kind", ["number", "integer"])
def test_a_number_does_not_go_on_for_ever(compiler: GrammarCompiler, tokenizer: ModelTokenizer, kind: str) -> None:
    state = compiler.compile(schema({"type": "object", "properties": {"a": {"type": kind}}})).begin()
    taken = tokenizer.encode('{"a": 1234.' if kind == "number" else '{"a": 1', special=False)
    assert state.take(taken) == len(taken)
    digits = 0
    while state.take(tokenizer.encode("5", special=False)):
        digits += 1
        assert digits < 20
    assert digits == (9 if kind == "number" else 14)


def test_bounds_that_leave_nothing_are_not_set(compiler: GrammarCompiler) -> None:
    state = compiler.compile(schema({"type": "number", "exclusiveMinimum": 0, "maximum": 1e-10})).begin()
    assert not state.expect(()).failure


def test_bounds_are_set_to_numbers_that_have_none_wherever_they_are() -> None:
    number = {"type": "number", "minimum": -(10**15), "maximum": 10**15, "multipleOf": 1e-9}
    for wrap in (
        lambda part: {"properties": {"a": part}},
        lambda part: {"items": {"anyOf": [part, {"type": "null"}]}},
        lambda part: {"$defs": {"a": {"prefixItems": [part]}}},
        lambda part: {"additionalProperties": part},
    ):
        assert bounded(wrap({"type": "number"})) == wrap(number)
    for kept in ({"type": "number", "enum": [1e30]}, {"oneOf": [{"type": "number"}]}, {"type": "string"}):
        assert bounded(kept) == kept
    small = {"type": "integer", "minimum": 0, "exclusiveMaximum": 3}
    assert bounded(small) == small


@pytest.mark.parametrize(
    ("grammar", "said"),
    [
        (schema({"not": {}}), 'the JSON schema of the answer can\'t be used: Unimplemented keys: ["not"]'),
        (schema({"type": "array", "uniqueItems": True}), 'Unimplemented keys: ["uniqueItems"]'),
        (schema({"$ref": "http://127.0.0.1:9/schema"}), "does not fetch"),
        (schema({"enum": []}), "Unsatisfiable schema"),
        (Grammar(kind="json_schema", text="{"), "it is not JSON"),
        (Grammar(kind="json_schema", text="[1]"), "it has to be a JSON object, not an array"),
        (Grammar(kind="json_schema", text="[" * 30_000), "it is not JSON"),
        (Grammar(kind="json_schema", text='{"a":' * 65 + "1" + "}" * 65), f"deeper than {MAX_GRAMMAR_DEPTH} levels"),
        (Grammar(kind="regex", text="[a-"), "the regular expression of the answer can't be used"),
    ],
)
def test_what_can_not_be_compiled_is_refused_by_name_in_a_line(
    compiler: GrammarCompiler, grammar: Grammar, said: str
) -> None:
    with pytest.raises(GrammarRefused) as caught:
        compiler.compile(grammar)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.summary.endswith("of the answer can't be used")


def test_a_grammar_that_takes_too_long_is_ended(compiler: GrammarCompiler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammar_trial, "TIME_LIMIT_S", 1.0)
    with pytest.raises(GrammarRefused, match="too long or too much memory"):
        compiler.compile(schema({"type": "integer", "multipleOf": 999_983}))


def test_a_grammar_is_compiled_once(compiler: GrammarCompiler, monkeypatch: pytest.MonkeyPatch) -> None:
    first = compiler.compile(Grammar(kind="json_object"))
    monkeypatch.setattr(grammar_trial, "fault_of", lambda _: "not again")
    assert compiler.compile(Grammar(kind="json_object")) is first


def test_a_tokenizer_that_the_library_can_not_take_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text('{"model": {"type": "Unheard"}}')
    with pytest.raises(GrammarRefused, match="this model's tokenizer is none"):
        GrammarCompiler(path, 320, (2,)).compile(Grammar(kind="json_object"))
