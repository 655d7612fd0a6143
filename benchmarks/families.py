"""Every family of models as a tiny random one: added as `linguabus model add` does, compared with transformers, cut.

A family is supported if its rows hold. ``--table FILE`` makes the table of docs/models.md from the JSON of a run.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import Result, main, note

from orchestrator.model.differences import relative_differences
from orchestrator.model.errors import UnsupportedModel
from orchestrator.model.families.table import INSTEAD, SUPPORTED
from orchestrator.model.model import Model
from orchestrator.model.parity_report import LIMITS
from orchestrator.model.store import ModelStore
from orchestrator.model.verify import Chain, compare_runs, verify
from tests.support.family_checkpoints import ROWS, make_family, silence, source_logits
from tests.support.in_process import converting_here
from tests.support.tiny_models import VOCABULARY

TEXT = [3 + (5 + 11 * i) % (VOCABULARY - 3) for i in range(96)]
PREFILLS, DECODED = (40, 9), 47
"""Longer than the windows (24) and than what scaled rotary embeddings were trained with (64)."""
FP32_LIMIT = 1e-4
QUICK = "Llama 2"
HEADINGS = {
    "fp32": "fp32",
    "int8 fast": "int8, fast",
    "int8 exact": "int8, exact",
    "int4 fast": "same token, int4, fast",
    "int4 exact": "same token, int4, exact",
    "int4 block": "worst block of int4",
    "cut": "cuts that change a bit",
    "steady": "runs that change a bit in steady",
}


@dataclass(frozen=True)
class FamilyResult(Result):
    """One figure of one row.

    Attributes:
        row: of the table.
        figure: a key of HEADINGS, or "refused".
        said: the line that a family which is not supported is refused with.
    """

    row: str = ""
    architecture: str = ""
    figure: str = ""
    said: str = ""


def measure(quick: bool, only: str | None) -> list[Result]:
    """Differences from transformers, and from the unsplit model, of each family."""
    names = [name for name in ROWS if only in (None, name)]
    if not names:
        raise ValueError(f"no row {only!r}; there are {', '.join(ROWS)}")
    if quick and only is None:
        names = [QUICK]
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as folder, converting_here():
        for number, name in enumerate(names):
            note(f"{number + 1} of {len(names)}: {name}")
            results += _row(name, Path(folder) / str(number), quick)
        if only is None:
            results += [_refusal(architecture, Path(folder) / architecture) for architecture in INSTEAD]
    return results


def _row(name: str, folder: Path, quick: bool) -> Iterator[Result]:
    row, architecture = ROWS[name], ROWS[name].model_class

    def result(figure: str, value: float, unit: str, at_most: float | None = None) -> FamilyResult:
        label = f"{name}: {HEADINGS[figure]}"
        return FamilyResult(label, value, unit, None, None, at_most, name, architecture, figure)

    with silence():
        checkpoint = make_family(name, folder / "checkpoint")
        expected = source_logits(name, checkpoint, TEXT[: row.context])
        store = ModelStore(folder / "home")
        models = {precision: _added(store, checkpoint, precision) for precision in ("fp32", "int8", "int4")}
    assert models["fp32"].manifest.max_context == row.context
    yield result("fp32", _largest(models["fp32"], expected, "fast"), "of logits", at_most=FP32_LIMIT)
    for profile in ("fast", "exact"):
        value = _largest(models["int8"], expected, profile)
        yield result(f"int8 {profile}", value, "of logits", at_most=LIMITS["int8"].logits)
    for profile in ("fast", "exact"):
        yield result(f"int4 {profile}", _same_tokens(models["int4"], expected, profile), "of rows")
    report = store.compared(models["int4"].manifest.name)
    assert report is not None
    unit = report.unit_difference
    yield result("int4 block", float("inf") if unit is None else unit, "of its change", at_most=LIMITS["int4"].unit)
    precisions = ("int4",) if quick else ("fp32", "int8", "int4")
    yield result("cut", sum(_changed_by_cuts(models[p]) for p in precisions), "cuts", at_most=0)
    if models["fp32"].manifest.folds_positions:
        return  # refused in steady
    changed = [p for p in precisions if not compare_runs(models[p], TEXT[:40], profile="steady").bitwise_equal]
    yield result("steady", len(changed), "precisions", at_most=0)


def _added(store: ModelStore, checkpoint: Path, precision: str) -> Model:
    return store.open(store.add(str(checkpoint), precision, precision=precision).name)


def _logits(model: Model, profile: str, tokens: int) -> Any:
    """Of two prefills and then one token at a time [S, V]."""
    import numpy as np

    chain = Chain(model, (), profile)
    ends = [PREFILLS[0], sum(PREFILLS), *range(sum(PREFILLS) + 1, sum(PREFILLS) + DECODED + 1)]
    rows, start = [], 0
    for end in (end for end in ends if end <= tokens):
        rows.append(chain.run(TEXT[start:end], range(end - start)))
        start = end
    return np.concatenate(rows)


def _largest(model: Model, expected: Any, profile: str) -> float:
    return float(relative_differences(_logits(model, profile, len(expected)), expected).max())


def _same_tokens(model: Model, expected: Any, profile: str) -> float:
    return float((_logits(model, profile, len(expected)).argmax(-1) == expected.argmax(-1)).mean())


def _changed_by_cuts(model: Model) -> int:
    """How many ways of cutting, in two, three and all units, change a bit in either profile."""
    units = model.manifest.num_units
    ways: tuple[list[int] | None, ...] = ([units // 2], [units // 3, 2 * units // 3], None)
    found = [verify(model, cuts, TEXT[:40], profile=profile) for cuts in ways for profile in ("fast", "exact")]
    return sum(not verification.bitwise_equal for verification in found)


def _refusal(architecture: str, folder: Path) -> FamilyResult:
    """What a checkpoint that is not supported is refused with: one line, before its weights are looked at."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"architectures": [architecture]}), "utf-8")
    (folder / "model.safetensors").write_bytes(b"")
    said = ""
    try:
        ModelStore(folder / "home").add(str(folder), precision="int4")
    except UnsupportedModel as error:
        said = str(error)
    lines = len(said.splitlines())
    label = f"{architecture}: refused"
    return FamilyResult(label, lines, "line", None, 1, 1, architecture, architecture, "refused", said)


