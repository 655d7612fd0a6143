"""What live moves took so far, and what links carried in them (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from orchestrator.deployment.live_migration import LiveMigration, moved_units
from orchestrator.text.figures import megabytes
from schemas.ewma import ewma

LEAST_BYTES = 256 * 1024
"""A smaller copy says more about messages' latency than about a link's rate."""
_WEIGHT = 0.3
"""Of the newest rate in the smoothed one."""


@dataclass(frozen=True, kw_only=True)
class MigrationRecord:
    """One move that ended. ``paused_s`` is from the hold to the switch."""

    from_epoch: str
    to_epoch: str
    units: str
    mode: str
    requests: int
    prepared_s: float
    copied_bytes: int
    copied_s: float
    paused_s: float

    def __str__(self) -> str:
        copied = f"copied {megabytes(self.copied_bytes, 1)} in {self.copied_s:.1f} s"
        return (
            f"moved {self.units}: prepared {self.prepared_s:.1f} s,"
            f" {copied if self.mode == 'copy' else 'KV rows are computed again'}, paused {self.paused_s * 1e3:.0f} ms"
        )


class MigrationLog:
    """Counts, the newest moves, and the rate at which each node sent KV rows, smoothed."""

    def __init__(self) -> None:
        self.done = 0
        self.failed = 0
        self.last: MigrationRecord | None = None
        self.last_failure = ""
        self._rates: dict[str, float] = {}

    def succeeded(self, move: LiveMigration, requests: int, now_s: float) -> MigrationRecord:
        """The switch has been made."""
        plan = move.rollout.plan
        self.done += 1
        self.last = MigrationRecord(
            from_epoch=str(move.running.epoch),
            to_epoch=str(plan.epoch),
            units=moved_units(move.running.ring, plan.ring),
            mode="copy" if move.migration.copies else "prefill",
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
        """The working ring went on."""
        self.failed += 1
        self.last_failure = f"{move.failed_node}: {move.reason}"

    def _learn(self, node: str, rate: float) -> None:
        self._rates[node] = ewma(self._rates.get(node), rate, _WEIGHT)

    def rates(self, measured: Mapping[str, float]) -> dict[str, float]:
        """Bytes/s by node: what was seen in moves, else what was measured; 0 is unknown."""
        return {node: rate for node, rate in {**measured, **self._rates}.items() if rate > 0}

    def view(self) -> dict[str, Any]:
        """What ``linguabus status`` shows; JSON-able."""
        return {
            "done": self.done,
            "failed": self.failed,
            "last": asdict(self.last) if self.last else None,
            "last_failure": self.last_failure,
        }
