"""An opened model: its manifest, its tokenizer and its segments.

::

    model = store.open("smollm2-135m-instruct-int4")
    spec = model.segment(0, 12)            # units [0, 12) in the model's numeric profile
    spec = model.segment(0, 12, "exact")   # the same weights, float32 activations
    spec = model.segment(0, 12, wire="fp16")   # hidden states leave as halves

A segment's graph and its weights are files of one flat folder, ``model.blobs_folder``, named by SHA-256; the graph
refers to the weights by those names, so a node needs nothing but copies of ``spec.files`` in one folder of its own.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.model.assemble import ASSEMBLY, assemble
from orchestrator.model.errors import ManifestError, ModelFilesLost
from orchestrator.model.graph import read_model, resolve
from orchestrator.model.kv_rounding import KvRounding
from orchestrator.model.manifest import Manifest, parse_json, read_manifest
from orchestrator.model.precision import PROFILES, check_profile
from orchestrator.model.quality_report import UNJUDGED_WIRE, read_quality
from orchestrator.model.split import SplitPlan, plan_split
from orchestrator.model.tokenizer import TOKENIZER_FILE, ModelTokenizer
from schemas import segment_tensors as tensors
from schemas.messages import WireDtype

if TYPE_CHECKING:
    from onnx import ModelProto

MANIFEST_FILE = "manifest.json"
GRAPH_FILE = "decoder.onnx"
TOKENIZER_FOLDER = "tokenizer"
SEGMENTS_FOLDER = "segments"


@dataclass(frozen=True)
class BlobRef:
    """A file in the blob folder."""

    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of a segment; a dimension is a number, or a name where it varies."""

    name: str
    dtype: str
    shape: tuple[str, ...]


