"""What a node tells of itself in every heartbeat: its process, its device, its link, its stages."""

from __future__ import annotations

import time

from edge_node.core import NodeCore
from edge_node.storage.blob_store import BlobStore
from edge_node.telemetry import device
from edge_node.telemetry.battery import BatteryMonitor
from edge_node.telemetry.rejections import Rejections
from edge_node.telemetry.round_trip import RoundTripMeter
from schemas.messages import Heartbeat


class HeartbeatBuilder:
    """Makes heartbeats. What the device does not show is None in them."""

    def __init__(
        self,
        *,
        node: str,
        incarnation: int,
        store: BlobStore,
        link: RoundTripMeter,
        rejected: Rejections,
        battery: BatteryMonitor,
    ) -> None:
        self._node = node
        self._incarnation = incarnation
        self._store = store
        self._link, self._rejected = link, rejected
        self._cpu = device.CpuMeter()
        self._battery = battery
        self._started_s = time.monotonic()

    def heartbeat(self, core: NodeCore, reconnects: int, *, busy_s: float) -> Heartbeat:
        """The heartbeat of this moment; ``busy_s``: the next may come so late."""
        rss_bytes, peak_rss_bytes = device.memory_bytes()
        battery = self._battery.read()
        return Heartbeat(
            node=self._node,
            incarnation=self._incarnation,
            uptime_s=time.monotonic() - self._started_s,
            rss_bytes=rss_bytes,
            peak_rss_bytes=peak_rss_bytes,
            available_bytes=device.available_bytes(),
            blob_bytes=self._store.used_bytes(),
            standby_bytes=self._store.standby_bytes(),
            cpu_percent=self._cpu.percent(),
            battery_percent=battery.percent if battery else None,
            charging=battery.charging if battery else None,
            temperature_c=device.temperature_c(),
            battery_temperature_c=battery.temperature_c if battery else None,
            rtt_s=self._link.rtt_s,
            stages=core.metrics(),
            frames_rejected=self._rejected.total,
            frames_dropped=core.total_frames_dropped,
            reconnects=reconnects,
            busy_s=busy_s,
        )
