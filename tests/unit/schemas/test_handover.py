"""Who goes on from whom, and what has to travel."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from schemas.handover import KvCopy, heirs, kv_copies, unchanged
from schemas.messages import StageRef

UNITS = 12


def ring(*stages: tuple[str, int, int]) -> tuple[StageRef, ...]:
    return tuple(StageRef(node=node, start=start, stop=stop) for node, start, stop in stages)


@st.composite
def rings(draw: st.DrawFn) -> tuple[StageRef, ...]:
    nodes = draw(st.lists(st.sampled_from("abcde"), min_size=1, max_size=4, unique=True))
    cuts = sorted(
        draw(st.lists(st.integers(1, UNITS - 1), min_size=len(nodes) - 1, max_size=len(nodes) - 1, unique=True))
    )
    bounds = [0, *cuts, UNITS]
    stages = [StageRef(node=node, start=bounds[i], stop=bounds[i + 1]) for i, node in enumerate(nodes)]
    if len(stages) > 1 and draw(st.booleans()) and stages[-1].start < UNITS - 1:
        last = stages.pop()
        cut = draw(st.integers(last.start + 1, UNITS - 1))
        stages += [StageRef(node=last.node, start=last.start, stop=cut)]
        stages += [StageRef(node=stages[0].node, start=cut, stop=UNITS)]
    return tuple(stages)


def test_a_boundary_moves_between_two_nodes() -> None:
    old, new = ring(("a", 0, 4), ("b", 4, 8), ("c", 8, 12)), ring(("a", 0, 4), ("b", 4, 6), ("c", 6, 12))
    assert heirs(old, new) == {0: 0, 1: 1, 2: 2}
    assert kv_copies(old, new, UNITS) == (KvCopy(source=1, target=2, start=6, stop=8),)
    assert unchanged(old, new) == {0: 0}


def test_embedding_and_head_have_no_rows() -> None:
    old, new = ring(("a", 0, 1), ("b", 1, 12)), ring(("b", 0, 11), ("a", 11, 12))
    assert kv_copies(old, new, UNITS) == ()
    assert heirs(old, new) == {0: 1, 1: 0}


def test_a_node_with_both_ends_keeps_each_stage_apart() -> None:
    old, new = ring(("a", 0, 3), ("b", 3, 10), ("a", 10, 12)), ring(("a", 0, 4), ("b", 4, 9), ("a", 9, 12))
    assert heirs(old, new) == {0: 0, 1: 1, 2: 2}
    assert kv_copies(old, new, UNITS) == (KvCopy(1, 0, 3, 4), KvCopy(1, 2, 9, 10))


def test_one_stage_has_one_heir() -> None:
    old, new = (
        ring(
            ("a", 0, 12),
        ),
        ring(("a", 0, 4), ("b", 4, 8), ("a", 8, 12)),
    )
    assert heirs(old, new) == {0: 0}
    assert kv_copies(old, new, UNITS) == (KvCopy(0, 1, 4, 8), KvCopy(0, 2, 8, 11))


@given(rings(), rings())
def test_every_block_is_inherited_or_copied_exactly_once(old: tuple[StageRef, ...], new: tuple[StageRef, ...]) -> None:
    inherited = heirs(old, new)
    copies = kv_copies(old, new, UNITS)
    assert len(set(inherited.values())) == len(inherited)
    for unit in range(1, UNITS - 1):
        (target,) = (index for index, stage in enumerate(new) if stage.start <= unit < stage.stop)
        (source,) = (index for index, stage in enumerate(old) if stage.start <= unit < stage.stop)
        came = [copy for copy in copies if copy.target == target and copy.start <= unit < copy.stop]
        assert len(came) + (inherited.get(target) == source) == 1
        assert all(copy.source == source for copy in came)
