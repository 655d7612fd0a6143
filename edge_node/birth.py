"""What a node says of itself when it registers: what it is, what it has, how quick it is at first sight."""

from __future__ import annotations

import platform

import onnxruntime

from edge_node import metrics, probe
from edge_node.config import NodeConfig
from edge_node.store import BlobStore
from schemas import PACKAGE_VERSION, PROTOCOL_VERSION
from schemas.messages import NodeBirth


def birth_of(config: NodeConfig, incarnation: int, *, hop_s: float, memory_bytes: int, store: BlobStore) -> NodeBirth:
    """Measure the speed and say the rest. ``hop_s`` is the time of a message through the broker and back."""
    return NodeBirth(
        node=config.name,
        incarnation=incarnation,
        protocol=PROTOCOL_VERSION,
        package_version=PACKAGE_VERSION,
        memory_bytes=memory_bytes,
        overhead_bytes=metrics.memory_bytes()[0],
        storage_bytes=store.limit_bytes,
        threads=config.threads,
        speed_flops=probe.speed_flops(config.emulated_speed),
        hop_s=hop_s,
        platform=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        onnxruntime=onnxruntime.__version__,
        emulated_speed=config.emulated_speed,
    )
