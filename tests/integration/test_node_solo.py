"""Single steps with everything at hand give what the general way gives, whatever was run between them."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from edge_node.errors import SegmentUnusable
from edge_node.runtime.fast_decode_runner import FastDecodeRunner
from edge_node.runtime.sampling import choose_token
from edge_node.runtime.segment import Segment
from edge_node.wire.activations import encode_activation
from edge_node.work import Draw
from orchestrator.model.model import Model
from schemas.codec import Dtype
from schemas.messages import Sampling
from tests.integration.test_node_segment import PROMPT, specification

STEPS = 4
FIRST, LAST = 0, 2
Between = Callable[[Segment, FastDecodeRunner], object]


def segment_of(model: Model, stage: int, wire: str) -> Segment:
    cuts = [0, 2, 4, model.manifest.num_units]
    built = model.segment(cuts[stage], cuts[stage + 1], wire=wire)  # type: ignore[arg-type]
    spec = specification(model, cuts, stage, wire_dtype=wire).segment
    return Segment(spec, model.blobs_folder / built.graph.sha256, threads=1)


def given(segment: Segment, position: int) -> Any:
    """What the step at a position is computed from."""
    if segment.spec.is_first:
        return PROMPT[position % len(PROMPT)]
    hidden = np.random.default_rng(position).standard_normal((1, segment.spec.width_in)).astype(np.float32)
    return encode_activation(hidden * (1e6 if position == 2 else 1.0), segment.spec.wire)


def generally(segment: Segment, slot: int, position: int) -> bytes | int:
    payload = given(segment, position)
    if segment.spec.is_first:
        segment.ids_input(1)[0] = payload
    else:
        segment.take_in(payload, segment.spec.wire)
    output = segment.run(slot, [position], 1).output
    if not segment.spec.is_last:
        return segment.give_out()
    draw = Step(position, payload).draw()
    return choose_token(output[0], draw.sampling, draw.position, draw.history)


@dataclass
class Step:
    """What a lane says of its step."""

    position: int
    given: Any
    copies: None = None

    def draw(self) -> Draw:
        return Draw(Sampling(temperature=0.9, seed=5), self.position + 1, ())


def alone(fast_runner: FastDecodeRunner, segment: Segment, position: int) -> bytes | int:
    result, compute_s = fast_runner.step(Step(position, given(segment, position)))  # type: ignore[arg-type]
    assert compute_s > 0
    return result


def chunk(segment: Segment, fast_runner: FastDecodeRunner) -> None:
    """Somebody else's prompt."""
    if segment.spec.is_first:
        segment.ids_input(5)[...] = PROMPT[:5]
    else:
        hidden = np.ones((5, segment.spec.width_in), np.float32)
        segment.take_in(encode_activation(hidden, Dtype.FP32), Dtype.FP32, 5)
    segment.run(0, [0], 5, logits=3 if segment.spec.is_last else 1)


def batch(segment: Segment, fast_runner: FastDecodeRunner) -> None:
    """Steps of all slots, of which those that belong to nobody do no harm."""
    if not segment.spec.is_first:
        hidden = np.ones((3, segment.spec.width_in), np.float32)
        segment.take_in(encode_activation(hidden, Dtype.FP32), Dtype.FP32, 3)
    segment.run(0, [9, 20, 9], 1)


def somebody_else(segment: Segment, fast_runner: FastDecodeRunner) -> None:
    alone(FastDecodeRunner(segment, 2), segment, 0)


def a_moment_of_another_speed(segment: Segment, fast_runner: FastDecodeRunner) -> None:
    segment.emulate(0.5)
    alone(fast_runner, segment, 30)
    segment.emulate(1.0)


def nothing(segment: Segment, fast_runner: FastDecodeRunner) -> None:
    """The next step follows at once."""


@pytest.mark.parametrize("between", [nothing, chunk, batch, somebody_else, a_moment_of_another_speed])
@pytest.mark.parametrize("wire", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("stage", [FIRST, 1, LAST])
def test_steps_are_those_of_the_general_way(tiny_model: Model, stage: int, wire: str, between: Between) -> None:
    usual = segment_of(tiny_model, stage, wire)
    expected = [generally(usual, 1, position) for position in range(STEPS)]
    segment = segment_of(tiny_model, stage, wire)
    fast_runner = FastDecodeRunner(segment, 1)
    got = []
    for position in range(STEPS):
        got.append(alone(fast_runner, segment, position))
        assert segment.ready is not None, "the next step has everything at hand"
        between(segment, fast_runner)
    assert got == expected
    assert len(set(got)) == STEPS, "the steps differ"


def test_steps_keep_no_segment_in_memory(tiny_model: Model) -> None:
    segment = segment_of(tiny_model, FIRST, "fp32")
    fast_runner = FastDecodeRunner(segment, 0)
    alone(fast_runner, segment, 0)
    alive = weakref.ref(segment)
    del segment, fast_runner
    assert alive() is None, "without a collection of garbage"


def test_what_onnx_runtime_refuses_is_said(tiny_model: Model) -> None:
    segment = segment_of(tiny_model, FIRST, "fp32")
    fast_runner = FastDecodeRunner(segment, 0)
    with pytest.raises(SegmentUnusable, match="ONNX Runtime can't run the segment"):
        fast_runner.step(Step(0, segment.spec.vocab_size + 7))  # type: ignore[arg-type]
    assert alone(fast_runner, segment, 0) == generally(segment_of(tiny_model, FIRST, "fp32"), 0, 0)
