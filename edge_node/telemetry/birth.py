"""The birth message of a node that registers: what it is, what it has, how quick it is at first sight."""

from __future__ import annotations

import platform
import secrets
from collections.abc import Callable
from dataclasses import replace

import onnxruntime

from broker.bus import Bus, Event
from edge_node.config import NodeConfig
from edge_node.storage.blob_store import BlobStore
from edge_node.telemetry import device, startup_benchmark
from edge_node.telemetry.memory_guard import MemoryGuard
from edge_node.telemetry.message_limit import MessageLimit
from schemas import PACKAGE_VERSION, PROTOCOL_VERSION
from schemas.messages import NodeBirth
from schemas.topics import NODE_ECHO


def new_incarnation() -> int:
    """A random number for this start of the node. No clock, for many devices have none that goes on without power."""
    return secrets.randbits(52)


def renewed(birth: NodeBirth, max_message_bytes: int, memory: MemoryGuard, store: BlobStore) -> NodeBirth:
    """The birth with what may have changed since."""
    return replace(
        birth,
        max_message_bytes=max_message_bytes,
        memory_bytes=memory.memory_bytes,
        memory_is_limited=memory.is_limited,
        storage_bytes=store.limit_bytes,
    )


def birth_of(
    config: NodeConfig,
    incarnation: int,
    memory: MemoryGuard,
    store: BlobStore,
    bus: Bus,
    limit: MessageLimit,
    keep: Callable[[Event], None],
) -> NodeBirth:
    """Make the birth message: measure the speed, then the way through the broker (an idle processor is slow).

    Args:
        bus: connected, subscribed to the node's echo.
        limit: the broker's message limit, which is looked for here.
        keep: is given every other event that arrives meanwhile.
    """
    speed_flops = startup_benchmark.speed_flops(config.emulated_speed)
    hop_s = startup_benchmark.hop_s(bus, NODE_ECHO.format(node=config.name), keep)
    limit.find(keep)
    return NodeBirth(
        node=config.name,
        incarnation=incarnation,
        protocol=PROTOCOL_VERSION,
        package_version=PACKAGE_VERSION,
        memory_bytes=memory.memory_bytes,
        memory_is_limited=memory.is_limited,
        overhead_bytes=device.resident_bytes(),
        storage_bytes=store.limit_bytes,
        threads=config.threads,
        speed_flops=speed_flops,
        hop_s=hop_s,
        platform=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        onnxruntime=onnxruntime.__version__,
        emulated_speed=config.emulated_speed,
        max_message_bytes=limit.max_message_bytes,
    )
