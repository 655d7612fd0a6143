"""The link's round trip: smoothed, one echo at a time, not while the node computes."""

from __future__ import annotations

import pytest

from edge_node.telemetry.round_trip import PATIENCE_S, WEIGHT, RoundTripMeter


def test_the_first_echo_counts_whole_and_later_ones_by_their_weight() -> None:
    meter = RoundTripMeter()
    for at_s, taken_s in ((0.0, 0.010), (1.0, 0.020)):
        payload = meter.next_message(at_s)
        assert payload
        meter.echo(payload, at_s + taken_s)
    assert meter.rtt_s == pytest.approx(0.010 + WEIGHT * 0.010)


def test_one_echo_at_a_time_and_a_lost_one_is_given_up() -> None:
    meter = RoundTripMeter()
    lost = meter.next_message(0.0)
    assert lost
    assert meter.next_message(1.0) is None
    again = meter.next_message(PATIENCE_S)
    assert again
    meter.echo(lost, PATIENCE_S + 0.5)
    meter.echo(b"an activation of the probe", PATIENCE_S + 0.5)
    assert meter.rtt_s is None
    meter.echo(again, PATIENCE_S + 0.5)
    meter.echo(again, PATIENCE_S + 0.7)
    assert meter.rtt_s == pytest.approx(0.5)


def test_a_sample_beside_work_is_dropped() -> None:
    meter = RoundTripMeter()
    payload = meter.next_message(0.0)
    assert payload
    meter.disturbed = True
    meter.echo(payload, 0.3)
    assert meter.rtt_s is None
    payload = meter.next_message(1.0)
    assert payload
    meter.echo(payload, 1.25)
    assert meter.rtt_s == pytest.approx(0.25)


def test_silence_is_counted_while_an_echo_is_on_its_way() -> None:
    meter = RoundTripMeter()
    assert meter.silent_since_s is None
    meter.next_message(1.0)
    assert meter.silent_since_s == 1.0
    payload = meter.next_message(1.0 + PATIENCE_S)
    assert meter.silent_since_s == 1.0, "asking again is no answer"
    meter.heard(7.0)
    assert meter.silent_since_s == 7.0, "behind much else the echo may take its time"
    assert payload
    meter.echo(payload, 8.0)
    assert meter.silent_since_s is None
    meter.heard(9.0)
    assert meter.silent_since_s is None
