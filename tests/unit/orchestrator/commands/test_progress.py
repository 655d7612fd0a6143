"""Long steps say how far they are, on a terminal and elsewhere, and files that grow are a measure."""

from __future__ import annotations

import io
import threading
from pathlib import Path

import pytest

from orchestrator.commands import progress as progress_module
from orchestrator.commands.progress import LABELS, ProgressLines
from orchestrator.model import growth
from orchestrator.model.growth import watch_growth
from orchestrator.model.progress import STEPS

TIMEOUT_S = 20.0


def test_every_step_has_a_label() -> None:
    assert set(LABELS) == set(STEPS)


class Screen(io.StringIO):
    """Standard error; ``told`` is set when a line speaks of bytes."""

    def __init__(self, *, is_terminal: bool) -> None:
        super().__init__()
        self.told = threading.Event()
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        return self._is_terminal

    def write(self, text: str) -> int:
        if "MB" in text:
            self.told.set()
        return super().write(text)


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_long_step_tells_bytes_and_seconds_by_itself(monkeypatch: pytest.MonkeyPatch, is_terminal: bool) -> None:
    screen = Screen(is_terminal=is_terminal)
    monkeypatch.setattr("sys.stderr", screen)
    for name in ("_EVERY_S", "_REDRAW_S"):
        monkeypatch.setattr(progress_module, name, 0.01)
    with ProgressLines() as progress:
        progress("download", 0, 0)
        progress("download", 45_000_000, 98_000_000)
        assert screen.told.wait(TIMEOUT_S)
    said = screen.getvalue()
    assert "downloading: 45 of 98 MB, 0 s" in said
    assert ("\r" in said) is is_terminal
    assert said.startswith("\r\x1b[Kdownloading: 0 s" if is_terminal else "downloading ...\n")


def test_a_short_step_is_one_line_where_lines_stay(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressLines() as progress:
        progress("convert", 0, 3)
        progress("convert", 3, 3)
        progress("split", 5, 5)
    assert capsys.readouterr().err == "converting to ONNX ...\nsplitting ...\n"


def test_layers_are_counted_as_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen(is_terminal=True)
    monkeypatch.setattr("sys.stderr", screen)
    with ProgressLines() as progress:
        progress("convert", 3, 30)
    assert screen.getvalue().endswith("converting to ONNX: 3 of 30 layers, 0 s\n")


def test_growing_files_are_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "_EVERY_S", 0.01)
    told: list[int] = []
    seen = threading.Event()

    def tell(size: int) -> None:
        told.append(size)
        if size == 3:
            seen.set()

    with watch_growth(tmp_path / "later", tell):
        (tmp_path / "later" / "deep").mkdir(parents=True)
        (tmp_path / "later" / "deep" / "file").write_bytes(b"abc")
        assert seen.wait(TIMEOUT_S)
        (tmp_path / "later" / "file").write_bytes(b"de")
    assert told[-1] == 5
