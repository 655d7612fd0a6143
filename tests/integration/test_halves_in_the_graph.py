"""Graphs that convert hidden states to and from halves themselves send the bytes that NumPy's way sends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from edge_node.errors import NotFinite
from edge_node.runtime.execute import execute
from edge_node.runtime.segment import Segment
from edge_node.wire.activations import decode_activation, encode_activation, quiet
from edge_node.work import Draw, Work
from orchestrator.model.model import Model
from schemas.codec import Dtype
from schemas.messages import Sampling
from tests.integration.test_node_segment import EPOCH, PROMPT, activation, row, specification

ROWS = 8
Floats = NDArray[np.float32]


@pytest.fixture(autouse=True, scope="module")
def _quiet() -> Iterator[None]:
    with quiet():
        yield


def opened(model: Model, stage: int, *, wire: str = "fp16", stages: int = 3, **changes: Any) -> Segment:
    """A stage with the wire ``wire``; its hidden states are converted by its graph if that is fp16."""
    units = model.manifest.num_units
    cuts = [0, 2, 4, units] if stages == 3 else [0, units]
    built = model.segment(cuts[stage], cuts[stage + 1], wire=wire)  # type: ignore[arg-type]
    spec = specification(model, cuts, stage, wire_dtype="fp16", **changes).segment
    return Segment(spec, model.blobs_folder / built.graph.sha256, threads=1)


def converting(model: Model, path: Path, *, inwards: bool) -> Segment:
    """Of a graph the nodes that convert what comes in, or what goes out, and nothing between."""
    from onnx import helper

    graph = onnx.load(str(model.blobs_folder / model.segment(2, 4, wire="fp16").graph.sha256), load_external_data=False)
    made = {"hidden"} if inwards else {"halves_out", "squares_out"}
    kept: list[Any] = []
    for node in reversed(graph.graph.node):
        if made.intersection(node.output):
            kept.insert(0, node)
            made.update(set(node.input) - {"hidden_out"})
    kept.insert(len(kept) if inwards else 0, helper.make_node("Identity", ["hidden"], ["hidden_out"]))
    read = {name for node in kept for name in node.input}
    written = {name for node in kept for name in node.output}
    floats = next(info for info in graph.graph.output if info.name == "hidden_out")
    hidden = onnx.ValueInfoProto()
    hidden.CopyFrom(floats)
    hidden.name = "hidden"
    inputs = [info for info in graph.graph.input if info.name in read] if inwards else [hidden]
    outputs = [info for info in graph.graph.output if info.name in written]
    alone = helper.make_model(
        helper.make_graph(kept, "converting", inputs, outputs),
        opset_imports=graph.opset_import,
        ir_version=graph.ir_version,
    )
    onnx.save(alone, str(path))
    spec = specification(model, [0, 2, 4, model.manifest.num_units], 1, kv_layers=(), wire_dtype="fp16").segment
    return Segment(spec, path, threads=1)


def states(width: int) -> Iterator[Floats]:
    """(ROWS, width) of all magnitudes and both ends of each decision, from subnormals to what is not finite."""
    generator = np.random.default_rng(4)
    for scale in (1e-40, 1e-9, 1e-3, 0.9, 1.0, 1.5, 30.0, 3e3, 1e4, 9e4, 1e7, 1e30):
        values = (generator.standard_normal((ROWS, width)) * scale).astype(np.float32)
        values[::2, 3] *= 50
        yield values
    for peak in (0.5, 0.999999, 1.0, 1.5, 2.0, 2.0**15 - 0.01, 2.0**15, 65_504.0, 65_520.0, 2.0**31):
        yield np.full((ROWS, width), peak, np.float32)
        yield np.eye(ROWS, width, dtype=np.float32) * np.float32(peak)
    tiny = generator.standard_normal((ROWS, width)) * 2.0 ** generator.integers(-40, -8, (ROWS, width))
    tiny[:, 0] = 100.0  # no scale is needed, so the others become subnormal halves
    yield tiny.astype(np.float32)
    halfway = np.arange(ROWS * width, dtype=np.uint32).reshape(ROWS, width) * 0x1000 + 0x3F800000
    yield halfway.view(np.float32)  # every second is halfway between two halves
    for bad in (np.nan, np.inf, -np.inf):
        spoilt = generator.standard_normal((ROWS, width)).astype(np.float32) * 5
        spoilt[2, 7] = bad
        yield spoilt
    yield generator.integers(0, 1 << 32, (ROWS, width), np.uint64).astype(np.uint32).view(np.float32)


def encoded(values: Floats) -> bytes | None:
    """None: refused."""
    try:
        return encode_activation(values, Dtype.FP16)
    except NotFinite:
        return None


def given_out(segment: Segment, count: int, begin: int) -> bytes | None:
    try:
        return segment.give_out(count, begin)
    except NotFinite:
        return None


def test_what_leaves_has_the_bytes_of_numpy(tiny_model: Model, tmp_path: Path) -> None:
    segment = converting(tiny_model, tmp_path / "out", inwards=False)
    kinds = set()
    for values in states(segment.spec.width_out):
        with np.errstate(all="ignore"):
            segment.entry.tensors[0].data[:ROWS] = values
        segment.run(0, [0], ROWS)
        assert given_out(segment, ROWS, 0) == encoded(values)
        for index in range(ROWS):
            expected = encoded(values[index : index + 1])
            assert given_out(segment, 1, index) == expected
            kinds.add(None if expected is None else expected[-1] != 0)
    assert kinds == {None, True, False}, "refused, with a scale and without"


def test_what_enters_has_the_bits_of_numpy(tiny_model: Model, tmp_path: Path) -> None:
    segment = converting(tiny_model, tmp_path / "in", inwards=True)
    for values in states(segment.spec.width_in):
        payloads = [(encoded(values), 0, ROWS), *((encoded(values[n : n + 1]), n, 1) for n in range(ROWS))]
        for payload, begin, count in payloads:
            if payload is None:
                continue
            expected = np.empty((count, values.shape[1]), np.float32)
            decode_activation(payload, Dtype.FP16, expected)
            segment.take_in(memoryview(payload), Dtype.FP16, count, begin)
            found = segment.run(0, [0], ROWS).output[begin : begin + count]
            assert (found.view(np.uint32) == expected.view(np.uint32)).all()


def test_halves_that_are_no_numbers_are_found_where_they_come_or_where_they_leave(
    tiny_model: Model, tmp_path: Path
) -> None:
    segment = converting(tiny_model, tmp_path / "in", inwards=True)
    width = segment.spec.width_in
    for bad in (np.nan, np.inf):
        halves = np.ones((2, width), np.float16)
        halves[1, 5] = bad
        with pytest.raises(NotFinite):
            segment.take_in(halves.tobytes() + bytes(2), Dtype.FP16, 2)
        with pytest.raises(NotFinite):
            segment.take_in(halves[1:].tobytes() + b"\x01", Dtype.FP16, 1)
        segment.take_in(halves[1:].tobytes() + b"\0", Dtype.FP16, 1)
        segment.run(0, [0], 1)
        with pytest.raises(NotFinite):
            segment.give_out()


def test_other_element_types_are_taken_in_as_halves(tiny_model: Model, tmp_path: Path) -> None:
    segment = converting(tiny_model, tmp_path / "in", inwards=True)
    values = np.random.default_rng(1).standard_normal((3, segment.spec.width_in)).astype(np.float32) * 1e6
    segment.take_in(values.tobytes(), Dtype.FP32, 3)
    found = segment.run(0, [0], 3).output
    assert np.abs(found - values).max() <= np.abs(values).max() * 2.0**-11


def test_a_ring_of_graphs_with_halves_sends_the_same_frames(tiny_model: Model) -> None:
    """A prompt in chunks, then steps alone and in batches around an idle slot."""
    rings = [[opened(tiny_model, stage, wire=wire) for stage in range(3)] for wire in ("fp32", "fp16")]
    works = [
        *(Work(("main", EPOCH, 0), (row(0, 16, slot=slot, ids=PROMPT[slot : slot + 16]),)) for slot in range(3)),
        Work(("main", EPOCH, 0), (row(16, 1, slot=1, ids=[9]),)),
        Work(
            ("main", EPOCH, 0),
            tuple(row(16, 1, slot=slot, ids=[5 + slot]) for slot in (0, 2)),
            idle=((1, 17),),
        ),
    ]  # fmt: skip
    for work in works:
        with_floats, with_halves = (sent(segments, work) for segments in rings)
        assert with_floats == with_halves


def sent(segments: list[Segment], work: Work) -> list[Any]:
    """What each stage gives when the first computes ``work``."""
    seen: list[Any] = []
    for segment in segments:
        results = execute(segment, work).rows
        seen += results
        if segment.spec.is_last:
            break
        frames = [activation(bytes(r.payload or b""), work.rows[0].count, segment.spec.width_out, Dtype.FP16)
                  for r in results]  # fmt: skip
        draws = [Draw(Sampling(), one.position + one.count, ()) for one in work.rows]
        rows = tuple(
            row(one.position, one.count, slot=one.slot, frame=frame, draw=draw, sample=True)
            for one, frame, draw in zip(work.rows, frames, draws, strict=True)
        )
        work = Work(work.key, rows, work.idle)
    return seen


@pytest.mark.parametrize("stage", [1, 2])
def test_a_state_that_is_not_finite_fails_its_request_only(tiny_model: Model, stage: int) -> None:
    """In a batch, whose other rows give what they give alone; and the slot then serves the next request."""
    segment, fresh = opened(tiny_model, stage), opened(tiny_model, stage)
    width = segment.spec.width_in
    good = np.random.default_rng(2).standard_normal((1, width)).astype(np.float32) * 3
    bad = np.full((1, width), np.nan, np.float16).tobytes() + b"\0"
    payloads = [encode_activation(good, Dtype.FP16), bad, encode_activation(good * 2, Dtype.FP16)]

    def rows(position: int, sent: list[bytes]) -> Work:
        return Work(
            ("main", EPOCH, stage),
            tuple(
                row(position, 1, slot=slot, sample=True, draw=Draw(Sampling(), position + 1, ()),
                    frame=activation(payload, 1, width, Dtype.FP16))
                for slot, payload in enumerate(sent)
            ),
        )  # fmt: skip

    failed = execute(segment, rows(0, payloads)).rows
    assert [result.failure_code if result.failure else None for result in failed] == [None, "bad_input", None]
    kept = execute(fresh, rows(0, [payloads[0], payloads[0], payloads[2]])).rows
    assert [failed[0], failed[2]] == [kept[0], kept[2]]
    for position in (0, 1):
        again = execute(segment, rows(position, [payloads[0]] * 3)).rows
        assert again == execute(fresh, rows(position, [payloads[0]] * 3)).rows
