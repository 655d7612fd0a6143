"""An orchestrator's state as a line for people (pure)."""

from __future__ import annotations

from orchestrator.text.figures import progress_text
from schemas.messages import StatusReply


def status_text(status: StatusReply) -> str:
    """What it does, why, and how much of the model's parts nodes have fetched."""
    done_bytes = sum(report.done_bytes for report in status.progress.values())
    total_bytes = sum(report.total_bytes for report in status.progress.values())
    fetched = f", {progress_text(done_bytes, total_bytes)} fetched" if total_bytes else ""
    return f"{status.state}{f': {status.reason}' if status.reason else ''}{fetched}"
