"""The models of this machine: a content-addressed folder of weights and one small folder per model.

::

    HOME/blobs/SHA256                      weights and assembled segment graphs, shared between models
    HOME/models/NAME/manifest.json         what `Manifest` says
    HOME/models/NAME/check.json            how near it is to its source: what `ParityReport` says
    HOME/models/NAME/quality.json          how good it is: what `QualityReport` says
    HOME/models/NAME/source-rows.json      what its source makes of some passages: `SourceRows`
    HOME/models/NAME/decoder.onnx          the graph, its weights pointing into blobs
    HOME/models/NAME/tokenizer/            tokenizer and configuration files of the checkpoint
    HOME/models/NAME/segments/             descriptions of assembled segments
    HOME/active                            the name of the active model
    HOME/in-use/NAME/                      a locked folder for each service that has the model open
    HOME/partial/                          models being added; nothing in it is visible

Use::

    store = ModelStore(home)
    manifest = store.add("HuggingFaceTB/SmolLM2-135M-Instruct", precision="int4", profile="fast", progress=show)
    model = store.open(manifest.name)       # or store.open() for the active one
    model.segment(0, 12); model.tokenizer()
    store.list(); store.use(name); store.check(name); store.compare(name); store.export(name, path); store.rm(name)

A model appears at once, by one rename, when all of it is there. Adding and removing from several processes at the
same time is safe: what makes files visible or deletes them holds a lock on ``HOME/lock``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib.metadata
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orchestrator.model.archive.export import export
from orchestrator.model.archive.unpack import archive_file, check_wanted, unpack
from orchestrator.model.describe import Identity
from orchestrator.model.errors import (
    BlobCorrupt,
    ManifestError,
    MissingDependency,
    ModelExists,
    ModelInUse,
    ModelIsHere,
    NoSuchModel,
    UnsupportedModel,
)
from orchestrator.model.extras import missing
from orchestrator.model.intake import check_fit, compare_again, measure_again, take_in
from orchestrator.model.known_answers import KnownAnswers
from orchestrator.model.lock import exclusive, is_held, owned_folder
from orchestrator.model.manifest import Manifest, read_manifest, readable_manifests
from orchestrator.model.model import SEGMENTS_FOLDER, Model
from orchestrator.model.onnx_files import onnx_file
from orchestrator.model.parity_report import CHECK_FILE, ParityReport, read_check
from orchestrator.model.precision import AUTO, check_precision, check_profile
from orchestrator.model.progress import Progress, silent
from orchestrator.model.quality_report import QUALITY_FILE, ROWS_FILE, QualityReport, read_quality
from orchestrator.model.room import told_when_full
from orchestrator.model.source import Source, resolve_source
from orchestrator.model.weights import checked_pieces
from schemas.names import suggestion

_MADE = ("graph", "answer")
"""Members of the descriptions in a model's segments folder that name blobs made of the model."""
_NEEDED = ("jinja2", "numpy", "onnx", "tokenizers")
"""To add any model: what is missing is told before hours of converting."""
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}$", re.IGNORECASE)


