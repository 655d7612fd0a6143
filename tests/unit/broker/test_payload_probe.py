"""The search for a limit that the broker does not announce."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.payload_probe import BUDGET_S, COARSE, PATIENCE_S, PRECISION, PayloadProbe

KNOWN_BYTES, LONGEST_BYTES = 1_200, 1_900_000


class Broker:
    """Passes on what is no longer than its limit; answers the search, and counts what it costs."""

    def __init__(self, limit_bytes: int, *, hangs_up: bool = False, bytes_per_s: float = 1e9) -> None:
        self.limit_bytes = limit_bytes
        self.hangs_up = hangs_up
        self.bytes_per_s = bytes_per_s
        self.now_s = 0.0
        self.sizes: list[int] = []
        self.losses = 0

    def search(self, probe: PayloadProbe) -> int | None:
        while not probe.done:
            for payload in probe.next_messages(self.now_s):
                self.now_s += len(payload) / self.bytes_per_s
                self.sizes.append(len(payload))
                if len(payload) <= self.limit_bytes:
                    assert probe.echo(payload, self.now_s)
                elif self.hangs_up:
                    self.losses += 1
                    probe.connection_lost()
                    break
        return probe.limit_bytes


def new_probe() -> PayloadProbe:
    return PayloadProbe(LONGEST_BYTES, known_bytes=KNOWN_BYTES)


def test_a_broker_without_a_limit_is_asked_a_few_times() -> None:
    broker = Broker(LONGEST_BYTES)
    assert broker.search(new_probe()) is None
    assert [size for size in broker.sizes if size > 100] == [4_096, 16_384, 65_536, 262_144, 1_048_576, LONGEST_BYTES]


@given(limit_bytes=st.integers(KNOWN_BYTES, LONGEST_BYTES - 1))
def test_what_is_dropped_without_a_word_is_found_closely(limit_bytes: int) -> None:
    broker = Broker(limit_bytes)
    found = broker.search(new_probe())
    assert found
    assert found <= limit_bytes < found * PRECISION + 1
    assert len(broker.sizes) < 50


@given(limit_bytes=st.integers(KNOWN_BYTES, LONGEST_BYTES - 1))
def test_a_broker_that_hangs_up_is_not_tried_often(limit_bytes: int) -> None:
    broker = Broker(limit_bytes, hangs_up=True)
    found = broker.search(new_probe())
    assert found
    assert found <= limit_bytes <= found * COARSE + 1
    assert broker.losses <= 4


def test_a_probe_that_the_network_lost_is_no_limit() -> None:
    probe = new_probe()
    for lost in (True, False):
        first, mark = probe.next_messages(0.0)
        if not lost:
            probe.echo(first, 0.0)
        probe.echo(mark, 0.0)
    assert Broker(LONGEST_BYTES).search(probe) is None


def test_a_slow_link_is_not_clogged() -> None:
    broker = Broker(LONGEST_BYTES, bytes_per_s=100_000)
    assert broker.search(new_probe()) is None
    assert broker.now_s < BUDGET_S
    assert max(broker.sizes) == 65_536


def test_without_any_echo_nothing_is_learned() -> None:
    probe = new_probe()
    assert len(probe.next_messages(1.0)) == 2
    assert probe.due_s == 1.0 + PATIENCE_S
    assert probe.next_messages(1.0 + PATIENCE_S / 2) == ()
    assert not probe.done
    assert probe.next_messages(1.0 + PATIENCE_S) == ()
    assert probe.done
    assert probe.limit_bytes is None


def test_nothing_to_be_known() -> None:
    assert PayloadProbe(KNOWN_BYTES, known_bytes=KNOWN_BYTES).done


@pytest.mark.parametrize("payload", [b"", b"rtt 3", b"an activation"])
def test_other_messages_are_left_to_others(payload: bytes) -> None:
    probe = new_probe()
    probe.next_messages(0.0)
    assert not probe.echo(payload, 0.0)
    late = PayloadProbe(LONGEST_BYTES).next_messages(0.0)[1].replace(b"1", b"7")
    assert probe.echo(late, 0.0), "of an earlier search"
    assert not probe.done
