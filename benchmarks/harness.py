"""What every benchmark shares: options, repeated pairs, the JSON object, exit codes.

A benchmark is a function ``measure(quick) -> list[Result]`` handed to ``main``; options of its own come by name. It
prints a table, or with ``--json`` one object and nothing else; its exit code is 1 when a result misses its target and 2
when it could not run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from edge_node.runtime.process_heap import ask_for_huge_pages  # noqa: E402  (the repository must be on the path)

PAIRS = 5


@dataclass(frozen=True)
class Result:
    """One figure. ``spread`` is its smallest and largest value; ``at_least`` or ``at_most`` is its target."""

    name: str
    value: float
    unit: str
    spread: tuple[float, float] | None = None
    at_least: float | None = None
    at_most: float | None = None

    @property
    def ok(self) -> bool:
        """Does it meet its target, if it has one?"""
        above = self.at_least is None or self.value >= self.at_least
        return above and (self.at_most is None or self.value <= self.at_most)

    @property
    def target(self) -> str | None:
        """The target for people."""
        if self.at_least is not None:
            return f">= {self.at_least:g}"
        return None if self.at_most is None else f"<= {self.at_most:g}"


def median_result(name: str, values: Sequence[float], unit: str, **target: float | None) -> Result:
    """The median of repeated measurements with their spread."""
    return Result(name, statistics.median(values), unit, (min(values), max(values)), **target)


def alternate(first: Callable[[], float], second: Callable[[], float], pairs: int) -> list[tuple[float, float]]:
    """Measure two things in turn, so that a machine that becomes slower does so for both."""
    return [(first(), second()) for _ in range(pairs)]


def main(
    name: str,
    measure: Callable[..., list[Result]],
    *,
    quick_targets: bool = False,
    add_options: Callable[[argparse.ArgumentParser], None] = lambda _: None,
) -> NoReturn:
    """Run the benchmark as a script. In ``--quick`` form targets are shown but decide nothing, unless told."""
    parser = argparse.ArgumentParser(description=(measure.__doc__ or name).strip().splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--quick", action="store_true", help="the smoke form: does it run at all?")
    add_options(parser)
    options = vars(parser.parse_args())
    as_json, quick = options.pop("json"), options["quick"]
    ask_for_huge_pages()  # as nodes do, so that what they are compared with runs under the same conditions
    try:
        results = measure(**options)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:  # whatever stopped it, the caller needs a line and the exit code
        print(f"{name} could not run: {type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(2)
    if as_json:
        print(json.dumps(_document(name, results), allow_nan=False))
    else:
        _print_table(name, results)
    decisive = quick_targets or not quick
    sys.exit(0 if not decisive or all(result.ok for result in results) else 1)


def note(text: str) -> None:
    """Progress, for people who wait."""
    print(text, file=sys.stderr, flush=True)


def _document(name: str, results: Sequence[Result]) -> dict[str, object]:
    rows = []
    for result in results:
        row = asdict(result)
        del row["at_least"], row["at_most"]
        rows.append({**row, "target": result.target, "ok": result.ok})
    return {"benchmark": name, "commit": _commit(), "machine": _machine(), "results": rows}


def _commit() -> str:
    answer = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return answer.stdout.strip() or "unknown"


def _machine() -> dict[str, object]:
    return {"platform": platform.platform(), "python": platform.python_version(), "cores": os.cpu_count()}


def _print_table(name: str, results: Sequence[Result]) -> None:
    print(f"{name} at {_commit()} on {os.cpu_count()} cores")
    width = max((len(result.name) for result in results), default=0)
    for result in results:
        spread = f"  [{result.spread[0]:.4g} .. {result.spread[1]:.4g}]" if result.spread else ""
        target = "" if result.target is None else f"  {'ok' if result.ok else 'MISSED'}: {result.target}"
        print(f"  {result.name:<{width}}  {result.value:.4g} {result.unit}{spread}{target}")
