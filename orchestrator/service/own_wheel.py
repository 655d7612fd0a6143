"""This linguabus as a wheel, for devices that are to run the same one: made from the files that run here."""

from __future__ import annotations

import base64
import hashlib
import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from schemas import PACKAGE_VERSION

PACKAGES = ("schemas", "broker", "edge_node", "orchestrator")
_ROOT = Path(__file__).resolve().parents[2]
_LEFT_OUT = {".pyc", ".pyo"}
_SAME_DATE = (1980, 1, 1, 0, 0, 0)
"""So that the same files make the same wheel."""
_WHEEL = "Wheel-Version: 1.0\nGenerator: linguabus\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


@dataclass(frozen=True)
class Wheel:
    """A wheel and its name."""

    name: str
    data: bytes

    @property
    def sha256(self) -> str:
        """In hexadecimal digits."""
        return hashlib.sha256(self.data).hexdigest()


def own_wheel() -> Wheel:
    """The wheel of what runs here.

    Raises:
        PackageNotFoundError: linguabus is not installed, as when it runs from a folder alone.
        OSError: its files can't be read.
    """
    info = f"linguabus-{PACKAGE_VERSION}.dist-info"
    written = io.BytesIO()
    record = []
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in (*_package_files(), *_metadata_files(info)):
            archive.writestr(_entry(name), data)
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
            record.append(f"{name},sha256={digest},{len(data)}")
        record.append(f"{info}/RECORD,,")
        archive.writestr(_entry(f"{info}/RECORD"), "\n".join(record) + "\n")
    return Wheel(f"linguabus-{PACKAGE_VERSION}-py3-none-any.whl", written.getvalue())


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _SAME_DATE)
    entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
    return entry


def _package_files() -> Iterator[tuple[str, bytes]]:
    for package in PACKAGES:
        for path in sorted((_ROOT / package).rglob("*")):
            if path.is_file() and path.suffix not in _LEFT_OUT:
                yield path.relative_to(_ROOT).as_posix(), path.read_bytes()


def _metadata_files(info: str) -> Iterator[tuple[str, bytes]]:
    installed = metadata.distribution("linguabus")
    # The metadata beside sources that are installed where they are has another name.
    for name, others in (("METADATA", ("PKG-INFO",)), ("entry_points.txt", ())):
        text = next((text for one in (name, *others) if (text := installed.read_text(one))), None)
        if text is None:
            raise metadata.PackageNotFoundError("linguabus")
        yield f"{info}/{name}", text.encode()
    yield f"{info}/WHEEL", _WHEEL.encode()
