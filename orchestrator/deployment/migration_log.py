"""The log of live moves: what they took so far, and what links carried in them (pure)."""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.deployment.live_migration import LiveMigration, moved_units
from orchestrator.text.figures import megabytes
from schemas.ewma import ewma
from schemas.messages import MoveRecord, MovesView

LEAST_BYTES = 256 * 1024
"""A smaller copy says more about messages' latency than about a link's rate."""
_WEIGHT = 0.3
"""Of the newest rate in the smoothed one."""


def describe_move(move: MoveRecord) -> str:
    """A move for people."""
    copied = f"copied {megabytes(move.copied_bytes, 1)} in {move.copied_s:.1f} s"
    return (
        f"moved {move.units}: prepared {move.prepared_s:.1f} s,"
        f" {copied if move.mode == 'copy' else 'KV rows are computed again'}, paused {move.paused_s * 1e3:.0f} ms"
    )


class MigrationLog:
    """Counts of moves, the newest ones, and the smoothed rate at which each node sent KV rows."""

    def __init__(self) -> None:
        self.done = 0
        self.failed = 0
        self.last: MoveRecord | None = None
        self.last_failure = ""
        self._rates: dict[str, float] = {}

    def succeeded(self, move: LiveMigration, requests: int, now_s: float) -> MoveRecord:
        """Record a move whose switch has been made."""
        plan = move.rollout.plan
        self.done += 1
        self.last = MoveRecord(
            from_epoch=str(move.running.epoch),
            to_epoch=str(plan.epoch),
            units=moved_units(move.running.ring, plan.ring),
            mode=move.migration.mode,
            requests=requests,
            prepared_s=move.rollout.took_s,
            copied_bytes=move.copied_bytes,
            copied_s=move.copied_s,
            paused_s=move.paused_s(now_s) if move.is_holding else 0.0,
        )
        for stage, report in move.caught_up.items():
            if report.sent_bytes >= LEAST_BYTES and report.took_s > 0:
                self._learn(move.running.nodes[stage], report.sent_bytes / report.took_s)
        return self.last

    def gave_up(self, move: LiveMigration) -> None:
        """Record a move that was given up, so that the working ring goes on."""
        self.failed += 1
        self.last_failure = f"{move.failed_node}: {move.reason}"

    def _learn(self, node: str, rate: float) -> None:
        self._rates[node] = ewma(self._rates.get(node), rate, _WEIGHT)

    def rates(self, measured: Mapping[str, float]) -> dict[str, float]:
        """Bytes/s by node: the rate seen in moves, else the one measured; nodes of unknown rate (0) are left out."""
        return {node: rate for node, rate in {**measured, **self._rates}.items() if rate > 0}

    def view(self, now: LiveMigration | None) -> MovesView:
        """What ``linguabus status`` shows; ``now``: the move under way."""
        return MovesView(
            now=now.view() if now else None,
            done=self.done,
            failed=self.failed,
            last=self.last,
            last_failure=self.last_failure,
        )
