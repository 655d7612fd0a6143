"""Scripted nodes behind a bus, in a thread: enough of a fleet to try the orchestrator's service without models."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Any, Self

from broker.bus import Bus, Delivery, Event
from orchestrator.model.manifest import Manifest
from schemas.codec import Dtype, Flag, Frame, Kind, encode_frame, request_number
from schemas.errors import ContractError
from schemas.messages import (
    NodeBirth,
    NodeStatus,
    OpenRequest,
    Plan,
    PrepareSegment,
    RegisterAgain,
    ResendTokens,
    WireDtype,
    decode,
    encode,
)
from schemas.topics import NODE_BIRTH, NODE_COMMAND, NODE_HEARTBEAT, NODE_REPLY, NODE_STATUS, PLAN, TOKEN
from tests.support.scripted_nodes import EOS, Letters, ScriptedNode, letter, make_heartbeat, make_manifest

_HEARTBEAT_S = 0.1


class TinyStore:
    """Stands in for a `ModelStore`: models without weights."""

    def __init__(self, *manifests: Manifest) -> None:
        self.models = {manifest.name: manifest for manifest in manifests or (make_manifest(),)}
        self.active: str | None = next(iter(self.models))
        self.held: set[str] = set()
        self.wire: WireDtype = "fp16"

    @contextlib.contextmanager
    def in_use(self, name: str) -> Iterator[None]:
        self.held.add(name)
        try:
            yield
        finally:
            self.held.remove(name)

    def open(self, name: str) -> Any:
        return SimpleNamespace(
            manifest=self.models[name], tokenizer=Letters, segment=self._segment, wire=self.wire,
            tokenizer_path=Path("no tokenizer.json"),
        )  # fmt: skip

    def known_answers(self, model: Any) -> Any:
        return SimpleNamespace(of=lambda start, stop: SimpleNamespace(sha256=f"{start:032x}{stop:032x}", size_bytes=1))

    def use(self, name: str) -> None:
        self.active = name

    @staticmethod
    def _segment(start: int, stop: int, *, wire: str, positions: int | None = None) -> Any:
        graph = SimpleNamespace(sha256=f"{start:032x}{stop:032x}", size_bytes=stop - start)
        layers = tuple(range(max(start - 1, 0), min(stop - 1, 4)))
        return SimpleNamespace(graph=graph, blobs=(graph,), layers=layers, width_in=64 if start else None, width_out=64)


class ScriptedFleet:
    """All nodes of a test on one bus. The last stage answers a request at once with ``tokens_per_frame`` at a time."""

    def __init__(self, bus: Bus, births: list[NodeBirth], *, tokens_per_frame: int = 4) -> None:
        self.nodes = {birth.node: ScriptedNode(birth) for birth in births}
        self.mute_tokens = False
        """Lose token frames until somebody asks for them again."""
        self.most_tokens: int | None = None
        """No answer comes further than this."""
        self.text: str | None = None
        """What each answer says before it ends; None: letters, as many as may come."""
        self.tells_stages = False
        """Heartbeats say what the nodes hold, so that another start of the orchestrator can adopt it."""
        self._tokens_per_frame = tokens_per_frame
        self._bus = bus
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="scripted nodes")

    def __enter__(self) -> Self:
        self._bus.subscribe([NODE_COMMAND.filter(), PLAN.filter()], qos=1)
        for node in self.nodes.values():
            self._register(node)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._bus.wake()
        self._thread.join()
        self._bus.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            for node in self.nodes.values():
                if node.alive:
                    beat = make_heartbeat(node.name, node.birth.incarnation)
                    if self.tells_stages:
                        beat = replace(beat, stages=node.held())
                    self._bus.publish(NODE_HEARTBEAT.format(node=node.name), encode(beat))
            self._take_all(self._bus.poll(_HEARTBEAT_S))

    def _take_all(self, events: Sequence[Event]) -> None:
        for event in events:
            if isinstance(event, Delivery):
                with contextlib.suppress(ContractError):
                    self._take(event)

    def _register(self, node: ScriptedNode) -> None:
        online = NodeStatus(node=node.name, incarnation=node.birth.incarnation, online=True)
        self._bus.publish(NODE_BIRTH.format(node=node.name), encode(node.birth), qos=1, retain=True)
        self._bus.publish(NODE_STATUS.format(node=node.name), encode(online), qos=1, retain=True)

    def _take(self, event: Delivery) -> None:
        if PLAN.match(event.topic):
            plan = decode(event.payload, Plan)
            for node in self.nodes.values():
                node.follow(plan)
            return
        place = NODE_COMMAND.match(event.topic)
        assert place
        node = self.nodes.get(place["node"])
        command = decode(event.payload, *NODE_COMMAND.messages)
        if node is None or not node.alive:
            return
        if isinstance(command, RegisterAgain):
            self._register(node)
        for reply in node.react(command):
            self._bus.publish(NODE_REPLY.format(node=node.name), encode(reply), qos=1)
        if isinstance(command, OpenRequest) and command.prompt_ids is not None:
            self._answer(node, command)
        if isinstance(command, ResendTokens) and command.request in node.open:
            self._tokens(node, node.open[command.request], command.position)

    def _answer(self, first: ScriptedNode, opened: OpenRequest) -> None:
        """Stage 0, which is opened last, has the prompt: the ring runs to the end at once."""
        assert opened.prompt_ids is not None
        last = self.nodes[first.prepared[opened.epoch][0].ring[-1].node]
        if not self.mute_tokens and opened.request in last.open:
            self._tokens(last, last.open[opened.request], len(opened.prompt_ids))

    def _tokens(self, last: ScriptedNode, opened: OpenRequest, position: int) -> None:
        ring = next(iter(last.prepared[opened.epoch].values())).ring
        begin, said = opened.prompt_tokens, self.text
        end = begin + opened.max_tokens
        last_flag = Flag.LENGTH
        if said is not None and len(said) < opened.max_tokens:
            end, last_flag = begin + len(said) + 1, Flag.STOP
        stop = end if self.most_tokens is None else min(end, begin + self.most_tokens)
        topic = TOKEN.format(pipeline=opened.pipeline, epoch=opened.epoch, sender=last.name, receiver=ring[0].node)
        for start in range(position, stop, self._tokens_per_frame):
            places = range(start, min(start + self._tokens_per_frame, stop))
            ids = [letter(p) if said is None else _token(said, p - begin) for p in places]
            frame = Frame(
                kind=Kind.TOKENS,
                request=request_number(opened.request),
                epoch=opened.epoch,
                attempt=0,
                position=start,
                count=len(ids),
                dtype=Dtype.INT32,
                flags=last_flag if start + len(ids) == end else Flag.NONE,
                payload=b"".join(token.to_bytes(4, "little") for token in ids),
            )
            self._bus.publish(topic, encode_frame(frame))


def _token(text: str, place: int) -> int:
    return ord(text[place]) if place < len(text) else EOS


def prepared(fleet: ScriptedFleet) -> list[PrepareSegment]:
    """Segments that the fleet's nodes hold."""
    epochs = [stages for node in fleet.nodes.values() for stages in node.prepared.values()]
    return [segment for stages in epochs for segment in stages.values()]
