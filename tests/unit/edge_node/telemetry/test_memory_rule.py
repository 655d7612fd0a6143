"""What a node does about its memory, reading by reading."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

import pytest

from edge_node.telemetry.device import memory_budget_bytes
from edge_node.telemetry.memory_rule import RELIEF_INTERVAL_S, WELL_S, MemoryReading, MemoryRule, Verdict

MB = 10**6
QUIET = Verdict()


@dataclass
class Node:
    """One with 400 MB left as it begins, of which it may use 300, and layers of 100 MB."""

    limit_bytes: int | None = None
    resident_bytes: int = 100 * MB
    has_stages: bool = True
    now_s: float = 0.0
    rule: MemoryRule = field(init=False)
    memory_bytes: int = field(init=False)

    def __post_init__(self) -> None:
        budget = functools.partial(memory_budget_bytes, self.limit_bytes)
        self.memory_bytes = budget(self.resident_bytes, 400 * MB)
        self.rule = MemoryRule(budget, self.memory_bytes)

    def reads(self, available_mb: int, stalled_percent: float | None = None, after_s: float = 0.5) -> Verdict:
        self.now_s += after_s
        reading = MemoryReading(available_mb * MB, stalled_percent)
        return self.rule.judge(reading, self.resident_bytes, self.now_s, has_stages=self.has_stages)


def test_a_budget_leaves_a_quarter_of_what_there_is_and_a_hundred_megabytes() -> None:
    assert memory_budget_bytes(None, 50 * MB, 1000 * MB) == 800 * MB
    assert memory_budget_bytes(None, 50 * MB, 300 * MB) == 250 * MB
    assert memory_budget_bytes(None, 50 * MB, 60 * MB) == 50 * MB
    assert memory_budget_bytes(120 * MB, 50 * MB, 300 * MB) == 120 * MB
    assert memory_budget_bytes(400 * MB, 50 * MB, 300 * MB) == 250 * MB


def test_with_enough_there_is_nothing_to_do() -> None:
    node = Node()
    assert {node.reads(mb) for mb in (400, 200, 100, 900)} == {QUIET}


@pytest.mark.parametrize(("available_mb", "stalled_percent"), [(99, None), (400, 20.0)])
def test_short_of_memory_it_lets_go_and_says_what_is_left_then(
    available_mb: int, stalled_percent: float | None
) -> None:
    node = Node()
    assert node.reads(available_mb, stalled_percent) == Verdict(relieve=True)
    assert node.rule.awaits_reading
    assert node.reads(available_mb, stalled_percent) == Verdict(tell=True)
    assert not node.rule.awaits_reading
    assert node.reads(available_mb, stalled_percent) == QUIET
    assert node.reads(available_mb, stalled_percent, after_s=RELIEF_INTERVAL_S) == Verdict(relieve=True)
    assert node.reads(300) == Verdict(tell=True)
    assert node.reads(300) == QUIET


def test_a_reading_from_before_says_nothing_of_what_was_let_go_of() -> None:
    node = Node()
    reading = MemoryReading(5 * MB)
    assert node.rule.judge(reading, 0, 1.0, has_stages=True) == Verdict(relieve=True)
    assert node.rule.judge(reading, 0, 20.0, has_stages=True) == QUIET
    assert node.reads(200) == Verdict(tell=True)


def test_with_hardly_anything_left_it_gives_its_layers_up_unless_letting_go_helped() -> None:
    node = Node()
    assert node.reads(10) == Verdict(relieve=True)
    verdict = node.reads(10)
    assert (verdict.tell, verdict.give_up[:38]) == (True, "its system has 10 MB of memory left, a")
    node.has_stages = False
    assert node.reads(11, after_s=RELIEF_INTERVAL_S).relieve
    assert node.reads(11).give_up == ""


def test_a_smaller_machine_means_a_smaller_budget_until_there_is_more_for_a_while() -> None:
    node = Node()
    assert node.memory_bytes == 400 * MB
    node.resident_bytes = 200 * MB
    assert node.reads(40).relieve
    assert node.reads(40).memory_bytes == 200 * MB
    node.resident_bytes = 100 * MB
    assert node.reads(140) == Verdict(tell=True)
    assert node.reads(140, after_s=60.0).memory_bytes is None, "that is no more than before"
    assert node.reads(290).memory_bytes is None
    assert node.reads(180, after_s=WELL_S).memory_bytes is None, "it did not last"
    assert node.reads(290).memory_bytes is None
    assert node.reads(290, after_s=WELL_S / 2).memory_bytes is None
    assert node.reads(290, after_s=WELL_S / 2).memory_bytes == 290 * MB
    assert node.reads(2000).memory_bytes is None
    assert node.reads(2000, after_s=WELL_S).memory_bytes == 400 * MB, "and never more than it began with"
    assert node.reads(2000, after_s=60.0) == QUIET


def test_over_its_limit_by_a_tenth_it_says_so_and_counts_as_smaller() -> None:
    node = Node(limit_bytes=200 * MB)
    node.resident_bytes = 220 * MB
    assert node.reads(4000) == QUIET
    node.resident_bytes = 250 * MB
    assert node.reads(4000) == Verdict(relieve=True)
    assert node.reads(4000) == Verdict(tell=True, memory_bytes=160 * MB)
    node.has_stages, node.resident_bytes = False, 100 * MB
    assert node.reads(4000) == Verdict(tell=True)
    assert node.reads(4000, after_s=60.0) == QUIET, "its layers would take as much again"


def test_letting_go_may_be_all_it_takes() -> None:
    node = Node(limit_bytes=200 * MB)
    node.resident_bytes = 250 * MB
    assert node.reads(4000).relieve
    node.resident_bytes = 190 * MB
    assert node.reads(4000) == Verdict(tell=True)
