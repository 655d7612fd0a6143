"""The figures of decision 19: how far right and wrong conversions of tiny models are from their sources.

``python -m tests.support.parity_table``; it takes two minutes.
"""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
from pathlib import Path

import pytest

from orchestrator.model import convert
from orchestrator.model.errors import WrongConversion
from orchestrator.model.parity_report import ParityReport
from orchestrator.model.precision import PRECISIONS
from orchestrator.model.store import ModelStore
from orchestrator.text.table import table
from tests.support.in_process import converting_here, run_here
from tests.support.tiny_models import FAMILIES, MORE_FAMILIES, make_checkpoint
from tests.support.wrong_conversions import WRONG, Run, building_wrongly

HEADINGS = ("conversion", "precision", "unit", "structure", "rope / limit", "norms", "logits", "same token")


def figures(folder: Path, name: str, family: str, precision: str, run: Run) -> ParityReport:
    """What is found when a family is converted, whatever it is judged to be."""
    seen: list[ParityReport] = []
    judge = ParityReport.problems

    def problems(report: ParityReport) -> list[str]:
        seen.append(report)
        return judge(report)

    checkpoint = folder / family
    with pytest.MonkeyPatch.context() as patch, converting_here(), contextlib.redirect_stdout(io.StringIO()):
        patch.setattr(ParityReport, "problems", problems)
        patch.setattr(convert, "run_module", run)
        if not checkpoint.exists():
            make_checkpoint(family, checkpoint)
        with contextlib.suppress(WrongConversion):
            # In a store of its own, as one that has the model already would not convert it.
            ModelStore(folder / f"{name} {precision}").add(str(checkpoint), precision=precision)
    return seen[-1]


def rows(folder: Path) -> list[tuple[str, ...]]:
    """The largest figures of all right ones in each precision, and those of each wrong one."""
    found = []
    for precision in PRECISIONS:
        right = [figures(folder, f, f, precision, run_here) for f in FAMILIES | MORE_FAMILIES]
        found.append(_row(f"{len(right)} right ones", precision, right))
    for name, (family, change, _) in WRONG.items():
        for precision in ("int4", "fp32"):
            report = figures(folder, name, family, precision, building_wrongly(change))
            found.append(_row(name, precision, [report]))
    return found


def _row(name: str, precision: str, reports: list[ParityReport]) -> tuple[str, ...]:
    def largest(field: str) -> str:
        return f"{max(getattr(report, field) or 0.0 for report in reports):.2g}"

    fields = ("unit_difference", "structure_difference", "rope_difference", "vectors_difference", "logits_difference")
    same = min(report.argmax_agreement for report in reports)
    return (name, precision, *(largest(field) for field in fields), f"{same:.0%}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place, contextlib.redirect_stderr(io.StringIO()):
        text = table(HEADINGS, rows(Path(place)))
    sys.stdout.write(text + "\n")
