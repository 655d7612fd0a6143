"""Look closely at a model that a stranger made, before its weights are taken in and anything is done with it.

Its manifest has to be what is found when its graph is looked at here; its graph may read from its own blobs only.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.model.assemble import assemble
from orchestrator.model.candidate import Candidate
from orchestrator.model.describe import Identity, describe
from orchestrator.model.errors import BrokenModel, ManifestError, ModelError
from orchestrator.model.graph import read_model, require_shared_caches, resolve
from orchestrator.model.manifest import Blob, Manifest, read_manifest
from orchestrator.model.model import GRAPH_FILE, MANIFEST_FILE, TOKENIZER_FOLDER
from orchestrator.model.parity_report import read_check
from orchestrator.model.precision import PRECISIONS, PROFILES
from orchestrator.model.quality_report import ROWS_FILE, read_quality, read_rows
from orchestrator.model.split import SplitPlan, plan_split
from orchestrator.model.weights import weight_groups
from schemas.limits import MAX_LINE

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

MOST_ROWS = 100_000


def examine(folder: Path, blob_sizes: Mapping[str, int]) -> Manifest:
    """Check all files of a model's folder that came from elsewhere; returns its manifest.

    Args:
        blob_sizes: bytes of each blob that comes with it, by SHA-256.

    Raises:
        ModelError: something is not as it has to be; by kind.
    """
    try:
        return _examine(folder, blob_sizes)
    except (BrokenModel, ManifestError) as error:  # their advice is for models that are in a store
        raise BrokenModel(str(error).replace(f"{folder}{os.sep}", "").partition(";")[0]) from error
    except ModelError:
        raise
    except Exception as error:  # a stranger's graph or tokenizer may trip up anything that reads it
        raise BrokenModel(f"it can't be understood ({type(error).__name__}: {error})") from error


def _examine(folder: Path, blob_sizes: Mapping[str, int]) -> Manifest:
    manifest = read_manifest(folder / MANIFEST_FILE)
    if manifest.precision not in PRECISIONS:
        raise BrokenModel(f"its manifest has a precision that is none, {manifest.precision[:20]!r}")
    if {b.sha256: b.size_bytes for b in manifest.blobs} != blob_sizes:
        raise BrokenModel("its manifest lists other weights than come with it")
    _check_reports(folder, manifest)
    model = read_model(folder / GRAPH_FILE)
    _check_weights(model, blob_sizes)
    decoder = resolve(model, folder)
    require_shared_caches(decoder)
    plan = plan_split(decoder)
    found = _describe(plan, manifest, folder)
    for field in dataclasses.fields(Manifest):
        if getattr(found, field.name) != getattr(manifest, field.name):
            raise BrokenModel(f"its manifest says something else than its graph and tokenizer: {field.name}")
    assemble(plan, 0, plan.num_units, dummies=PROFILES[manifest.profile].same_bits)
    return manifest


def _describe(plan: SplitPlan, told: Manifest, folder: Path) -> Manifest:
    """The manifest as it is found here; only where the model came from has to be believed."""
    readers: dict[str, set[int]] = {}
    for units, names in weight_groups(plan).items():
        for name in names:
            sha256 = _external(plan.decoder.initializers[name]).get("location")
            if sha256 is not None:
                readers.setdefault(sha256, set()).update(units)
    blobs = tuple(Blob(b.sha256, b.size_bytes, tuple(sorted(readers.get(b.sha256, ())))) for b in told.blobs)
    identity = Identity(told.name, told.source, told.fingerprint, told.profile, told.version, told.asked)
    chosen = Candidate(plan.decoder.model, told.precision, told.carried)
    return describe(plan, blobs, folder / TOKENIZER_FOLDER, identity, chosen)


def _check_reports(folder: Path, manifest: Manifest) -> None:
    """Figures are printed and chosen by: they have to be figures, and text has to be text."""
    check, quality = read_check(folder), read_quality(folder)
    records = [dataclasses.asdict(record) for record in (manifest, check, quality) if record is not None]
    for value in _values(records):
        if isinstance(value, str):
            is_plain = value.isprintable() and len(value) <= MAX_LINE
        else:
            is_plain = not isinstance(value, float) or math.isfinite(value)
        if not is_plain:
            raise BrokenModel("its description has text or a number in it that can't be printed")
    if check is not None and (check.precision, check.profile in PROFILES) != (manifest.precision, True):
        raise BrokenModel("its check.json is another model's")
    if quality is not None and (quality.profile != manifest.profile or "fp16" not in {w.wire for w in quality.wires}):
        raise BrokenModel("its quality.json is another model's")
    if (folder / ROWS_FILE).is_file():
        _check_rows(folder, manifest)


def _check_rows(folder: Path, manifest: Manifest) -> None:
    rows = read_rows(folder / ROWS_FILE)
    count = sum(max(len(passage) - 1, 0) for passage in rows.passages)
    ids = [*rows.best, *(token for passage in rows.passages for token in passage)]
    is_whole = {len(rows.best), len(rows.losses)} in ({count}, {0}) and count <= MOST_ROWS
    fits = all(len(passage) <= manifest.max_context for passage in rows.passages)
    if not (is_whole and fits and all(0 <= token < manifest.vocab_size for token in ids)):
        raise BrokenModel(f"its {ROWS_FILE} is another model's")
    if not all(map(math.isfinite, rows.losses)):
        raise BrokenModel(f"its {ROWS_FILE} has a loss that is no number")


def _values(record: Any) -> Iterator[Any]:
    if isinstance(record, dict | list | tuple):
        for value in record.values() if isinstance(record, dict) else record:
            yield from _values(value)
    else:
        yield record


def _check_weights(model: ModelProto, blob_sizes: Mapping[str, int]) -> None:
    """Each weight has to lie in a blob of the model's, all of it, or in the graph itself."""
    from onnx import helper

    inside = [*_inner_tensors(model.graph), *(t for f in model.functions for n in f.node for t in _node_tensors(n))]
    if model.graph.sparse_initializer or any(_external(tensor) for tensor in inside):
        raise BrokenModel("its graph has weights where none belong, in a node or in a sparse form")
    for tensor in model.graph.initializer:
        place = _external(tensor)
        if not place:
            continue
        try:
            offset, length = int(place["offset"]), int(place["length"])
            needed = math.prod(tensor.dims) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        except (KeyError, ValueError) as error:
            raise BrokenModel(f"weight {ascii(tensor.name)[:100]} lies nowhere, or has no type") from error
        size = blob_sizes.get(place.get("location", ""), -1)
        if min(offset, length, *tensor.dims, 0) < 0 or length != needed or offset + length > size:
            raise BrokenModel(f"weight {ascii(tensor.name)[:100]} does not lie in the model's own blobs")


def _external(tensor: TensorProto) -> dict[str, str]:
    """Where a tensor's bytes are outside of the graph; empty if they are in it."""
    from onnx import TensorProto

    if tensor.data_location != TensorProto.EXTERNAL and not tensor.external_data:
        return {}
    return {e.key: e.value for e in tensor.external_data} or {"location": ""}


def _inner_tensors(graph: GraphProto) -> Iterator[TensorProto]:
    """The tensors in nodes of a graph, and all of those of the graphs in it."""
    for node in graph.node:
        yield from _node_tensors(node)


def _node_tensors(node: NodeProto) -> Iterator[TensorProto]:
    for attribute in node.attribute:
        yield attribute.t
        yield from attribute.tensors
        for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
            yield from (sparse.values, sparse.indices)
        for graph in (attribute.g, *attribute.graphs):
            yield from graph.initializer
            for inner in graph.sparse_initializer:
                yield from (inner.values, inner.indices)
            yield from _inner_tensors(graph)
