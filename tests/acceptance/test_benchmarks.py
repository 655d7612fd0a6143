"""Every benchmark runs in its short form and prints what it promises."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.support.repository import ROOT

BENCHMARKS = ROOT / "benchmarks"
HELPERS = {
    "gguf_models", "harness", "judged", "llama_build", "llama_ring", "llama_worker", "measured", "piped_ring",
    "prompts", "resident", "rings", "self_draft", "services", "side_by_side", "smollm2", "speculation_prompts", "truth",
}  # fmt: skip
LONG = {
    "brokers", "convert_memory", "crowd", "dashboard", "data_plane", "families", "features", "gateway", "identity",
    "idle", "kv_cache", "kv_handover", "long_prompts", "memory", "newcomer", "planned_vs_even", "quality", "rebalance",
    "recovery", "restarts", "segment_memory", "speculation", "steady", "structured", "tls",
}  # fmt: skip
"""Their short form takes a quarter of a minute and more, and other tests run what they measure."""
NAMES = sorted(path.stem for path in BENCHMARKS.glob("*.py") if path.stem not in HELPERS)


def test_all_of_them_find_what_they_import() -> None:
    """Also those whose short form is too long for each run of the tests."""
    code = "import importlib, sys; [importlib.import_module(name) for name in sys.argv[1:]]"
    names = sorted(path.stem for path in BENCHMARKS.glob("*.py"))
    done = subprocess.run(
        [sys.executable, "-c", code, *names], cwd=BENCHMARKS, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.long if n in LONG else ()) for n in NAMES])
def test_the_short_form_prints_one_object(name: str) -> None:
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / f"{name}.py"), "--quick", "--json"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr
    document = json.loads(done.stdout)
    assert document["benchmark"] == name
    assert document["results"]
    for result in document["results"]:
        assert result.keys() >= {"name", "value", "unit", "spread", "target", "ok"}
