"""A node that measures itself, and finds that its ONNX Runtime lacks what a model needs."""

from __future__ import annotations

import hashlib
import shutil
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest

from edge_node.storage.blob_store import BlobStore
from edge_node.telemetry.profiler import Profiler
from orchestrator.model.model import Model
from orchestrator.service.worker import probe_parts
from schemas.messages import BlobRef, NodeProfile, ProbeNode, ProbePart
from schemas.parts import UnitKind
from schemas.units import BLOCK, EMBED, HEAD

PATIENCE_S = 60.0


def files_of(parts: Iterable[ProbePart]) -> set[BlobRef]:
    return {blob for part in parts for blob in (part.graph, *part.blobs)}


def measured(model: Model, parts: tuple[ProbePart, ...], store: BlobStore) -> NodeProfile:
    """What the node answers, which has all files."""
    for blob in files_of(parts):
        if not store.path(blob.sha256).exists():
            shutil.copy(model.blobs_folder / blob.sha256, store.path(blob.sha256))
    done = threading.Event()
    profiler = Profiler(store, node="a", incarnation=1, threads=1, emulated_speed=1.0, wake=done.set)
    return answer_of(profiler, done, model, parts)


def answer_of(profiler: Profiler, done: threading.Event, model: Model, parts: tuple[ProbePart, ...]) -> NodeProfile:
    """The measurement's answer; its echoes come back at once."""
    command = ProbeNode(
        model="tiny", fingerprint="f", parts=parts, blob_urls=("http://127.0.0.1:9/blobs",),
        vocab_size=model.manifest.vocab_size, width=model.manifest.width, wire_dtype="fp32", same_bits=False,
        time_limit_s=0.01,
    )  # fmt: skip
    profiler.start(command, busy=False, max_message_bytes=1 << 20)
    while profiler.measures_link:
        for message in profiler.link_messages():
            profiler.echo(message)
    assert done.wait(PATIENCE_S)
    (answer,) = profiler.finished()
    return answer


class CopyingStore(BlobStore):
    """Fetches from a folder, and lets something happen after each time."""

    source: Path
    then: Callable[[], None]

    def fetch(self, blobs: Sequence[BlobRef], *_: Any, **__: Any) -> None:
        for blob in blobs:
            shutil.copy(self.source / blob.sha256, self.path(blob.sha256))
        self.then()


def with_unknown_operator(model: Model, part: ProbePart, store: BlobStore) -> ProbePart:
    """The part with a node that no ONNX Runtime has, as a newer one's is for an older one."""
    graph = onnx.load(str(model.blobs_folder / part.graph.sha256), load_external_data=False)
    node = next(node for node in graph.graph.node if node.op_type in ("Gather", "MatMul", "MatMulNBits"))
    node.op_type, node.domain = "FromTheFuture", "com.microsoft"
    content = graph.SerializeToString()
    blob = BlobRef(sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))
    store.path(blob.sha256).write_bytes(content)
    return replace(part, graph=blob)


def test_a_node_that_has_all_operators_measures_itself(tiny_model: Model, tmp_path: Path) -> None:
    answer = measured(tiny_model, probe_parts(tiny_model), BlobStore(tmp_path, limit_bytes=1 << 30))
    assert not answer.failure
    assert {unit.kind for unit in answer.units} == {EMBED, BLOCK, HEAD}


def test_a_plan_in_force_takes_no_files_from_a_measurement_that_goes_on(tiny_model: Model, tmp_path: Path) -> None:
    """Whoever measures too slowly is left out of the plan; it would be left out of all if its files went."""
    store, done = CopyingStore(tmp_path, limit_bytes=1 << 30), threading.Event()
    profiler = Profiler(store, node="a", incarnation=1, threads=1, emulated_speed=1.0, wake=done.set)
    store.source, store.then = tiny_model.blobs_folder, profiler.plan_committed
    parts = probe_parts(tiny_model)
    assert not answer_of(profiler, done, tiny_model, parts).failure
    assert all(store.path(blob.sha256).exists() for blob in files_of(parts))
    profiler.plan_committed()
    assert not any(store.path(blob.sha256).exists() for blob in files_of(parts))


@pytest.mark.parametrize("kind", [EMBED, BLOCK, HEAD])
def test_an_operator_that_is_missing_is_found_before_anything_is_planned(
    tiny_model: Model, tmp_path: Path, kind: UnitKind
) -> None:
    store = BlobStore(tmp_path, limit_bytes=1 << 30)
    parts = tuple(
        with_unknown_operator(tiny_model, part, store) if part.kind == kind else part
        for part in probe_parts(tiny_model)
    )
    answer = measured(tiny_model, parts, store)
    assert answer.code == "unusable"
    assert "FromTheFuture" in answer.failure
    assert answer.units == ()
