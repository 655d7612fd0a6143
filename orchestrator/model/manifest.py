"""The manifest of a split model: all there is to know about it, as frozen dataclasses and as ``manifest.json``.

Sizes are bytes, FLOPs count a multiply-add as two and leave out attention over the cache (it grows with context).
Unit 0 is the embedding, 1..L are decoder blocks, L+1 is the head; ranges of units are half-open.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import types
import typing
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from orchestrator.model.errors import ManifestError
from orchestrator.model.precision import PROFILES, NumericProfile
from schemas.codec import HALVES
from schemas.messages import FoldedState, KvLayer
from schemas.names import is_sha256
from schemas.segment_tensors import cache_parts
from schemas.units import kinds_of

FORMAT = 4
_FROM_ARCHIVE = "archive:"
"""Begins the fingerprints of models that came in an archive: nobody here has seen that they are their source's, so
that they are never taken for it."""
DTYPE_BYTES = {"float32": 4, "float16": 2, "int8": 1}
FLOAT_DTYPES = ("float32", "float16")
"""Of hidden states, logits, and of what is kept of a text as a model was converted."""


@dataclass(frozen=True)
class LayerCache:
    """Kept by one block of each position: key [B, kv_heads, tokens, key_dim], value [B, kv_heads, tokens, value_dim].

    A block with a short convolution keeps that one's inputs instead, [B, 1, tokens, conv_dim]; the other sizes are 0.
    A block with ``states`` keeps these alone, [B, *shape], one for all positions of a text.
    ``window`` is the number of positions a sliding-window layer looks back, None for full attention.
    """

    layer: int
    kv_heads: int
    key_dim: int
    value_dim: int
    conv_dim: int
    dtype: str
    window: int | None
    states: tuple[FoldedState, ...] = ()

    @property
    def bytes_per_token(self) -> int:
        return sum(part.heads * part.dim for part in cache_parts(self)) * DTYPE_BYTES[self.dtype]

    @property
    def state_bytes(self) -> int:
        """Of the states of one text at one position."""
        return sum(math.prod(state.shape) for state in self.states) * DTYPE_BYTES[self.dtype]

    def as_told(self) -> KvLayer:
        """The shape of it as nodes are told."""
        return KvLayer(
            layer=self.layer,
            kv_heads=self.kv_heads,
            key_dim=self.key_dim,
            value_dim=self.value_dim,
            conv_dim=self.conv_dim,
            states=self.states,
        )


@dataclass(frozen=True)
class RoundedCache(LayerCache):
    """The same of a block that rounds keys and values; ``rounding`` says how, as in `schemas.messages.KvLayer`."""

    rounding: str = ""

    def as_told(self) -> KvLayer:
        return dataclasses.replace(LayerCache.as_told(self), rounding=self.rounding)


class BlockRounding(Protocol):
    """How blocks round keys and values; ``kv_rounding.KvRounding`` is one."""

    def dtype_of(self, layer: int) -> str:
        """What a block keeps, in the manifest's words."""

    def name_of(self, layer: int) -> str:
        """Stands for how a block rounds, as in `schemas.messages.KvLayer`."""


@dataclass(frozen=True)
class Unit:
    """The smallest thing a node can hold. ``weight_bytes`` counts shared blobs in full."""

    index: int
    kind: str  # "embed", "block" or "head"
    layer: int | None
    blobs: tuple[str, ...]
    weight_bytes: int
    flops_per_token: int
    kv_bytes_per_token: int
    state_bytes: int = 0  # of a text at one position


@dataclass(frozen=True)
class Blob:
    """A file of raw weights, named by its SHA-256; ``units`` are those that need it."""

    sha256: str
    size_bytes: int
    units: tuple[int, ...]


@dataclass(frozen=True)
class BoundaryInfo:
    """The tensor that crosses before unit ``before``: [B, S, width] of ``dtype``; ``tensors`` > 1 for residuals."""

    before: int
    width: int
    dtype: str
    tensors: int


@dataclass(frozen=True)
class SamplingDefaults:
    """What the model's authors recommend; None where they say nothing."""

    do_sample: bool | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float | None = None


