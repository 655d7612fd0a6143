"""What an archive of a model holds: a plain tar whose first member lists the others.

::

    linguabus-model.json               what `Index` says
    model/manifest.json                and the other files of a model's folder, see `orchestrator.model.store`
    model/tokenizer/tokenizer.json
    blobs/SHA256                       its weights

Nothing in it tells when, where or by whom it was written: the same model gives the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from orchestrator.model import manifest
from orchestrator.model.archive.tar import NAME_BYTES
from orchestrator.model.errors import BrokenModel, ManifestError, UnsupportedModel
from orchestrator.model.manifest import parse_json, to_json
from orchestrator.model.model import GRAPH_FILE, MANIFEST_FILE, TOKENIZER_FOLDER
from orchestrator.model.parity_report import CHECK_FILE
from orchestrator.model.quality_report import QUALITY_FILE, ROWS_FILE
from orchestrator.model.tokenizer import FILES as TOKENIZER_FILES
from schemas.names import is_sha256

ARCHIVE_FORMAT = 1
INDEX_FILE = "linguabus-model.json"
MODEL, BLOBS = "model/", "blobs/"
MOST_INDEX_BYTES = 4 << 20
MOST_MEMBERS = 10_000
MOST_BLOB_BYTES = 1 << 40

_MB = 1 << 20
MODEL_FILES = {
    MANIFEST_FILE: 16 * _MB,
    GRAPH_FILE: 64 * _MB,
    CHECK_FILE: _MB,
    QUALITY_FILE: _MB,
    ROWS_FILE: _MB,
    **{f"{TOKENIZER_FOLDER}/{name}": 64 * _MB for name in TOKENIZER_FILES},
}
"""What a model's folder may hold, and the most bytes of each. The largest known are a tokenizer of 33 MB, of 262,144
words, and a graph of 1 MB."""
NEEDED = (MANIFEST_FILE, GRAPH_FILE, f"{TOKENIZER_FOLDER}/tokenizer.json")


@dataclass(frozen=True)
class Member:
    """A file in an archive."""

    name: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Index:
    """The members in the order in which they come, those of the model's folder before its blobs."""

    archive_format: int
    manifest_format: int
    members: tuple[Member, ...]

    @staticmethod
    def of(members: Iterable[Member]) -> Index:
        """The index of an archive that this version writes."""
        return Index(ARCHIVE_FORMAT, manifest.FORMAT, tuple(members))

    @property
    def blobs(self) -> tuple[Member, ...]:
        return tuple(m for m in self.members if m.name.startswith(BLOBS))

    @property
    def size_bytes(self) -> int:
        return sum(m.size_bytes for m in self.members)

    def to_json(self) -> str:
        return to_json(self)

    @staticmethod
    def from_json(text: str, where: str) -> Index:
        """Parse and check what a stranger wrote.

        Raises:
            UnsupportedModel: it is of another format.
            BrokenModel: it lists what a model doesn't have, or not all that one has.
        """
        _check_formats(text, where)
        try:
            index: Index = parse_json(Index, text, "its index")
        except ManifestError as error:
            raise BrokenModel(str(error)) from error
        problem = _problem(index.members)
        if problem:
            raise BrokenModel(f"its index {problem}")
        return index


def _check_formats(text: str, where: str) -> None:
    """Look at the formats alone: an index of another one may have other members."""
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BrokenModel("its index is not JSON") from error
    known = {"archive_format": ARCHIVE_FORMAT, "manifest_format": manifest.FORMAT}
    for key, ours in known.items():
        found = raw.get(key) if isinstance(raw, dict) else None
        if type(found) is not int:
            raise BrokenModel(f"its index has no {key}")
        if found != ours:
            age, hint = ("a newer", "upgrade it here") if found > ours else ("an older", "convert and export it again")
            said = key.replace("_", " ")
            raise UnsupportedModel(f"{where} is of {age} linguabus ({said} {found}, here it is {ours}): {hint}")


def _problem(members: tuple[Member, ...]) -> str | None:
    names = [m.name for m in members]
    if len(names) > MOST_MEMBERS:
        return f"lists {len(names):,} members, more than {MOST_MEMBERS:,}"
    if len(set(names)) < len(names):
        return "lists a member twice"
    lost = [name for name in NEEDED if f"{MODEL}{name}" not in names]
    if lost:
        return f"lacks {lost[0]}"
    seen_blob = False
    for member in members:
        is_blob = member.name.startswith(BLOBS)
        most = MOST_BLOB_BYTES if is_blob else MODEL_FILES.get(member.name.removeprefix(MODEL), -1)
        named_right = member.name == f"{BLOBS}{member.sha256}" if is_blob else member.name.startswith(MODEL)
        if most < 0 or not named_right or not is_sha256(member.sha256):
            return f"lists {ascii(member.name)[:NAME_BYTES]}, which no model has"
        if not 0 <= member.size_bytes <= most:
            return f"lists {member.name} with {member.size_bytes:,} bytes, where {most:,} are the most"
        if seen_blob and not is_blob:
            return "has weights before the model's description"
        seen_blob = is_blob
    return None
