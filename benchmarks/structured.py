"""What it costs to bind an answer to a form, and whether the documents are what their schemas say.

SmolLM2 over two nodes. Documents: random schemas at temperature 1, each judged by `jsonschema`. Cost: decode speed
bound to a form that lets nearly everything come, a long text in quotes, over that of the same question without one.
"""

from __future__ import annotations

import json
import time

import harness
from harness import Result, alternate, main, median_result, note
from jsonschema import Draft202012Validator
from services import fleet_of, installed
from smollm2 import open_smollm2

from orchestrator.client import Client
from orchestrator.commands.answers import tokens_per_s
from orchestrator.timing import DEFAULT_DRAFT_TOKENS
from schemas.messages import ChatMessage, Grammar, Sampling
from tests.support.random_schemas import random_schema

DOCUMENTS = 200
TOKENS = 160
MAX_TOKENS = 1200
CACHES = {"context_tokens": 2048, "slots": 1, "wire": "fp16"}
LONG_TEXT = {"type": "string", "minLength": 4 * TOKENS}


def _document(client: Client, seed: int) -> tuple[bool, int, float]:
    """Whether a document is valid, its tokens, and how long it took."""
    schema = random_schema(seed)
    question = f"Make up an example. Write JSON of this schema: {json.dumps(schema)}"
    begun_s = time.monotonic()
    answer = client.ask(
        [ChatMessage(role="user", content=question[:2500])],
        grammar=Grammar(kind="json_schema", text=json.dumps(schema)),
        sampling=Sampling(temperature=1.0, seed=seed),
        max_tokens=MAX_TOKENS,
    )
    text = "".join(answer)
    try:
        faults = [error.message for error in Draft202012Validator(schema).iter_errors(json.loads(text))]
    except ValueError as error:
        faults = [str(error)]
    if faults:
        note(f"  schema {seed}: {faults[0][:200]}: {text[-300:]}")
    return not faults, len(answer.token_ids), time.monotonic() - begun_s


def _speed(client: Client, grammar: Grammar | None, tokens: int) -> float:
    answer = client.ask(
        [ChatMessage(role="user", content="Tell me a long story about the sea.")], grammar=grammar,
        sampling=Sampling(temperature=1.0, seed=7), max_tokens=tokens,
    )  # fmt: skip
    "".join(answer)
    assert answer.end
    return tokens_per_s(answer.end)


def _cost(client: Client, quick: bool) -> list[Result]:
    form = Grammar(kind="json_schema", text=json.dumps(LONG_TEXT))
    count = 16 if quick else TOKENS
    for grammar in (form, None):
        _speed(client, grammar, 16)
    pairs = alternate(
        lambda: _speed(client, form, count), lambda: _speed(client, None, count), 1 if quick else 2 * harness.PAIRS
    )
    ratios = [bound / free for bound, free in pairs]
    return [
        median_result("bound to a form over free", ratios, "ratio", at_least=0.9),
        median_result("bound to a form", [bound for bound, _ in pairs], "tokens/s"),
        median_result("free", [free for _, free in pairs], "tokens/s"),
    ]


def measure(quick: bool) -> list[Result]:
    """Documents and speed, in the profile ``fast``, and documents once more in ``steady``, where tokens are guessed."""
    results: list[Result] = []
    for profile, documents in (("fast", 2 if quick else DOCUMENTS), ("steady", 1 if quick else DOCUMENTS // 10)):
        model = open_smollm2(profile)
        with (
            fleet_of(model, ["node-0", "node-1"], share=0.7, speed=1.0, **CACHES) as fleet,
            installed(fleet, model, balance=False, draft_tokens=DEFAULT_DRAFT_TOKENS, **CACHES) as running,
            Client.connect(running.broker_url) as client,
        ):
            made = [_document(client, seed) for seed in range(documents)]
            took_s = sum(seconds for _, _, seconds in made)
            speed = sum(tokens for _, tokens, _ in made) / took_s
            valid = sum(is_valid for is_valid, _, _ in made)
            results.append(Result(f"valid documents, {profile}", valid, f"of {documents}", at_least=documents))
            results.append(Result(f"documents, {profile}, with prompts and ends", speed, "tokens/s"))
            if profile == "fast":
                results += _cost(client, quick)
    return results


if __name__ == "__main__":
    main("structured", measure)