@dataclass(frozen=True)
class Manifest:
    """Everything about a model but its weights.

    Attributes:
        precision: of its weights; ``asked``: what was asked for, which may be "auto".
        carried: the share of the weights of its matrices that have the very values of the source.
        profile: the numeric profile used unless asked otherwise.
        kv_dtype: of keys and values; where blocks differ, the smallest.
        position_bytes: what tables that are computed when a segment is opened take for each position.
    """

    format: int
    version: str  # of the package that wrote it
    name: str
    source: str
    fingerprint: str  # equal for equal sources
    family: str
    precision: str
    asked: str
    carried: float
    profile: str
    vocab_size: int
    max_context: int
    logits_dtype: str
    kv_dtype: str
    inputs: tuple[str, ...]  # of input_ids, attention_mask, position_ids: those the graph has
    boundaries: tuple[BoundaryInfo, ...]
    layers: tuple[LayerCache, ...]
    units: tuple[Unit, ...]
    blobs: tuple[Blob, ...]
    position_bytes: int
    bos_id: int | None
    eos_ids: tuple[int, ...]
    sampling: SamplingDefaults
    has_chat_template: bool

    @property
    def numerics(self) -> NumericProfile:
        """What the numeric profile means."""
        return PROFILES[self.profile]

    @property
    def came_from_archive(self) -> bool:
        """Was it converted elsewhere, and its source never here?"""
        return self.fingerprint.startswith(_FROM_ARCHIVE)

    @property
    def source_fingerprint(self) -> str:
        """The source's fingerprint; of a model from an archive what that claims."""
        return self.fingerprint.removeprefix(_FROM_ARCHIVE)

    def as_from_archive(self, name: str) -> Manifest:
        """The manifest of a model that came in an archive, under the name that it has here."""
        return dataclasses.replace(self, name=name, fingerprint=f"{_FROM_ARCHIVE}{self.source_fingerprint}")

    @property
    def num_units(self) -> int:
        return len(self.units)

    @property
    def width(self) -> int:
        """Values per position of the widest boundary."""
        return max(boundary.width for boundary in self.boundaries)

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    @property
    def hidden_dtype(self) -> str:
        return self.boundaries[0].dtype

    @property
    def weight_bytes(self) -> int:
        """Bytes of all blobs, shared ones counted once."""
        return sum(blob.size_bytes for blob in self.blobs)

    @property
    def folds_positions(self) -> bool:
        """Are there blocks that keep one state for all positions?"""
        return any(layer.states for layer in self.layers)

    @property
    def kv_bytes_per_token(self) -> int:
        return sum(layer.bytes_per_token for layer in self.layers)

    @property
    def kv_rounding(self) -> str | None:
        """How keys and values are rounded, by one name for all blocks; None where they are not."""
        names = {layer.rounding for layer in self.layers if isinstance(layer, RoundedCache)}
        return next(iter(names - {HALVES}), HALVES if names else None)

    @property
    def kv_halves(self) -> int:
        """How many blocks keep keys and values in halves, where others keep them in ``kv_dtype``, which is smaller."""
        rounded = [layer.dtype for layer in self.layers if isinstance(layer, RoundedCache)]
        return sum(dtype != self.kv_dtype for dtype in rounded)

    def with_rounded_kv(self, rounding: BlockRounding) -> Manifest:
        """The same model with rounded keys and values; a short convolution's inputs and states stay as they are."""
        layers = tuple(_rounded(layer, rounding) for layer in self.layers)
        dtypes = [layer.dtype for layer in layers if layer.kv_heads]
        dtype = min(dtypes, key=DTYPE_BYTES.__getitem__, default=self.kv_dtype)
        kept = {layer.layer: layer.bytes_per_token for layer in layers}
        units = tuple(
            unit if unit.layer is None else dataclasses.replace(unit, kv_bytes_per_token=kept[unit.layer])
            for unit in self.units
        )
        return dataclasses.replace(self, layers=layers, units=units, kv_dtype=dtype)

    @property
    def state_bytes(self) -> int:
        """Of all states of a text at one position."""
        return sum(layer.state_bytes for layer in self.layers)

    def blobs_of(self, start: int, stop: int) -> tuple[Blob, ...]:
        """The blobs that the units [start, stop) need, each once."""
        return tuple(b for b in self.blobs if any(start <= u < stop for u in b.units))

    def to_json(self) -> str:
        return to_json(self)

    @staticmethod
    def from_json(text: str, where: str) -> Manifest:
        """Parse and check; ``where`` is named in errors.

        Raises:
            ManifestError: damaged, incomplete, contradictory or of another format.
        """
        manifest: Manifest = parse_json(Manifest, text, where)
        problem = _contradiction(manifest)
        if problem:
            raise ManifestError(f"{where}: {problem}; run: linguabus model rm, then model add again")
        return manifest


