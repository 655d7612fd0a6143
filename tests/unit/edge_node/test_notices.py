"""What the owner of a node reads in its terminal."""

from __future__ import annotations

from edge_node.notices import Notices
from schemas.messages import Epoch, Plan, StageRef


def plan(*ring: tuple[str, int, int], pipeline: str = "main") -> Plan:
    return Plan(
        pipeline=pipeline, epoch=Epoch(generation=1, counter=1), model="tiny", context_tokens=64, slots=1,
        wire_dtype="fp32", ring=tuple(StageRef(node=node, start=start, stop=stop) for node, start, stop in ring),
    )  # fmt: skip


def test_a_line_for_each_change_and_none_for_what_others_do() -> None:
    told: list[str] = []
    notices = Notices("a", told.append)
    notices.registered()
    notices.registered()
    notices.plan(plan(("b", 0, 8)))
    notices.plan(plan(("a", 0, 3), ("b", 3, 8)))
    notices.plan(plan(("a", 0, 3), ("c", 3, 8)))
    notices.registered()
    notices.plan(plan(("a", 0, 3), ("c", 3, 7), ("a", 7, 8)))
    notices.plan(plan(pipeline="second"))
    notices.plan(plan())
    assert told == [
        "registered: it waits for layers",
        "runs embed, blocks 0-1 of tiny",
        "runs embed, blocks 0-1 and head of tiny",
        "it has no layers now",
    ]


def test_two_pipelines() -> None:
    told: list[str] = []
    notices = Notices("a", told.append)
    notices.plan(plan(("a", 0, 8)))
    notices.plan(plan(("b", 0, 1), ("a", 1, 3), ("b", 3, 8), pipeline="second"))
    assert told[-1] == "runs embed, blocks 0-5, head of tiny; blocks 0-1 of tiny"
