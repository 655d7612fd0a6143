"""Archives of models as strangers may make them: taken apart, changed, and put together with an index that fits."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

from orchestrator.model.archive.index import BLOBS, INDEX_FILE, MODEL, Index, Member
from orchestrator.model.archive.tar import END, header, padding

Members = dict[str, bytes]


def members(path: Path) -> Members:
    """What an archive holds but its index, by name, in order."""
    with tarfile.open(path) as archive:
        found = {info.name: archive.extractfile(info).read() for info in archive}  # type: ignore[union-attr]
    del found[INDEX_FILE]
    return found


def whole(name: str, data: bytes) -> bytes:
    """A member with its header."""
    return header(name, len(data)) + data + padding(len(data))


def index_of(content: Members) -> Index:
    return Index.of(Member(name, len(data), hashlib.sha256(data).hexdigest()) for name, data in content.items())


def write(path: Path, content: Members, index: Index | bytes | None = None, end: bytes = END) -> Path:
    """An archive of these members; ``index`` is one that fits them unless another is given."""
    first = index_of(content) if index is None else index
    raw = first if isinstance(first, bytes) else first.to_json().encode()
    out = io.BytesIO()
    out.write(whole(INDEX_FILE, raw))
    for name, data in content.items():
        out.write(whole(name, data))
    path.write_bytes(out.getvalue() + end)
    return path


def with_json(content: Members, name: str, change: Callable[[dict], None]) -> Members:  # type: ignore[type-arg]
    """With one JSON file of the model's folder changed."""
    raw = json.loads(content[f"{MODEL}{name}"])
    change(raw)
    return {**content, f"{MODEL}{name}": json.dumps(raw).encode()}


def with_member(index: Index, **changes: object) -> Index:
    """With the last member, a blob, described otherwise."""
    *others, last = index.members
    return dataclasses.replace(index, members=(*others, dataclasses.replace(last, **changes)))


def a_blob(content: Members) -> str:
    return next(name for name in content if name.startswith(BLOBS))
