"""A first measurement of the node: how fast it multiplies, how long a message takes through the broker."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np

from broker.bus import Bus, Delivery, Event
from schemas.topics import LONGEST_TOPIC_BYTES

_MATRIX_SIZE = 2048
_REPEATS = 12
_HOP_MESSAGES = 15
HOP_BYTES = 1200
"""About one hidden state of a small model."""
_HOP_TIMEOUT_S = 2.0
_FALLBACK_HOP_S = 0.01


def speed_flops(emulated_speed: float) -> float:
    """Multiply-adds x 2 per second of a matrix-vector product, which decoding consists of.

    The matrix is larger than a phone's cache, so that memory bandwidth counts as it does in decoding.
    """
    generator = np.random.default_rng(0)
    matrix = generator.standard_normal((_MATRIX_SIZE, _MATRIX_SIZE), dtype=np.float32)
    vector = generator.standard_normal(_MATRIX_SIZE, dtype=np.float32)
    times_s = []
    for _ in range(_REPEATS):
        started = time.perf_counter()
        matrix @ vector
        times_s.append(time.perf_counter() - started)
    return 2 * _MATRIX_SIZE**2 / statistics.median(times_s) * emulated_speed


def hop_s(bus: Bus, topic: str, keep: Callable[[Event], None]) -> float:
    """Median time of a message from this node through the broker to this node.

    Args:
        topic: subscribed by this bus already, used by nobody else.
        keep: is given every other event that arrives meanwhile.
    """
    times_s = []
    payload = bytes(max(0, min(HOP_BYTES, bus.max_payload_bytes - LONGEST_TOPIC_BYTES)))
    for _ in range(_HOP_MESSAGES):
        started = time.perf_counter()
        bus.publish(topic, payload)
        if not _await_echo(bus, topic, keep, started + _HOP_TIMEOUT_S):
            break
        times_s.append(time.perf_counter() - started)
    return statistics.median(times_s) if times_s else _FALLBACK_HOP_S


def _await_echo(bus: Bus, topic: str, keep: Callable[[Event], None], deadline_s: float) -> bool:
    while (left_s := deadline_s - time.perf_counter()) > 0:
        arrived = False
        for event in bus.poll(left_s):
            if isinstance(event, Delivery) and event.topic == topic:
                arrived = True
            else:
                keep(event)
        if arrived:
            return True
    return False