def table(document: dict[str, Any]) -> str:
    """The table of docs/models.md from the JSON object of a run."""
    rows: dict[str, dict[str, Any]] = {}
    for result in document["results"]:
        rows.setdefault(result["row"], {})[result["figure"]] = result
    certified = {name: figures for name, figures in rows.items() if "refused" not in figures}
    lines = [
        "| family | architecture | fp32 | int8, fast / exact | same token, int4, fast / exact | worst block of int4 |",
        "|---|---|---|---|---|---|",
    ]
    for name, figures in certified.items():
        value = {figure: result["value"] for figure, result in figures.items()}
        lines.append(
            f"| {name} | {figures['fp32']['architecture']} | {value['fp32']:.1g}"
            f" | {value['int8 fast']:.2g} / {value['int8 exact']:.2g}"
            f" | {value['int4 fast']:.0%} / {value['int4 exact']:.0%} | {value['int4 block']:.2g} |"
        )
    lines += ["", "| not supported | because, and what to take |", "|---|---|"]
    for name, figures in rows.items():
        if "refused" in figures:
            lines.append(f"| {name} | {figures['refused']['said'].rpartition('supported: ')[2]} |")
    return "\n".join(lines)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", metavar="NAME", help="one row of the table")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--table"]:
        print(table(json.loads(Path(sys.argv[2]).read_text("utf-8"))))
        sys.exit(0)
    missing = SUPPORTED.keys() - {row.model_class for row in ROWS.values()}
    assert not missing, f"supported but not measured: {missing}"
    main("families", measure, quick_targets=True, add_options=add_options)
