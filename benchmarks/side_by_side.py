"""Two installations that are there all the time, each of processes of its own, and decode of one answer in turn."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import harness
from harness import Result, alternate, median_result, note
from smollm2 import open_smollm2

from broker.address import BrokerAddress
from orchestrator.client import Client
from orchestrator.commands.answers import tokens_per_s
from orchestrator.model.model import Model
from orchestrator.model.store import ModelStore
from schemas.messages import PlanConstraints, Sampling
from tests.support.nodes import running_nodes
from tests.support.services import running_orchestrator, wait_until_serving

MEMORY_MB = 400
TOKENS, WARM_UP_TOKENS = 200, 8
_SERVE = ("--context", "1024", "--slots", "1", "--wire", "fp16", "--no-balance")

Pins = tuple[tuple[str, str], ...]
Install = Callable[[Model, Path], AbstractContextManager[str | BrokerAddress]]
"""An installation that serves a model, with its files in a folder; where its broker is."""


@contextmanager
def serving(model: Model, folder: Path, broker_url: str | None, nodes: Sequence[str]) -> Iterator[None]:
    """An orchestrator and nodes, each a process of its own; with no broker's address, of the fleet in the folder."""
    options = ("--model", model.manifest.name, "--min-nodes", str(len(nodes)), *_SERVE)
    store = ModelStore(model.blobs_folder.parent)
    with (
        running_orchestrator(broker_url, store, folder / "orchestrator", *options),
        running_nodes(nodes, broker_url, folder, "--memory-limit-mb", str(MEMORY_MB)),
    ):
        yield


def compared(
    first: tuple[str, Install], second: tuple[str, Install], *, pins: Pins, quick: bool, named: str, at_least: float
) -> list[Result]:
    """Decode of SmolLM2 in the first installation over that in the second, and both, by their names."""
    pairs = _decode_speeds(open_smollm2("fast"), (first[1], second[1]), pins, quick=quick)
    ratios = [one / other for one, other in pairs]
    note("  pairs: " + " ".join(f"{ratio:.3f}" for ratio in ratios))
    return [
        median_result(named, ratios, "ratio", at_least=at_least),
        median_result(first[0], [one for one, _ in pairs], "tokens/s"),
        median_result(second[0], [other for _, other in pairs], "tokens/s"),
    ]


def _decode_speeds(
    model: Model, installs: tuple[Install, Install], pins: Pins, *, quick: bool
) -> list[tuple[float, float]]:
    """Pairs of speeds, tokens a second after the first one, with each unit on the node that it is pinned to."""
    tokens = WARM_UP_TOKENS if quick else TOKENS
    with ExitStack() as stack:
        speeds: list[Callable[[], float]] = []
        for install in installs:
            parent = model.blobs_folder.parent
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="linguabus-bench-", dir=parent)))
            client = stack.enter_context(Client.connect(stack.enter_context(install(model, folder))))
            wait_until_serving(client)
            client.apply(PlanConstraints(pins=pins), timeout_s=120.0)
            speeds.append(functools.partial(_speed, client, tokens))
        for speed in speeds:
            speed()
        return alternate(*speeds, 1 if quick else harness.PAIRS)


def _speed(client: Client, tokens: int) -> float:
    answer = client.ask(prompt="Once upon a time", max_tokens=tokens, sampling=Sampling(temperature=0.0))
    for _ in answer:
        pass
    assert answer.end
    return tokens_per_s(answer.end)
