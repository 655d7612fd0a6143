"""Answers that are read while layers move between real nodes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from broker.bus import Delivery
from broker.local_broker import LocalBroker
from broker.mqtt import MqttBus
from orchestrator.client import Client
from orchestrator.model.store import ModelStore
from orchestrator.service.config import ServiceConfig
from orchestrator.timing import Timing
from schemas.messages import MovesView, Plan, Sampling, StageTiming, TokenLogprobs, decode
from schemas.topics import PLAN
from tests.support.members import as_orchestrator
from tests.support.nodes import NodeProcess, running_nodes
from tests.support.polling import DEADLINE_S, collect
from tests.support.services import apply, patient_client, running_service

PROMPT = "def f(x):"
"""The tiny model goes on from it for longer than its context."""
PLANS = (
    [["embed", "a"], ["0-1", "a"], ["2-3", "b"], ["head", "b"]],
    [["embed", "a"], ["0", "a"], ["1-2", "c"], ["3", "b"], ["head", "b"]],
    [["embed", "c"], ["0-2", "c"], ["3", "a"], ["head", "a"]],
    [["embed", "b"], ["0", "b"], ["1-3", "a"], ["head", "a"]],
)
"""Pins of all units: a plan for each."""
_QUICK = Timing(settle_s=0.1, start_s=0.5)


class Moving:
    """An orchestrator with real nodes, somebody who reads and somebody who moves layers."""

    def __init__(self, broker_url: str, reader: Client, operator: Client) -> None:
        self.broker_url = broker_url
        self._reader = reader
        self._operator = operator
        self.logprobs: int | None = None
        """What readers ask for."""
        self.told: list[list[TokenLogprobs]] = []
        """How likely the tokens of the answers were that were read last."""

    def apply(self, pins: Sequence[Sequence[str]]) -> None:
        """Bring a plan into force."""
        apply(self._operator, pins=pins)

    def moves(self) -> MovesView:
        """Live moves so far."""
        return self._operator.status().moves

    def read(self, samplings: Sequence[Sampling], max_tokens: int) -> list[tuple[list[int], tuple[StageTiming, ...]]]:
        """Answers to as many requests at once: tokens, and what the stages say."""
        answers = [
            self._reader.ask(
                prompt=PROMPT, max_tokens=max_tokens, sampling=sampling, stats=True, logprobs=self.logprobs
            )
            for sampling in samplings
        ]
        found = []
        for answer in answers:
            "".join(answer)
            assert answer.end
            found.append((answer.token_ids, answer.end.stages))
        self.told = [answer.logprobs for answer in answers]
        return found

    def read_while_moving(
        self, samplings: Sequence[Sampling], max_tokens: int, most: int, but: tuple[type[Exception], ...] = ()
    ) -> list[tuple[list[int], tuple[StageTiming, ...]]]:
        """The same while one plan follows the other, ``most`` times at most. ``but``: what may come of one."""
        with ThreadPoolExecutor(1) as pool:
            reading = pool.submit(self.read, samplings, max_tokens)
            for pins in itertools.islice(itertools.cycle(PLANS[1:] + PLANS[:1]), most):
                with suppress(*but):
                    if not reading.done():
                        self.apply(pins)
            return reading.result()


@contextmanager
def moving(
    store: ModelStore,
    broker: LocalBroker,
    folder: Path,
    names: Sequence[str],
    *node_options: str,
    slots: int = 4,
    model: str = "tiny",
    **settings: Any,
) -> Iterator[tuple[Moving, dict[str, NodeProcess]]]:
    """Nodes that serve a model of the store together; it has four blocks. ``settings``: further ones of the service."""
    config = ServiceConfig(
        broker_url=broker.url, data_dir=folder, models_dir=store.home, timing=_QUICK, wire_dtype="fp32",
        slots=slots, model=model, min_nodes=len(names), **settings,
    )  # fmt: skip
    with ExitStack() as stack:
        watcher = stack.enter_context(MqttBus(as_orchestrator(broker.url), client_id="watcher"))
        watcher.connect()
        watcher.subscribe([PLAN.filter()], qos=1)
        stack.enter_context(running_service(config))
        nodes = stack.enter_context(running_nodes(names, broker.url, folder, "--drain-timeout", "0", *node_options))
        collect(
            watcher,
            lambda events: any(isinstance(e, Delivery) and decode(e.payload, Plan).ring for e in events),
            DEADLINE_S,
        )
        reader = stack.enter_context(patient_client(broker.url))
        operator = stack.enter_context(patient_client(broker.url))
        yield Moving(broker.url, reader, operator), nodes
        logs = [node.log() for node in nodes.values()]
        assert not any("Traceback" in log for log in logs)
