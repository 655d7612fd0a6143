"""``linguabus update-check`` asks the package index that pip is set up with, and nobody else is asked."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

from orchestrator.service.own_wheel import own_wheel
from schemas import PACKAGE_VERSION
from tests.support.fleet_commands import FleetCommands

NEWER = "99.1"


def wheel_of(folder: Path, version: str) -> None:
    """A wheel of linguabus that has nothing in it but its version."""
    info = f"linguabus-{version}.dist-info"
    with zipfile.ZipFile(folder / f"linguabus-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: linguabus\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


def test_what_the_index_has_is_said(tmp_path: Path) -> None:
    commands = FleetCommands()
    index = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path)}
    own = own_wheel()
    (tmp_path / own.name).write_bytes(own.data)
    assert "is the newest" in commands.run(tmp_path, "update-check", **index)
    wheel_of(tmp_path, NEWER)
    assert f"the index has linguabus {NEWER}, and this is {PACKAGE_VERSION}" in commands.run(
        tmp_path, "update-check", **index
    )
    said = json.loads(commands.run(tmp_path, "update-check", "--json", **index))
    assert said == {"installed": PACKAGE_VERSION, "newest": NEWER, "is_newest": False}
    assert "asking the package index" in commands.said[-1]


def test_what_can_not_be_asked_is_one_line(tmp_path: Path) -> None:
    nowhere = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_NO_INDEX": "", "PIP_CONFIG_FILE": "/dev/null"}
    for environment, said in (
        ({**nowhere, "PIP_EXTRA_INDEX_URL": ""}, "the package index"),
        ({"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path)}, "has no linguabus for this Python"),
    ):
        line = FleetCommands().run(tmp_path, "update-check", fails=True, **environment)
        asked, error = line.splitlines()
        assert asked.startswith("asking the package index")
        assert error.startswith("Error: ")
        assert said in error
