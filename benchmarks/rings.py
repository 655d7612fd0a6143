"""SmolLM2 over real node processes and a real Mosquitto, for the benchmarks of the data plane."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from broker.local_broker import LocalBroker
from edge_node.requests.ring_driver import chunk_lengths
from edge_node.runtime.segment import Segment
from edge_node.wire.activations import encode_activation
from orchestrator.model.model import Model
from schemas.codec import WIRE_DTYPES
from schemas.messages import WireDtype
from tests.support import segments
from tests.support.known_answers import known_answers
from tests.support.mqtt_proxy import MqttProxy
from tests.support.nodes import running_nodes
from tests.support.ring import Ring, even_cuts

CONTEXT_TOKENS = 512
CHUNK_TOKENS = 32
Homes = dict[str, Path]
"""Nodes' folders by name."""


def open_segment(
    model: Model,
    cuts: Sequence[int],
    stage: int,
    *,
    wire: WireDtype = "fp32",
    emulated_speed: float = 1.0,
    folder: Path | None = None,
    context_tokens: int = CONTEXT_TOKENS,
    chunk_tokens: int = CHUNK_TOKENS,
) -> Segment:
    """One stage of a split at ``cuts``, in this process; ``folder``: where its files are, if not in the store."""
    start, stop = cuts[stage : stage + 2]
    return segments.open_segment(
        model, start, stop, folder=folder, wire=wire, emulated_speed=emulated_speed,
        context_tokens=context_tokens, slots=1, chunk_tokens=chunk_tokens,
    )  # fmt: skip


class LocalChain:
    """A model cut into segments that all run in this process, one thread; one segment is the unsplit model."""

    def __init__(
        self,
        model: Model,
        stages: int = 1,
        *,
        wire: str = "fp32",
        context_tokens: int = CONTEXT_TOKENS,
        chunk_tokens: int = CHUNK_TOKENS,
    ) -> None:
        cuts = even_cuts(model.manifest.num_units, stages)
        self._segments = [
            open_segment(model, cuts, stage, context_tokens=context_tokens, chunk_tokens=chunk_tokens)
            for stage in range(stages)
        ]
        for segment in self._segments:
            segment.warm_up()
        self._wire = WIRE_DTYPES[wire]

    def logits(self, ids: Sequence[int], position: int) -> np.ndarray:
        """Logits (vocabulary,) after ``ids``, which stand at ``position`` and what follows; in a node's chunks."""
        begin = 0
        for length in chunk_lengths(len(ids), CHUNK_TOKENS):
            output = self._run(ids[begin : begin + length], position + begin, 1)
            begin += length
        return output[0]

    def all_logits(self, ids: Sequence[int], position: int) -> np.ndarray:
        """Logits (len(ids), vocabulary) after each of ``ids``."""
        return self._run(ids, position, len(ids))

    def last_logits(self, ids: Sequence[int], position: int, count: int = 1) -> np.ndarray:
        """Logits (count, vocabulary) after the last ``count`` of ``ids``, all in one run."""
        return self._run(ids, position, count)

    def forced(self, prompt_ids: Sequence[int], answer_ids: Sequence[int]) -> np.ndarray:
        """Logits (len(answer_ids), vocabulary) that each token of an answer would be drawn from, given those before."""
        ids, wanted = [*prompt_ids, *answer_ids[:-1]], len(answer_ids)
        rows, begin = [], 0
        for length in chunk_lengths(len(ids), CHUNK_TOKENS):
            count = max(1, min(length, begin + length - (len(ids) - wanted)))
            rows.append(self._run(ids[begin : begin + length], begin, count).copy())
            begin += length
        return np.concatenate(rows)[-wanted:]

    def _run(self, ids: Sequence[int], position: int, logits: int) -> np.ndarray:
        self._segments[0].ids_input(len(ids))[...] = ids
        output = self._segments[0].run(0, [position], len(ids), logits=logits).output
        for segment in self._segments[1:]:
            payload = encode_activation(output, self._wire)
            segment.take_in(payload, self._wire, len(ids))
            output = segment.run(0, [position], len(ids), logits=logits).output
        return output

    def forget(self) -> None:
        """Give back the memory of what was fed."""
        for segment in self._segments:
            segment.kv.forget((0,))

    def greedy(self, prompt_ids: Sequence[int], tokens: int) -> tuple[list[int], float]:
        """Greedy continuation of a prompt, and the decode speed in tokens per second."""
        generated = [int(self.logits(prompt_ids, 0).argmax())]
        started = time.perf_counter()
        while len(generated) < tokens:
            position = len(prompt_ids) + len(generated) - 1
            generated.append(int(self.logits(generated[-1:], position).argmax()))
        return generated, (tokens - 1) / (time.perf_counter() - started)


@contextmanager
def ring_of_nodes(
    model: Model, names: Sequence[str], *, each: dict[str, Sequence[str]] | None = None, link_delay_s: float = 0.0
) -> Iterator[tuple[Ring, Homes]]:
    """Node processes of one thread that have no plan yet.

    ``each`` gives further options by name, ``link_delay_s`` is added to every message of a node, each way.
    """
    with ExitStack() as stack:
        directory = stack.enter_context(
            tempfile.TemporaryDirectory(prefix="linguabus-bench-", dir=model.blobs_folder.parent)
        )
        broker = stack.enter_context(LocalBroker(kind="mosquitto"))
        url = broker.url
        if link_delay_s:
            proxy = stack.enter_context(MqttProxy(broker.url))
            proxy.up.delay_s = proxy.down.delay_s = link_delay_s
            url = proxy.url
        nodes = stack.enter_context(running_nodes(names, url, Path(directory), each=each))
        # What the orchestrator sends with a plan, too: without it nodes leave their weights as ONNX Runtime packs them.
        ring = stack.enter_context(Ring(broker.url, model, known_answers(model)))
        yield ring, {name: nodes[name].home for name in names}


@contextmanager
def deployed_ring(
    model: Model,
    stages: int,
    *,
    wire: str,
    slots: int = 4,
    context_tokens: int = CONTEXT_TOKENS,
    chunk_tokens: int = CHUNK_TOKENS,
    link_delay_s: float = 0.0,
    draft: Model | None = None,
) -> Iterator[Ring]:
    """A ring of ``stages`` node processes of one thread with an even split, ready for requests.

    ``draft``: for the last stage's node to guess with.
    """
    names = [f"node-{index}" for index in range(stages)]
    with ring_of_nodes(model, names, link_delay_s=link_delay_s) as (ring, homes):
        ring.deploy(
            homes,
            even_cuts(model.manifest.num_units, stages),
            wire=wire,
            context_tokens=context_tokens,
            slots=slots,
            chunk_tokens=chunk_tokens,
            draft=draft,
        )
        yield ring
