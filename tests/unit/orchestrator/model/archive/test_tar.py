"""Tar as archives use it: what other programs read, what is refused, and how much is in memory."""

from __future__ import annotations

import io
import tarfile
import tracemalloc
from pathlib import Path

import pytest

from orchestrator.model.archive.tar import END, PIECE_BYTES, TarError, header, padding, pieces, read_header, size_of


def test_other_programs_read_it() -> None:
    data = b"x" * 700
    raw = header("some/file", len(data)) + data + padding(len(data)) + header("empty", 0) + END
    assert len(raw) == size_of([len(data), 0])
    with tarfile.open(fileobj=io.BytesIO(raw)) as archive:
        assert [(i.name, i.size, i.mtime, i.uid, i.uname) for i in archive] == [
            ("some/file", 700, 0, 0, ""), ("empty", 0, 0, 0, ""),
        ]  # fmt: skip


def test_sizes_beyond_eight_gigabytes_fit() -> None:
    assert read_header(io.BytesIO(header("large", 20 << 30))) == ("large", 20 << 30)


def of_type(kind: bytes) -> bytes:
    info = tarfile.TarInfo("strange")
    info.type, info.linkname = kind, "/etc/passwd"
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "too early"),
        (header("a", 1)[:-1], "too early"),
        (END + b"more", "behind its end"),
        (bytes(512) + header("a", 0), "behind its end"),
        (header("a", 1).replace(b"a", b"b", 1), "damaged, or no archive"),
        (b"\x80" * 512, "damaged, or no archive"),
        *((of_type(kind), "not a plain file") for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE)),
        *((of_type(kind), "not a plain file") for kind in (tarfile.CHRTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE)),
    ],
)
def test_what_is_no_header_of_a_file_is_refused(raw: bytes, words: str) -> None:
    with pytest.raises(TarError, match=words):
        read_header(io.BytesIO(raw))


def test_a_member_that_is_cut_off_or_not_padded_with_zeros_is_refused() -> None:
    for raw, words in ((b"12", "too early"), (b"123", "too early"), (b"123" + b"x" * 509, "should be empty")):
        with pytest.raises(TarError, match=words):
            list(pieces(io.BytesIO(raw), 3))


def test_a_member_is_read_in_pieces(tmp_path: Path) -> None:
    size = 10 * PIECE_BYTES + 5
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(size + len(padding(size)))
    tracemalloc.start()
    try:
        with path.open("rb") as file:
            assert sum(map(len, pieces(file, size))) == size
        assert tracemalloc.get_traced_memory()[1] < 3 * PIECE_BYTES
    finally:
        tracemalloc.stop()
