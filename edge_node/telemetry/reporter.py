"""A node's reports: heartbeats when they are due, and beside them a small message to itself that measures the link."""

from __future__ import annotations

import time
from dataclasses import replace

from broker.bus import Bus
from edge_node.core import NodeCore
from edge_node.storage.blob_store import BlobStore
from edge_node.telemetry.battery import BatteryMonitor
from edge_node.telemetry.heartbeat import HeartbeatBuilder
from edge_node.telemetry.memory_guard import MemoryGuard
from edge_node.telemetry.pace import Pace
from edge_node.telemetry.rejections import Rejections
from edge_node.telemetry.round_trip import RoundTripMeter
from edge_node.wire.outbox import Outbox
from schemas.messages import Heartbeat
from schemas.topics import NODE_ECHO, NODE_HEARTBEAT


class Reporter:
    """Says how a node is. Owned by the thread that owns the bus."""

    def __init__(
        self,
        bus: Bus,
        outbox: Outbox,
        core: NodeCore,
        store: BlobStore,
        memory: MemoryGuard,
        battery: BatteryMonitor,
        *,
        interval_s: float,
        rejected: Rejections,
    ) -> None:
        """``interval_s``: between two heartbeats while something happens."""
        self._bus, self._outbox, self._core = bus, outbox, core
        self.link = RoundTripMeter()
        self._pace = Pace(interval_s)
        self._builder = HeartbeatBuilder(core, store, memory, battery, self.link, bus, rejected)
        self._topic, self._echo_topic = (topic.format(node=core.node) for topic in (NODE_HEARTBEAT, NODE_ECHO))

    def stirred(self) -> None:
        """Note that something has happened to the node: reports are more frequent for a while."""
        self._pace.stirred(time.monotonic())

    def due_s(self, now_s: float) -> float:
        """When the next report is due."""
        return self._pace.due_s(now_s, serving=self._core.has_requests)

    def say(self, silent_s: float = 0.0) -> Heartbeat:
        """Publish a heartbeat, and return it; ``silent_s``: the next one may come so late."""
        now_s, serving = time.monotonic(), self._core.has_requests
        beat = self._builder.heartbeat(busy_s=silent_s)
        news = (beat.blob_bytes, beat.standby_bytes, beat.charging)
        next_s = self._pace.said(news, now_s, serving=serving)
        self._outbox.publish(self._topic, replace(beat, next_s=next_s), qos=0)
        return beat

    def measure_link(self) -> None:
        """Send one small message to the node itself, unless one is on its way or nothing happens."""
        now_s = time.monotonic()
        payload = self.link.next_message(now_s, seldom=self._pace.is_quiet(now_s))
        if payload is not None:
            self._bus.publish(self._echo_topic, payload)

    def close(self) -> None:
        """Stop reading what is read beside."""
        self._builder.close()
