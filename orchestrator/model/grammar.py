"""Grammars of answers: which tokens may come next in one that is bound to a form. ``llguidance`` does the work.

The vocabulary is that of the model's own file: the second spellings that `orchestrator.model.prompt_encoder` adds for
prompts are not in it.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.model import grammar_trial
from orchestrator.model.errors import MissingDependency
from orchestrator.model.served import Expectation
from orchestrator.model.written_numbers import bounded
from schemas import json_text
from schemas.contract import short
from schemas.errors import LinguabusError
from schemas.limits import MAX_EXPECTED_TOKENS, MAX_GRAMMAR_DEPTH
from schemas.messages import Grammar
from schemas.shown_text import on_one_line
from schemas.token_mask import mask_bytes

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer
    from llguidance._lib import JsonCompileOptions

_ANY_OBJECT = '{"type": "object"}'
_SEPARATORS: JsonCompileOptions = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""One way to write a document: a model that may put in spaces wherever it likes may do so for ever."""
_KEPT = 16
"""Compiled grammars of a model, most of them a few hundred kilobytes each."""
_MOST_TOLD = 300
_NOUNS = {"json_schema": "the JSON schema", "json_object": "a JSON object", "regex": "the regular expression"}


class GrammarRefused(LinguabusError):
    """Answers can't be bound to this form; ``summary`` says so without a word of it."""

    def __init__(self, reason: str, summary: str) -> None:
        super().__init__(reason)
        self.summary = summary


class GrammarCompiler:
    """Compiles grammars for one model's tokenizer. Slow: for a thread of its own."""

    def __init__(self, tokenizer: Path, vocab_size: int, eos_ids: Collection[int]) -> None:
        """``tokenizer``: the model's ``tokenizer.json``, which is read when it is first needed."""
        self._path = tokenizer
        self._vocab_size = vocab_size
        self._eos_ids = tuple(sorted(eos_ids))
        self._tokenizer: LLTokenizer | None = None
        self._compiled: OrderedDict[Grammar, CompiledGrammar] = OrderedDict()
        self._lock = threading.Lock()

    def compile(self, grammar: Grammar) -> CompiledGrammar:
        """The compiled grammar.

        Raises:
            GrammarRefused: it can't be compiled, or the tokenizer is none for it.
            MissingDependency: the library is not installed.
        """
        with self._lock:
            found = self._compiled.get(grammar)
            if found is None:
                found = self._compiled[grammar] = self._compile(grammar)
                if len(self._compiled) > _KEPT:
                    self._compiled.popitem(last=False)
            self._compiled.move_to_end(grammar)
            return found

    def _compile(self, grammar: Grammar) -> CompiledGrammar:
        try:
            import llguidance
        except ImportError as error:
            raise MissingDependency("answers can't be bound to a form", "orchestrator") from error
        source, fault = "", ""
        for source in _sources(grammar):
            fault = grammar_trial.fault_of(source)
            if not fault:
                break
        if fault:
            raise _refused(grammar, fault)
        if self._tokenizer is None:
            self._tokenizer = self._read_tokenizer(llguidance)
        matcher = llguidance.LLMatcher(self._tokenizer, source, log_level=0, limits=grammar_trial.limits())
        if matcher.is_error():
            raise _refused(grammar, matcher.get_error())
        compiled = CompiledGrammar(matcher, self._vocab_size, self._eos_ids)
        if failure := compiled.begin().expect(()).failure:
            raise _refused(grammar, failure)
        return compiled

    def _read_tokenizer(self, llguidance: Any) -> LLTokenizer:
        try:
            made: LLTokenizer = llguidance.LLTokenizer(
                self._path.read_text("utf-8"),
                n_vocab=self._vocab_size,
                eos_token=list(self._eos_ids),
                slices=llguidance.LLTokenizer.json_slices(),
            )
        except BaseException as error:  # the library raises plain Exceptions, and panics, which are none
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            summary = "this model's tokenizer is none that answers can be bound to a form with: use another model"
            raise GrammarRefused(f"{summary} ({_told(str(error))})", summary) from error
        return made


