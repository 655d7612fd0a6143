"""What a node tells of itself in every heartbeat: its process, its device, its link, its stages, what it costs."""

from __future__ import annotations

import time

from broker.bus import Bus
from edge_node.core import NodeCore
from edge_node.storage.blob_store import BlobStore
from edge_node.telemetry import device
from edge_node.telemetry.battery import BatteryMonitor
from edge_node.telemetry.memory_guard import MemoryGuard
from edge_node.telemetry.reading import Reading
from edge_node.telemetry.rejections import Rejections
from edge_node.telemetry.round_trip import RoundTripMeter
from schemas.messages import Heartbeat

_TEMPERATURE_INTERVAL_S = 5.0


class HeartbeatBuilder:
    """Makes heartbeats. What the device does not show is None in them."""

    def __init__(
        self,
        core: NodeCore,
        store: BlobStore,
        memory: MemoryGuard,
        battery: BatteryMonitor,
        link: RoundTripMeter,
        bus: Bus,
        rejected: Rejections,
    ) -> None:
        self._core = core
        self._store = store
        self._bus = bus
        self._memory = memory
        self._link, self._rejected = link, rejected
        self._cpu = device.CpuMeter()
        self._battery = battery
        self._temperature_c: Reading[float | None] = Reading(
            device.temperature_c, None, name="temperature", every_s=_TEMPERATURE_INTERVAL_S
        )
        self._started_s = time.monotonic()

    def heartbeat(self, *, busy_s: float) -> Heartbeat:
        """The heartbeat of this moment; ``busy_s``: the next may come so late."""
        core, stats = self._core, self._bus.stats
        rss_bytes, peak_rss_bytes = device.memory_bytes()
        battery, memory = self._battery.read(), self._memory.reading
        return Heartbeat(
            node=core.node,
            incarnation=core.incarnation,
            uptime_s=time.monotonic() - self._started_s,
            rss_bytes=rss_bytes,
            peak_rss_bytes=peak_rss_bytes,
            available_bytes=memory.available_bytes,
            memory_stalled_percent=memory.stalled_percent,
            blob_bytes=self._store.used_bytes(),
            standby_bytes=self._store.standby_bytes(),
            cpu_percent=self._cpu.percent(),
            battery_percent=battery.percent if battery else None,
            charging=battery.charging if battery else None,
            temperature_c=self._temperature_c.value,
            battery_temperature_c=battery.temperature_c if battery else None,
            rtt_s=self._link.rtt_s,
            stages=core.metrics(),
            frames_rejected=self._rejected.total,
            frames_dropped=core.total_frames_dropped,
            reconnects=stats.reconnects,
            busy_s=busy_s,
            sent_bytes=stats.wire_out,
            received_bytes=stats.wire_in + self._store.fetched_bytes,
            tokens=core.tokens,
        )

    def close(self) -> None:
        """Read nothing more."""
        self._temperature_c.close()
