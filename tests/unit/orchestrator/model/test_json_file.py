"""What is beside a checkpoint, or is not, or is something else."""

from pathlib import Path

import pytest

from orchestrator.model.errors import BrokenModel
from orchestrator.model.json_file import read_object, read_optional


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "config.json"


def test_an_object_is_read(path: Path) -> None:
    path.write_text('{"a": 1}', "utf-8")
    assert read_object(path) == read_optional(path) == {"a": 1}


def test_a_file_that_is_needed_is_missed(path: Path) -> None:
    with pytest.raises(BrokenModel, match=r"config\.json cannot be read"):
        read_object(path)
    assert read_optional(path) == {}


def test_something_other_than_an_object_is_nothing(path: Path) -> None:
    path.write_text("[1]", "utf-8")
    with pytest.raises(BrokenModel, match="is not a JSON object"):
        read_object(path)
    assert read_optional(path) == {}


@pytest.mark.parametrize("content", [b"{", b"\xff"])
def test_what_is_no_json_is_said_by_its_name(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    for read in (read_object, read_optional):
        with pytest.raises(BrokenModel, match=r"config\.json cannot be read"):
            read(path)