class CompiledGrammar:
    """A form of answers; `orchestrator.model.served.AnswerGrammar` is what the core sees of it."""

    def __init__(self, matcher: LLMatcher, vocab_size: int, eos_ids: Collection[int]) -> None:
        self._matcher = matcher
        self.vocab_size = vocab_size
        self._eos_ids = frozenset(eos_ids)

    def begin(self) -> GrammarState:
        """The state at the beginning of an answer."""
        return GrammarState(self._matcher.deep_copy(), self.vocab_size, self._eos_ids)


class GrammarState:
    """How far one answer is."""

    def __init__(self, matcher: LLMatcher, vocab_size: int, eos_ids: Collection[int]) -> None:
        self._matcher = matcher
        self._size_bytes = mask_bytes(vocab_size)
        self._eos_ids = eos_ids

    def take(self, ids: Sequence[int]) -> int:
        """Go on behind these tokens; how many of them may come. One that ends the answer is the last."""
        texts = [number for number in ids if number not in self._eos_ids]
        taken = self._matcher.try_consume_tokens(texts)
        ends = len(texts) < len(ids)
        return taken if taken < len(texts) or (ends and not self._matcher.is_accepting()) else len(ids)

    @property
    def is_complete(self) -> bool:
        """Can nothing follow any more?"""
        return self._matcher.is_stopped() and not self._matcher.is_error()

    def expect(self, guess: Sequence[int]) -> Expectation:
        """What may come next, along tokens that nothing else can come for and, as far as it may come, a guess."""
        expected: list[int] = []
        masks: list[bytes | None] = []
        taken = 0
        while len(expected) < MAX_EXPECTED_TOKENS and not (expected and expected[-1] in self._eos_ids):
            forced = self._matcher.compute_ff_tokens()[: MAX_EXPECTED_TOKENS - len(expected)]
            mask = b"" if forced else self._matcher.compute_bitmask()[: self._size_bytes]
            if self._matcher.is_error() or not (forced or any(mask)):
                return Expectation((), (), _told(self._matcher.get_error()) or "no token can follow")
            if not forced and (only := _only(mask)) is not None:
                forced = [only]
            if forced:
                step = forced
                masks += [None] * len(forced)
            else:
                masks.append(mask)
                place = len(expected)
                if place >= len(guess) or list(guess[:place]) != expected or not _has(mask, guess[place]):
                    break
                step = [guess[place]]
            texts = [number for number in step if number not in self._eos_ids]
            taken += self._matcher.try_consume_tokens(texts)
            expected += step
        self._matcher.rollback(taken)
        return Expectation(tuple(expected), tuple(masks))


def _has(mask: bytes, token_id: int) -> bool:
    return token_id // 8 < len(mask) and bool(mask[token_id // 8] >> token_id % 8 & 1)


def _only(mask: bytes) -> int | None:
    """The only token of a set; None if it has several."""
    bits = int.from_bytes(mask, "little")
    return bits.bit_length() - 1 if bits & (bits - 1) == 0 else None


def _sources(grammar: Grammar) -> Iterator[str]:
    """The grammar in the library's form: what is to be tried, one after the other."""
    from llguidance import LLMatcher

    if grammar.kind == "regex":
        yield LLMatcher.grammar_from_regex(grammar.text)
        return
    try:
        schema = json.loads(grammar.text if grammar.kind == "json_schema" else _ANY_OBJECT)
    except (ValueError, RecursionError) as error:
        raise _refused(grammar, f"it is not JSON ({error})") from None
    if not isinstance(schema, dict):
        raise _refused(grammar, f"it has to be a JSON object, not {short(schema)}")
    if json_text.depth(schema) > MAX_GRAMMAR_DEPTH:
        raise _refused(grammar, f"it is nested deeper than {MAX_GRAMMAR_DEPTH} levels")
    narrower = bounded(schema)
    try:
        if narrower != schema:
            yield LLMatcher.grammar_from_json_schema(narrower, overrides=_SEPARATORS)
        yield LLMatcher.grammar_from_json_schema(schema, overrides=_SEPARATORS)
    except ValueError as error:
        raise _refused(grammar, str(error)) from None


def _refused(grammar: Grammar, fault: str) -> GrammarRefused:
    summary = f"{_NOUNS[grammar.kind]} of the answer can't be used"
    return GrammarRefused(f"{summary}: {_told(fault)}", summary)


def _told(fault: str) -> str:
    lines = [line.strip() for line in fault.splitlines() if line.strip()]
    return on_one_line(" ".join(lines))[:_MOST_TOLD]
