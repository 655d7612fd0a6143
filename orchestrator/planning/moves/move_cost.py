"""The cost of a move from a plan that runs to another (pure): segments to be loaded, KV rows to be moved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.planning.cost import predict
from orchestrator.planning.moves.downloads import downloads
from orchestrator.planning.moves.kv_migration import estimate, transfers_between
from orchestrator.planning.problem import Problem, Stage
from orchestrator.planning.solution import Standby

LOAD_BYTES_PER_S = 200e6
"""Opening a segment from blobs on disk."""
LOAD_SHARE = 0.2
"""Of the time in which a node opens a segment beside its work, what the work loses."""
DOWNLOAD_SHARE = 0.05
"""The same of the time in which it downloads."""
COPY_LIMIT_S = 30.0


@dataclass(frozen=True)
class MoveCost:
    """The cost of a move. ``prepare_s``: until everything is loaded and copied, while the old ring works on.

    ``lost_s``: of that time and after it, the time in which readers get nothing.
    """

    prepare_s: float
    lost_s: float


def move_cost(
    problem: Problem,
    running: Sequence[Stage],
    found: Sequence[Stage],
    *,
    positions: int,
    standby: Sequence[Standby] = (),
    rates: Mapping[str, float] | None = None,
) -> MoveCost:
    """Predict a move.

    Args:
        problem: the devices as they are believed to be.
        running: the plan in force.
        found: the plan to move to.
        positions: KV rows of all open requests.
        standby: units that nodes keep ready: they are not downloaded.
        rates: bytes/s of nodes' links as seen in moves; else what the devices say.
    """
    runs = [problem.runs[run] for run in problem.run_of_unit]
    unit_kv_bytes, unit_state_bytes = [run.kv_bytes_per_token for run in runs], [run.state_bytes for run in runs]
    links = {device.name: device.link_bytes_per_s for device in problem.devices} | dict(rates or {})
    migration = estimate(
        transfers_between(running, found, unit_kv_bytes, unit_state_bytes),
        positions,
        links,
        predict(problem, found),
        chunk_tokens=problem.prefill_chunk_tokens,
        limit_s=COPY_LIMIT_S,
    )
    download_s, load_s = _download_s(problem, running, found, standby), _load_s(problem, running, found)
    return MoveCost(
        prepare_s=max(seconds + download_s.get(node, 0.0) for node, seconds in load_s.items())
        + (migration.copy_s if migration.copies else 0.0),
        lost_s=_lost_s(download_s, load_s) + (migration.lost_s if positions else 0.0),
    )


def loading_s(
    problem: Problem, running: Sequence[Stage], found: Sequence[Stage], standby: Sequence[Standby] = ()
) -> float:
    """What readers lose while nodes download and open segments of another plan beside the running one."""
    return _lost_s(_download_s(problem, running, found, standby), _load_s(problem, running, found))


def _lost_s(download_s: Mapping[str, float], load_s: Mapping[str, float]) -> float:
    return LOAD_SHARE * max(load_s.values()) + DOWNLOAD_SHARE * max(download_s.values())


def _download_s(
    problem: Problem, running: Sequence[Stage], found: Sequence[Stage], standby: Sequence[Standby]
) -> dict[str, float]:
    devices = problem.device_by_name
    return {
        node: size_bytes / devices[node].link_bytes_per_s
        for node, size_bytes in downloads(problem, running, found, standby).items()
        if node in devices
    }


def _load_s(problem: Problem, running: Sequence[Stage], found: Sequence[Stage]) -> dict[str, float]:
    """Seconds to open segments, by node of the new plan: stages that changed are opened anew."""
    changed = {stage.node: 0 for stage in found}
    for stage in set(found) - set(running):
        sizes = (problem.runs[problem.run_of_unit[unit]].weight_bytes for unit in range(stage.start, stage.stop))
        changed[stage.node] += sum(sizes)
    return {node: size / LOAD_BYTES_PER_S for node, size in changed.items()}
