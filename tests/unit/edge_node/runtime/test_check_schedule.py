"""When known answers are repeated."""

import math

from edge_node.runtime.check_schedule import CheckSchedule


def beats(schedule: CheckSchedule, seconds: int, *, begin_s: float = 0.0, wall_s: float = 1e9) -> float:
    """Heartbeats once a second; the time after them."""
    for second in range(seconds):
        schedule.heartbeat(wall_s + second, begin_s + second)
    return begin_s + seconds


def test_an_idle_node_checks_once_in_an_interval() -> None:
    schedule = CheckSchedule(60.0)
    assert not schedule.is_due(0.0, idle=True), "what has just been loaded was checked then"
    beats(schedule, 5)
    assert not schedule.is_due(59.0, idle=True)
    assert schedule.is_due(60.0, idle=True)
    schedule.checked(63.0)
    assert not schedule.is_due(122.0, idle=True)
    assert schedule.is_due(123.0, idle=True)


def test_requests_are_let_by_but_not_for_ever() -> None:
    schedule = CheckSchedule(60.0)
    beats(schedule, 5)
    assert not schedule.is_due(299.0, idle=False)
    assert schedule.is_due(300.0, idle=False)


def test_after_sleep_at_once() -> None:
    for interval_s in (60.0, 0.0):
        schedule = CheckSchedule(interval_s)
        now_s = beats(schedule, 5)
        schedule.heartbeat(1e9 + 19.0, now_s)  # the monotonic clock stood still
        assert schedule.is_due(now_s, idle=False)
        schedule.checked(now_s)
        assert not schedule.is_due(now_s + 1, idle=True)


def test_a_clock_that_is_put_back_is_no_sleep() -> None:
    schedule = CheckSchedule(60.0)
    now_s = beats(schedule, 5)
    schedule.heartbeat(1e9 - 3600.0, now_s)
    assert not schedule.is_due(now_s, idle=True)


def test_an_interval_of_0_is_never_due() -> None:
    schedule = CheckSchedule(0.0)
    beats(schedule, 5)
    assert not schedule.is_due(1e9, idle=True)
    assert not schedule.is_due(math.nextafter(math.inf, 0), idle=False)
