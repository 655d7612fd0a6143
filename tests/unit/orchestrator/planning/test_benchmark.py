"""The planner's benchmark runs, meets its targets in the short form, and prints one JSON object."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.support.repository import ROOT


def test_the_short_form_prints_one_object_with_every_objective() -> None:
    command = [sys.executable, "benchmarks/planner.py", "--quick", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["benchmark"] == "planner"
    names = [result["name"] for result in document["results"]]
    for objective in ("latency", "throughput", "balanced", "paper"):
        assert any(f", {objective}: proven" in name for name in names)
    assert all(result["value"] == 1 for result in document["results"] if result["name"].endswith("proven"))