class ModelStore:
    """The models under ``home``; folders are made when something is added."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.blobs_folder = home / "blobs"
        self._models = home / "models"
        self._partial = home / "partial"

    def add(
        self,
        source: str,
        name: str | None = None,
        *,
        precision: str = AUTO,
        profile: str | None = None,
        progress: Progress = silent,
    ) -> Manifest:
        """Convert, split and keep a model; the first one becomes the active one.

        A source that is here already in this precision is not converted again (a profile is no other weights).

        Args:
            source: a Hugging Face id, a Hugging Face folder, a ``.gguf`` file, an ONNX decoder folder or an archive.
            name: None for the source's name with precision (and profile, unless "fast") appended, or the archive's.
            precision: "auto" or one of `PRECISIONS`; an ONNX decoder keeps its own.
            profile: a key of `PROFILES`; None for "fast", or the archive's.

        Raises:
            ModelIsHere: it was added before.
            ModelError: by kind; see `orchestrator.model.errors`.
        """
        check_precision(precision)
        check_profile(profile or "fast")
        if name is not None:
            self._check_new(name)
        not_added = f"{source} can't be added"
        if missing(_NEEDED):
            raise MissingDependency(not_added, *_extras_for(source))
        archive = archive_file(source)
        if archive is not None:
            return self._add_archive(archive, name, precision, profile, progress)
        profile = profile or "fast"
        found = resolve_source(source, progress)
        if name is None:  # what was made in the same way before has the name that this would get
            for m in self._made_from(found):
                if (m.asked, m.profile) == (precision, profile):
                    self._check_new(_default_name(found.name, m.precision, profile), m)
        identity = Identity(name or "", found.place, found.fingerprint, profile, _version(), precision)
        with owned_folder(self._partial, "add-", self.home / "lock") as partial, told_when_full(partial, not_added):
            twin = self._twin(found, precision, progress)
            if twin is not None:
                manifest = self._copy_twin(twin, partial, identity, progress)
            else:
                manifest = take_in(found, precision, partial, identity, progress)
            if name is None:
                name = _default_name(found.name, manifest.precision, profile)
                self._check_new(name)
                manifest = dataclasses.replace(manifest, name=name)
            ready = partial / "model"
            check_fit(ready, self.blobs_folder if twin else partial / "blobs", profile)
            (ready / "manifest.json").write_text(manifest.to_json(), "utf-8")
            self._commit(partial, ready, name)
        return manifest

    def export(self, name: str | None, path: Path, *, force: bool = False, progress: Progress = silent) -> int:
        """Write an archive of a model, by default the active one, for other stores to add; see `archive.export`."""
        model = self.open(name)
        with self.in_use(model.manifest.name):
            return export(model, path, force=force, progress=progress)

    def list(self) -> tuple[Manifest, ...]:
        """All models by name; raises `ManifestError` for a damaged one."""
        return tuple(read_manifest(self._models / n / "manifest.json") for n in self.names())

    def names(self) -> tuple[str, ...]:
        """The names of all models, sorted."""
        if not self._models.is_dir():
            return ()
        return tuple(sorted(p.name for p in self._models.iterdir() if (p / "manifest.json").is_file()))

    def open(self, name: str | None = None) -> Model:
        """The model called ``name``, by default the active one; raises `NoSuchModel`."""
        return Model(self._folder(name or self._require_active()), self.blobs_folder)

    def show(self, name: str | None = None) -> Manifest:
        """The manifest of ``name``, by default of the active model; raises `NoSuchModel`."""
        return self.open(name).manifest

    @property
    def active(self) -> str | None:
        """The name of the active model, None if there is none (any more)."""
        try:
            name = (self.home / "active").read_text("utf-8").strip()
        except OSError:
            return None
        return name if name in self.names() else None

    def use(self, name: str) -> None:
        """Make ``name`` the active model; raises `NoSuchModel`."""
        self._folder(name)
        self._set_active(name)

    @contextlib.contextmanager
    def in_use(self, name: str) -> Iterator[None]:
        """Mark the model as served while the block runs, so that `rm` refuses it; raises `NoSuchModel`."""
        self._folder(name)
        with owned_folder(self._users(name), "service-", self.home / "lock"):
            self._folder(name)  # it may have been removed meanwhile
            yield

    def rm(self, name: str, *, force: bool = False) -> int:
        """Remove a model and the blobs that no other needs; returns the bytes freed.

        Raises:
            NoSuchModel: there is none of this name.
            ModelInUse: it is being served, and nobody said ``force``.
        """
        with exclusive(self.home / "lock"):
            folder = self._folder(name)
            is_in_use = self._users(name).is_dir() and any(is_held(p / "lock") for p in self._users(name).iterdir())
            if is_in_use and not force:
                raise ModelInUse(
                    f"{name} is being served: stop the orchestrator, have it serve another model (linguabus model use"
                    " NAME), or take the files away from it (--force)"
                )
            if not is_in_use:
                shutil.rmtree(self._users(name), ignore_errors=True)
            was_active = self.active == name
            self._partial.mkdir(exist_ok=True)
            doomed = Path(tempfile.mkdtemp(dir=self._partial))
            folder.replace(doomed / "model")
            shutil.rmtree(doomed)
            freed = self._collect()
            left = self.names()
            if was_active and left:
                self._set_active(left[0])
            elif was_active:
                (self.home / "active").unlink(missing_ok=True)
        return freed

    def check(self, name: str | None = None, progress: Progress = silent) -> None:
        """Read every blob of a model and compare it with its SHA-256; raises `BlobCorrupt`."""
        manifest = self.show(name)
        done, total = 0, manifest.weight_bytes
        for blob in manifest.blobs:
            try:
                for piece in checked_pieces(self.blobs_folder, blob.sha256, blob.size_bytes, manifest.name):
                    done += len(piece)
                    progress("check", done, total)
            except OSError as error:
                what = f"blob {blob.sha256[:12]} of {manifest.name}"
                raise BlobCorrupt(f"{what} cannot be read: {error.strerror}; remove the model, add it again") from error

    def known_answers(self, model: Model) -> KnownAnswers:
        """What segments of an opened model have to compute, from weights that are checked first."""
        return KnownAnswers(model, functools.partial(self.check, model.manifest.name))

    def compare(self, name: str | None = None, progress: Progress = silent) -> ParityReport:
        """Compare a model again with the source that it came from, and keep the figures.

        Raises:
            NoSuchModel: there is no such model, or its source is there no more.
            ModelError: the source can't be read as what it was.
        """
        model = self.open(name)
        manifest = model.manifest
        source = resolve_source(manifest.source, progress, fetch=False)
        if source.fingerprint != manifest.source_fingerprint:
            raise NoSuchModel(f"{manifest.source} is not what it was when {manifest.name} was made of it")
        with owned_folder(self._partial, "compare-", self.home / "lock") as scratch:
            judgement = compare_again(source, model, scratch, progress)
            judgement.save(scratch)
            with exclusive(self.home / "lock"):
                for written in (CHECK_FILE, QUALITY_FILE, ROWS_FILE):
                    (scratch / written).replace(self._folder(manifest.name) / written)
        return judgement.parity

    def compared(self, name: str | None = None) -> ParityReport | None:
        """The figures of the last comparison of a model with its source, None if there was none."""
        return read_check(self.open(name).folder)

    def quality(self, name: str | None = None) -> QualityReport | None:
        """How good a model was when it was last compared with its source, None if it never was."""
        return read_quality(self.open(name).folder)

    def _add_archive(
        self, path: Path, name: str | None, precision: str, profile: str | None, progress: Progress
    ) -> Manifest:
        def accept(manifest: Manifest) -> Manifest:
            check_wanted(manifest, path, precision, profile)
            self._check_new(name or manifest.name, None if name else self._same_as(manifest))
            return manifest.as_from_archive(name or manifest.name)

        with owned_folder(self._partial, "add-", self.home / "lock") as partial:
            manifest = unpack(path, partial, self.blobs_folder, accept, progress)
            self._commit(partial, partial / "model", manifest.name)
        return manifest

    def _same_as(self, wanted: Manifest) -> Manifest | None:
        """The model of this name, where it has the same weights."""
        known = readable_manifests([self._models / wanted.name / "manifest.json"])
        return next((m for m in known if (m.blobs, m.profile) == (wanted.blobs, wanted.profile)), None)

    def _users(self, name: str) -> Path:
        """The folder with a locked folder for each service that has the model open."""
        return self.home / "in-use" / name

    def _twin(self, source: Source, precision: str, progress: Progress) -> Path | None:
        """A model here that came from the same source in the same precision by the same version, and was compared.

        One with a damaged blob is not taken: adding the model again is what mends it.
        """
        for m in self._made_from(source):
            same_weights = m.carried == 1 and m.precision == precision  # nothing was left to choose
            same_precision = m.asked == precision or same_weights or source.kind == "onnx"
            if m.version == _version() and same_precision and (self._models / m.name / QUALITY_FILE).is_file():
                with contextlib.suppress(BlobCorrupt):
                    self.check(m.name, progress)
                    return self._models / m.name
        return None

    def _made_from(self, source: Source) -> Iterator[Manifest]:
        """The models here that came from a source; those with a damaged manifest are passed over."""
        known = readable_manifests(self._models / name / "manifest.json" for name in self.names())
        return (manifest for manifest in known if manifest.fingerprint == source.fingerprint)

    def _copy_twin(self, twin: Path, partial: Path, identity: Identity, progress: Progress) -> Manifest:
        ready = partial / "model"
        shutil.copytree(twin, ready, ignore=shutil.ignore_patterns(SEGMENTS_FOLDER))
        changes: dict[str, Any] = dataclasses.asdict(identity)
        before = read_manifest(ready / "manifest.json")
        manifest = dataclasses.replace(before, **changes)
        if manifest.profile != before.profile:
            measure_again(ready, self.blobs_folder, manifest, progress)
        return manifest

    def _commit(self, partial: Path, ready: Path, name: str) -> None:
        with exclusive(self.home / "lock"):
            self._check_new(name)
            self.blobs_folder.mkdir(exist_ok=True)
            self._models.mkdir(exist_ok=True)
            if (partial / "blobs").is_dir():
                for blob in (partial / "blobs").iterdir():
                    blob.replace(self.blobs_folder / blob.name)
            lost = [b for b in read_manifest(ready / "manifest.json").blobs if not self._has(b.sha256)]
            if lost:
                raise BlobCorrupt(f"blob {lost[0].sha256[:12]} was removed while {name} was being added; add it again")
            ready.replace(self._models / name)
            if self.active is None:
                self._set_active(name)

    def _has(self, sha256: str) -> bool:
        return (self.blobs_folder / sha256).is_file()

    def _collect(self) -> int:
        """Delete the blobs that no model needs, weights and assembled graphs alike; the lock must be held.

        While there is a model of another version, whose blobs can't be told, none is deleted.
        """
        needed: set[str] = set()
        for name in self.names():
            try:
                needed.update(b.sha256 for b in read_manifest(self._models / name / "manifest.json").blobs)
            except ManifestError:
                return 0
            for spec in (self._models / name / SEGMENTS_FOLDER).glob("*.json"):
                described = json.loads(spec.read_text("utf-8"))
                needed.update(described[part]["sha256"] for part in _MADE if part in described)
        freed = 0
        for blob in self.blobs_folder.iterdir():
            if blob.name not in needed:
                freed += blob.stat().st_size
                blob.unlink()
        return freed

    def _check_new(self, name: str, same: Manifest | None = None) -> None:
        """Check that a model may get a name; ``same``: one that is what this would be."""
        if not NAME.match(name):
            raise UnsupportedModel(f"{name!r} cannot name a model; use letters, digits, '.', '_' and '-'")
        if same is not None and same.name == name:
            raise ModelIsHere(name)
        if (self._models / name).exists():
            raise ModelExists(f"there is a model {name!r}; give another --name, or run: linguabus model rm {name}")

    def _folder(self, name: str) -> Path:
        if name not in self.names():
            otherwise = "see linguabus model list" if self.names() else "add one with linguabus model add SOURCE"
            raise NoSuchModel(f"there is no model {name!r}: {suggestion(name, self.names(), otherwise, most=3)}")
        return self._models / name

    def _require_active(self) -> str:
        name = self.active
        if name is None:
            raise NoSuchModel("no model is active; run: linguabus model add SOURCE")
        return name

    def _set_active(self, name: str) -> None:
        partial = self.home / f"active.{os.getpid()}.partial"
        partial.write_text(name + "\n", "utf-8")
        partial.replace(self.home / "active")


def _extras_for(source: str) -> tuple[str, ...]:
    """The extras whose packages adding this source takes."""
    folder = Path(source).expanduser()
    if archive_file(source) is not None:
        return ("orchestrator",)
    folder = folder.parent if folder.suffix.lower() == ".onnx" else folder
    return ("orchestrator",) if onnx_file(folder) is not None else ("orchestrator", "convert")


def _default_name(base: str, precision: str, profile: str) -> str:
    return f"{base}-{precision}" + ("" if profile == "fast" else f"-{profile}")


def _version() -> str:
    try:
        return importlib.metadata.version("linguabus")
    except importlib.metadata.PackageNotFoundError:
        return "0"
