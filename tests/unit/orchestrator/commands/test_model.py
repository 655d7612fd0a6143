"""``model add`` says what will not work."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from orchestrator import cli
from tests.support.onnx_graphs import DecoderMaker, save


@pytest.mark.parametrize(
    ("template", "warning"),
    [("{{ messages[0].content }}", ""), ("{{ 'x' + 1 }}", "Warning: .* chat template fails: TypeError")],
)
def test_a_chat_template_that_fails_is_told_when_the_model_is_added(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], template: str, warning: str
) -> None:
    maker = DecoderMaker()
    folder = save(maker.head(maker.block("embedded")), tmp_path / "decoder")
    (folder / "chat_template.jinja").write_text(template, "utf-8")
    assert cli.run(["--home", str(tmp_path / "home"), "model", "add", str(folder)]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("decoder-fp32: ")
    warnings = [line for line in printed.err.splitlines() if line.startswith("Warning")]
    assert len(warnings) == (1 if warning else 0)
    if warning:
        assert re.match(warning, warnings[0])
