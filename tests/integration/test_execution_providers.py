"""Execution providers of ONNX Runtime: tried in a process of their own, used where they are right and quicker."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from edge_node.errors import WrongAnswers
from edge_node.runtime.provider_choice import FILE, ProviderChoice, judge
from edge_node.runtime.provider_trial import COMMAND, Found, Trial, run_trial
from edge_node.runtime.segment_runner import SegmentRunner
from edge_node.runtime.session import CPU
from edge_node.stage_spec import SegmentSpec
from edge_node.storage.blob_store import BlobStore
from orchestrator.model.model import Model
from schemas.messages import BlobRef
from tests.support.known_answers import known_answers
from tests.support.polling import DEADLINE_S
from tests.support.segments import segment_spec

OTHER, SECOND = "OtherExecutionProvider", "SecondExecutionProvider"
REAL = "AzureExecutionProvider"
"""In every build; it takes no node of these graphs, so the CPU computes."""
QUICK, SLOW = Found(cpu_s=1.0, provider_s=0.5), Found(cpu_s=1.0, provider_s=0.95)


def spec_of(model: Model, start: int = 1, stop: int = 3, **changes: Any) -> SegmentSpec:
    made = known_answers(model).of(start, stop)
    answer = BlobRef(sha256=made.sha256, size_bytes=made.size_bytes)
    return segment_spec(model, start, stop, answer=answer, **changes)


@pytest.fixture
def store(tiny_model: Model) -> BlobStore:
    return BlobStore(tiny_model.blobs_folder, limit_bytes=1 << 40)


class Trials:
    """What trials find, and which there were."""

    def __init__(self, home: Path, *found: Found, **options: Any) -> None:
        self.tried: list[Trial] = []
        self._found = list(found)
        self.choice = ProviderChoice(
            home, None, threads=1, **{"installed": (CPU, OTHER, "AzureExecutionProvider"), "run": self.run, **options}
        )

    def run(self, trial: Trial) -> Found:
        self.tried.append(trial)
        return self._found.pop(0)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (QUICK, ""),
        (SLOW, "a step takes it 950.00 ms, the CPU 1000.00 ms"),
        (Found(failure="its answer to a known input is wrong"), "its answer to a known input is wrong"),
        (Found(cpu_s=1.0, provider_s=0.1, failure="wrong"), "wrong"),
        (Found(cpu_s=float("nan"), provider_s=0.1), "a step takes it 100.00 ms, the CPU nan ms"),
    ],
)
def test_right_and_quicker(found: Found, expected: str) -> None:
    assert judge(found) == expected


def test_a_provider_is_tried_once_and_used_if_it_is_better(
    tmp_path: Path, store: BlobStore, tiny_model: Model, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    spec = spec_of(tiny_model)
    both = Trials(tmp_path, SLOW, QUICK, installed=(OTHER, SECOND, CPU))
    assert [both.choice.for_segment(spec, store, None) for _ in range(3)] == [SECOND] * 3
    assert [trial.provider for trial in both.tried] == [OTHER, SECOND]
    assert Trials(tmp_path, installed=(OTHER, SECOND)).choice.for_segment(spec, store, None) == SECOND
    assert [record.message for record in caplog.records][:2] == [
        f"execution provider {OTHER}: not used: a step takes it 950.00 ms, the CPU 1000.00 ms",
        f"execution provider {SECOND}: used: it is right, and quicker than the CPU",
    ]
    another = Trials(tmp_path, SLOW, installed=(SECOND,))
    assert another.choice.for_segment(spec_of(tiny_model, 2, 4), store, None) == CPU, "that is another segment"


def test_what_is_not_tried(tmp_path: Path, store: BlobStore, tiny_model: Model) -> None:
    spec = spec_of(tiny_model)
    trials = Trials(tmp_path)
    assert trials.choice.for_segment(segment_spec(tiny_model, 1, 3), store, None) == CPU, "there is no known answer"
    assert trials.choice.for_segment(spec_of(tiny_model, profile="steady"), store, None) == CPU
    assert trials.choice.for_segment(spec, store, room_bytes=1000) == CPU
    only_cpu = ProviderChoice(tmp_path, (), threads=1, installed=(OTHER,), run=trials.run)
    assert only_cpu.for_segment(spec, store, None) == CPU
    remote = ProviderChoice(tmp_path, None, threads=1, run=trials.run)
    assert remote.for_segment(spec, store, None) == CPU, "whatever this build has, Azure computes elsewhere"
    assert not trials.tried


def test_a_try_that_ends_the_node_is_the_last(tmp_path: Path, store: BlobStore, tiny_model: Model) -> None:
    def die(_: Trial) -> Found:
        raise SystemExit

    spec = spec_of(tiny_model)
    with pytest.raises(SystemExit):
        Trials(tmp_path, run=die).choice.for_segment(spec, store, None)
    again = Trials(tmp_path)
    assert again.choice.for_segment(spec, store, None) == CPU
    assert not again.tried


@pytest.mark.parametrize("text", ["", "[]", '{"a": 1}', "\xff"])
def test_a_damaged_file_is_made_anew(tmp_path: Path, store: BlobStore, tiny_model: Model, text: str) -> None:
    (tmp_path / FILE).write_text(text, encoding="latin-1")
    trials = Trials(tmp_path, QUICK)
    assert trials.choice.for_segment(spec_of(tiny_model), store, None) == OTHER
    assert list(json.loads((tmp_path / FILE).read_text()).values()) == [""]


def trial_of(model: Model, store: BlobStore, provider: str, **changes: Any) -> Trial:
    spec = spec_of(model)
    assert spec.answer
    paths = {"graph": store.path(spec.graph.sha256), "answer": store.path(spec.answer.sha256), **changes}
    return Trial(provider, spec, threads=1, **paths)


def test_a_real_trial(tmp_path: Path, store: BlobStore, tiny_model: Model) -> None:
    found = run_trial(trial_of(tiny_model, store, REAL))
    assert found.failure == ""
    assert min(found.cpu_s, found.provider_s) > 0
    wrong = tmp_path / "wrong"
    known = bytearray(store.path(spec_of(tiny_model).answer.sha256).read_bytes())  # type: ignore[union-attr]
    known[-4000:] = bytes(4000)
    wrong.write_bytes(known)
    assert run_trial(trial_of(tiny_model, store, REAL, answer=wrong)).failure


@pytest.mark.parametrize(
    ("program", "failure"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "the process that tried it ended with -11"),
        ("import time; time.sleep(600)", "it took more than 1 s"),
        ("print('nonsense')", "it could not be tried: "),
        ("pass", "it could not be tried: "),
        ("print('{\"other\": 1}')", "it could not be tried: "),
    ],
)
def test_whatever_becomes_of_the_process_there_is_an_answer(
    tiny_model: Model, store: BlobStore, program: str, failure: str
) -> None:
    assert COMMAND[0] == sys.executable
    limit_s = 1.0 if "sleep" in program else DEADLINE_S
    found = run_trial(trial_of(tiny_model, store, OTHER), (sys.executable, "-c", program), time_limit_s=limit_s)
    assert found.failure.startswith(failure)


def test_a_provider_that_is_wrong_after_all_gives_way_to_the_cpu(
    tmp_path: Path, store: BlobStore, tiny_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was right when it was tried, and is not when the segment is loaded."""
    opened: list[str] = []
    runner = SegmentRunner(
        store, threads=1, emulated_speed=1.0, on_load_event=lambda: None, providers=Trials(tmp_path, QUICK).choice
    )
    opens = runner._opened_by

    def note(provider: str, *arguments: Any) -> Any:
        opened.append(provider)
        if provider == OTHER:
            raise WrongAnswers("its answer to a known input is wrong")
        return opens(provider, *arguments)

    monkeypatch.setattr(runner, "_opened_by", note)
    spec = spec_of(tiny_model)
    assert runner._opened(spec, None, None).session.get_providers() == [CPU]
    assert runner._opened(spec, None, None)
    assert opened == [OTHER, CPU, CPU]