def _rounded(layer: LayerCache, rounding: BlockRounding) -> LayerCache:
    if not layer.kv_heads:
        return layer
    shape = {field.name: getattr(layer, field.name) for field in dataclasses.fields(LayerCache)}
    dtype, name = rounding.dtype_of(layer.layer), rounding.name_of(layer.layer)
    return RoundedCache(**{**shape, "dtype": dtype}, rounding=name)


def read_manifest(path: Path) -> Manifest:
    """Read ``manifest.json``; raises `ManifestError`."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    return Manifest.from_json(text, str(path))


def readable_manifests(paths: Iterable[Path]) -> Iterator[Manifest]:
    """The manifests in files; those that are damaged are passed over."""
    for path in paths:
        with contextlib.suppress(ManifestError):
            yield read_manifest(path)


def to_json(record: Any) -> str:
    """A dataclass as people may read it in a file; `parse_json` reads it."""
    return json.dumps(dataclasses.asdict(record), indent=1, sort_keys=True) + "\n"


def read_optional_record(kind: type[Any], path: Path) -> Any:
    """The dataclass ``kind`` from a file, None if there is none.

    Raises:
        ManifestError: it is damaged, or another version's.
    """
    return parse_json(kind, path.read_text("utf-8"), str(path)) if path.is_file() else None


def parse_json(kind: type[Any], text: str, where: str) -> Any:
    """Build the dataclass ``kind`` from JSON text, checking types field by field; raises `ManifestError`."""
    try:
        raw = json.loads(text)
    except ValueError as error:
        raise ManifestError(f"{where} is not JSON: {error}") from error
    if isinstance(raw, dict) and raw.get("format", FORMAT) != FORMAT:
        raise ManifestError(f"{where} has format {raw['format']!r}, this version reads {FORMAT}; add the model again")
    return _build(kind, raw, where)


def _build(kind: Any, raw: Any, where: str) -> Any:
    """``raw`` as ``kind``: a dataclass, a tuple of one, an optional, or a plain value."""
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        if not isinstance(raw, dict):
            raise ManifestError(f"{where}: expected an object")
        hints = typing.get_type_hints(kind)
        unknown = sorted(set(raw) - set(hints))
        missing = sorted(f.name for f in dataclasses.fields(kind) if f.name not in raw)
        if unknown or missing:
            raise ManifestError(f"{where}: missing {missing}, unknown {unknown}")
        return kind(**{name: _build(hint, raw[name], f"{where}: {name}") for name, hint in hints.items()})
    if typing.get_origin(kind) is tuple:
        if not isinstance(raw, list):
            raise ManifestError(f"{where}: expected a list")
        item = typing.get_args(kind)[0]
        return tuple(_build(item, value, f"{where}[{i}]") for i, value in enumerate(raw))
    if isinstance(kind, types.UnionType):
        if raw is None:
            return None
        return _build(next(k for k in typing.get_args(kind) if k is not types.NoneType), raw, where)
    if kind is float and type(raw) is int:
        return float(raw)
    if type(raw) is not kind:
        raise ManifestError(f"{where}: expected {kind.__name__}, found {type(raw).__name__}")
    return raw


def _contradiction(m: Manifest) -> str | None:
    if m.profile not in PROFILES:
        return f"there is no numeric profile {m.profile!r}"
    count = len(m.units)
    if count < 3 or len(m.layers) != count - 2 or len(m.boundaries) != count - 1:
        return f"{count} units, {len(m.layers)} layers and {len(m.boundaries)} boundaries do not fit together"
    if tuple(u.kind for u in m.units) != kinds_of(count) or [u.index for u in m.units] != list(range(count)):
        return "the units are not embed, blocks, head in order"
    if [b.before for b in m.boundaries] != list(range(1, count)) or any(b.width < 1 for b in m.boundaries):
        return "the boundaries are not one before each unit with a positive width"
    dtypes = {m.logits_dtype, m.kv_dtype, *(b.dtype for b in m.boundaries), *(c.dtype for c in m.layers)}
    if not dtypes <= set(FLOAT_DTYPES):
        return f"unknown dtype among {sorted(dtypes)}"
    known = {b.sha256 for b in m.blobs}
    lost = sorted({s for u in m.units for s in u.blobs} - known)
    if lost:
        return f"a unit needs blob {lost[0]} that is not listed"
    if not all(map(is_sha256, known)):
        return "a blob is not named by a SHA-256"
    if any(not 0 <= u < count for b in m.blobs for u in b.units) or any(b.size_bytes < 0 for b in m.blobs):
        return "a blob has a negative size or belongs to a unit that does not exist"
    return None