@dataclass(frozen=True)
class SegmentSpec:
    """The units [start, stop) as a file to run and the files it needs. See `assemble` for the tensors' meanings.

    Attributes:
        layers: indices N of its ``past_key_values.N.*`` / ``present.N.*``, in order.
        width_in: width of ``hidden`` (or ``hidden_halves``), None if it starts with the embedding.
        width_out: width of ``hidden_out``, None if it ends with the head.
    """

    format: int
    assembly: int
    start: int
    stop: int
    profile: str
    graph: BlobRef
    blobs: tuple[BlobRef, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    layers: tuple[int, ...]
    width_in: int | None
    width_out: int | None
    hidden_dtype: str

    @property
    def files(self) -> tuple[BlobRef, ...]:
        """All that a node has to fetch."""
        return (self.graph, *self.blobs)

    @property
    def weight_bytes(self) -> int:
        return sum(b.size_bytes for b in self.blobs)


class Model:
    """A model in the store; opened by `ModelStore.open`."""

    def __init__(self, folder: Path, blobs_folder: Path, rounding: KvRounding | None = None) -> None:
        """``rounding``: of keys and values that its segments keep; None: they keep them as the model was converted."""
        self.folder = folder
        self.blobs_folder = blobs_folder
        self.rounding = rounding
        manifest = read_manifest(folder / MANIFEST_FILE)
        self.manifest: Manifest = manifest.with_rounded_kv(rounding) if rounding else manifest

    @property
    def tokenizer_path(self) -> Path:
        """The model's ``tokenizer.json``."""
        return self.folder / TOKENIZER_FOLDER / TOKENIZER_FILE

    def tokenizer(self) -> ModelTokenizer:
        """The model's tokenizer, chat template and end-of-answer ids."""
        return ModelTokenizer(self.folder / TOKENIZER_FOLDER)

    def with_rounding(self, rounding: KvRounding) -> Model:
        """The same model, whose segments keep keys and values rounded."""
        return Model(self.folder, self.blobs_folder, rounding)

    @property
    def variant(self) -> str:
        """What tells files of its segments from those of the same model with other keys and values; may be empty."""
        return f"-kv-{self.rounding.name}" if self.rounding else ""

    @functools.cached_property
    def plan(self) -> SplitPlan:
        """Its decoder cut into units."""
        return plan_split(resolve(read_model(self.folder / GRAPH_FILE), self.blobs_folder))

    @functools.cached_property
    def wire(self) -> WireDtype:
        """The type on the wire for those who choose none: what the model's figures speak for."""
        report = read_quality(self.folder)
        return UNJUDGED_WIRE if report is None else report.wire

    def segment(
        self,
        start: int,
        stop: int,
        profile: str | None = None,
        *,
        wire: WireDtype = "fp32",
        positions: int | None = None,
    ) -> SegmentSpec:
        """The segment of units [start, stop), 0 <= start < stop <= manifest.num_units; assembled once, then kept.

        Args:
            profile: a key of `PROFILES`; None for the model's own.
            wire: how hidden states travel; the graph converts those in float32 to and from halves itself.
            positions: that a text may have, dummies behind it included; None: as many as the model knows.

        Raises:
            ValueError: no such units.
            UnsupportedModel: no such profile.
            ModelFilesLost: somebody has removed files of the model.
        """
        profile = profile or self.manifest.profile
        check_profile(profile)
        if not 0 <= start < stop <= self.manifest.num_units:
            raise ValueError(f"no such segment: [{start}, {stop}) of {self.manifest.num_units} units")
        has_boundaries = start > 0 or stop < self.manifest.num_units
        halves = wire == "fp16" and self.manifest.hidden_dtype == "float32" and has_boundaries
        rows = positions if self.manifest.position_bytes else None
        variant = f"{profile}{'-halves' if halves else ''}{f'-{rows}' if rows else ''}{self.variant}"
        kept = self.folder / SEGMENTS_FOLDER / f"{start}-{stop}-{variant}.json"
        try:
            self._check_files(start, stop)
            return self._read_kept(kept) or self._assemble(start, stop, profile, halves, rows, kept)
        except FileNotFoundError as error:
            raise ModelFilesLost(self.manifest.name, Path(error.filename).name) from error

    def _check_files(self, start: int, stop: int) -> None:
        """Check that the files are there that a node will have to fetch: the model may have been open for months."""
        weights = (self.blobs_folder / blob.sha256 for blob in self.manifest.blobs_of(start, stop))
        for path in (self.folder / MANIFEST_FILE, self.folder / GRAPH_FILE, *weights):
            path.stat()

    def _read_kept(self, kept: Path) -> SegmentSpec | None:
        """Read the description of a segment that was assembled before, if it is whole."""
        if not kept.is_file():
            return None
        try:
            spec: SegmentSpec = parse_json(SegmentSpec, kept.read_text("utf-8"), str(kept))
        except ManifestError:
            return None  # written by another version: it costs little to make it again
        return spec if spec.assembly == ASSEMBLY and (self.blobs_folder / spec.graph.sha256).is_file() else None

    def _assemble(
        self, start: int, stop: int, profile: str, halves: bool, positions: int | None, kept: Path
    ) -> SegmentSpec:
        numerics = PROFILES[profile]
        graph = assemble(
            self.plan,
            start,
            stop,
            numerics.accuracy_level,
            halves=halves,
            dummies=numerics.same_bits,
            positions=positions,
            rounding=self.rounding,
        )
        sha256 = hashlib.sha256(graph).hexdigest()
        spec = self._spec(start, stop, profile, BlobRef(sha256, len(graph)), _parse(graph))
        kept.parent.mkdir(exist_ok=True)
        # The graph comes second: a model that is removed meanwhile takes all blobs along that nothing speaks of.
        write_file(kept, json.dumps(dataclasses.asdict(spec), indent=1, sort_keys=True).encode())
        write_file(self.blobs_folder / sha256, graph)
        return spec

    def _spec(self, start: int, stop: int, profile: str, graph: BlobRef, parsed: ModelProto) -> SegmentSpec:
        manifest = self.manifest
        read = {e.value for t in parsed.graph.initializer for e in t.external_data if e.key == "location"}
        has_head = stop == manifest.num_units
        layers = tuple(c for c in manifest.layers[max(start - 1, 0) : max(stop - 1, 0)])
        names = {i.name for i in parsed.graph.input}
        width_in = manifest.boundaries[start - 1].width if start else None
        width_out = None if has_head else manifest.boundaries[stop - 1].width
        hidden, tokens = manifest.hidden_dtype, ("batch_size", "sequence_length")
        inputs = [TensorSpec(tensors.IDS, "int64", tokens)] if start == 0 else []
        if tensors.HALVES_IN in names:
            inputs.append(TensorSpec(tensors.HALVES_IN, "float16", (*tokens, str(width_in))))
            inputs.append(TensorSpec(tensors.SCALE_IN, "float32", (*tokens, "1")))
        elif width_in is not None:
            inputs.append(TensorSpec(tensors.HIDDEN_IN, hidden, (*tokens, str(width_in))))
        if tensors.MASK in names:
            inputs.append(TensorSpec(tensors.MASK, "int64", ("batch_size", "total_sequence_length")))
        if tensors.LENGTHS in names:
            inputs += [
                TensorSpec(tensors.LENGTHS, "int32", ("batch_size",)),
                TensorSpec(tensors.TOTAL_LENGTH, "int32", ()),
            ]
        if tensors.ATTENTION_PADS in names:
            inputs += [
                TensorSpec(tensors.ATTENTION_PADS, "int64", ("6",)),
                TensorSpec(tensors.ATTENTION_END, "int64", ("1",)),
            ]
        if tensors.POSITIONS in names:
            inputs.append(TensorSpec(tensors.POSITIONS, "int64", tokens))
        outputs = [
            TensorSpec(tensors.LOGITS, manifest.logits_dtype, ("batch_size", "num_logits", str(manifest.vocab_size)))
        ]
        if width_out is not None:
            outputs = [TensorSpec(tensors.HIDDEN_OUT, hidden, (*tokens, str(width_out)))]
        if any(o.name == tensors.HALVES_OUT for o in parsed.graph.output):
            outputs.append(TensorSpec(tensors.HALVES_OUT, "float16", (*tokens, str(width_out))))
            outputs.append(TensorSpec(tensors.SQUARES_OUT, "float32", (*tokens, "1")))
        for cache in layers:
            for kind, count, dim in tensors.cache_parts(cache):
                heads = str(count)
                past = ("batch_size", heads, "past_sequence_length", str(dim))
                present = ("batch_size", heads, "total_sequence_length", str(dim))
                inputs.append(TensorSpec(tensors.past(cache.layer, kind), cache.dtype, past))
                outputs.append(TensorSpec(tensors.present(cache.layer, kind), cache.dtype, present))
            for state in cache.states:
                shape = ("batch_size", *map(str, state.shape))
                inputs.append(TensorSpec(tensors.past(cache.layer, state.name), cache.dtype, shape))
                outputs.append(TensorSpec(tensors.present(cache.layer, state.name), cache.dtype, shape))
        if has_head:
            inputs.append(TensorSpec(tensors.LOGIT_POSITIONS, "int64", ("num_logits",)))
        return SegmentSpec(
            format=manifest.format,
            assembly=ASSEMBLY,
            start=start,
            stop=stop,
            profile=profile,
            graph=graph,
            blobs=tuple(BlobRef(b.sha256, b.size_bytes) for b in manifest.blobs if b.sha256 in read),
            inputs=tuple(inputs),
            outputs=tuple(outputs),
            layers=tuple(c.layer for c in layers),
            width_in=width_in,
            width_out=width_out,
            hidden_dtype=hidden,
        )


def _parse(graph: bytes) -> ModelProto:
    from onnx import ModelProto

    parsed = ModelProto()
    parsed.ParseFromString(graph)
    return parsed


def write_file(path: Path, data: bytes) -> None:
    """Put a file there that is whole as soon as it can be seen."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_bytes(data)
    partial.replace(path)
