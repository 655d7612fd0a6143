"""Scripted nodes that answer token by token at a steady rate, with batteries, heat and times that always change."""

from __future__ import annotations

import math
import random
import time
from dataclasses import replace

from broker.bus import Bus
from schemas.messages import NodeBirth, NodeStatus, OpenRequest, encode
from schemas.topics import NODE_HEARTBEAT, NODE_STATUS
from tests.support.scripted_fleet import ScriptedFleet
from tests.support.scripted_nodes import ScriptedNode, make_heartbeat

_HEARTBEAT_S = 1.0


class PacedFleet(ScriptedFleet):
    """All nodes on one bus; each open request gets a token each ``1 / tokens_per_s``."""

    def __init__(self, bus: Bus, births: list[NodeBirth], *, tokens_per_s: float) -> None:
        super().__init__(bus, births, tokens_per_frame=1)
        self._chance = random.Random(7)
        self._token_s = 1.0 / tokens_per_s
        self._begun: dict[str, tuple[ScriptedNode, OpenRequest, float]] = {}
        """By request: its last stage, and when it began."""
        self._given: dict[str, int] = {}
        """Tokens, by request."""
        beat_s = time.monotonic()
        self._beat_due_s = {name: beat_s + self._chance.random() * _HEARTBEAT_S for name in self.nodes}

    def lose(self, name: str) -> None:
        """A node is gone, as the broker tells of one that was killed."""
        node = self.nodes[name]
        node.alive = False
        gone = NodeStatus(node=name, incarnation=node.birth.incarnation, online=False, reason="connection lost")
        self._bus.publish(NODE_STATUS.format(node=name), encode(gone), qos=1, retain=True)

    def _run(self) -> None:
        while not self._stop.is_set():
            now_s = time.monotonic()
            for node in self.nodes.values():
                if node.alive and now_s >= self._beat_due_s[node.name]:
                    self._beat_due_s[node.name] = now_s + _HEARTBEAT_S
                    self._beat(node, now_s)
            self._give_tokens(now_s)
            self._take_all(self._bus.poll(0.02))

    def _beat(self, node: ScriptedNode, now_s: float) -> None:
        slow = 1.0 + 0.3 * math.sin(now_s / 5 + hash(node.name) % 7)
        stages = tuple(
            replace(stage, decode_s=0.004 * slow, decode_rows=1 + self._chance.random(), open_requests=len(node.open))
            for stage in node.held()
        )
        told = replace(
            make_heartbeat(node.name, node.birth.incarnation),
            stages=stages,
            cpu_percent=40 + 20 * self._chance.random(),
            battery_percent=80 - now_s / 20 % 1,
            charging=False,
            battery_temperature_c=30 + 5 * slow,
            rtt_s=0.002 + 0.002 * self._chance.random(),
        )
        self._bus.publish(NODE_HEARTBEAT.format(node=node.name), encode(told))

    def _answer(self, first: ScriptedNode, opened: OpenRequest) -> None:
        last = self.nodes[first.prepared[opened.epoch][0].ring[-1].node]
        if opened.request in last.open:
            self._begun[opened.request] = (last, last.open[opened.request], time.monotonic())
            self._given[opened.request] = 0

    def _give_tokens(self, now_s: float) -> None:
        for request, (last, opened, begun_s) in list(self._begun.items()):
            if request not in last.open:
                del self._begun[request], self._given[request]
                continue
            given, due = self._given[request], min(opened.max_tokens, int((now_s - begun_s) / self._token_s))
            if due > given:
                self._given[request] = due
                self._tokens(last, opened, opened.prompt_tokens + given)

    def _tokens(self, last: ScriptedNode, opened: OpenRequest, position: int) -> None:
        self.most_tokens = self._given.get(opened.request, 0)
        super()._tokens(last, opened, position)
