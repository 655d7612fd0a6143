"""Loads that take far more memory or time than was planned come to an end, with a line that says so."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_node.errors import MemoryExceeded, SegmentUnusable, failure_code
from edge_node.runtime import load_limits
from edge_node.runtime.graph_check import check_model
from edge_node.runtime.load_limits import MemoryFence, time_limit
from edge_node.runtime.segment import cannot_run
from schemas.limits import MB

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts what a process asks for")


def limit() -> int:
    import resource

    return resource.getrlimit(resource.RLIMIT_DATA)[0]


@on_linux
def test_what_asks_for_far_more_than_planned_is_told_so_and_the_limit_goes() -> None:
    before = limit()
    with MemoryFence().around(10 * MB, 0):
        assert bytearray(150 * MB)
    words = "10 MB were, and it asks for more than 542 MB"
    with pytest.raises(MemoryExceeded, match=words) as error, MemoryFence().around(10 * MB, 0):
        bytearray(2_600 * MB)
    assert failure_code(error.value) == "no_room"
    assert limit() == before
    assert bytearray(300 * MB)


@on_linux
def test_a_graph_that_computes_its_sizes_ends_with_a_line() -> None:
    """What no look at the graph can find."""
    make, value = helper.make_node, helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            make("Shape", ["x"], ["shape"]),
            make("Mul", ["shape", "many"], ["size"]),
            make("ConstantOfShape", ["size"], ["huge"]),
            make("ReduceSum", ["huge"], ["y"]),
        ],
        "graph",
        [value("x", TensorProto.FLOAT, ["N"])],
        [value("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.array([650_000_000]), "many")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10).SerializeToString()
    check_model(made, lambda _: None)

    def load() -> None:
        session = ort.InferenceSession(made, providers=["CPUExecutionProvider"])
        try:
            session.run(None, {"x": np.ones(1, np.float32)})
        except Exception as error:  # as a segment does
            raise cannot_run(error) from error

    with pytest.raises(MemoryExceeded, match="252 MB were"), MemoryFence().around(252 * MB, 0):
        load()


@on_linux
@pytest.mark.parametrize("planned_bytes", [None, 0])
def test_where_nothing_is_planned_there_is_no_limit(planned_bytes: int | None) -> None:
    before = limit()
    with MemoryFence().around(planned_bytes, 0):
        assert limit() == before


@on_linux
def test_loads_at_the_same_time_have_room_for_both() -> None:
    before, fence = limit(), MemoryFence()
    with fence.around(100 * MB, 0):
        one = limit()
        with fence.around(200 * MB, 0):
            assert limit() - one == 3 * 200 * MB + load_limits._SPARE_BYTES
        assert limit() > one
    assert limit() == before


def test_other_errors_stay_as_they_are() -> None:
    with pytest.raises(SegmentUnusable, match="another shape"), MemoryFence().around(100 * MB, 0):
        raise SegmentUnusable("another shape")


class Endless:
    """Runs until it is stopped, as ONNX Runtime does."""

    def __init__(self) -> None:
        self.stopped = threading.Event()

    def stop(self) -> None:
        self.stopped.set()

    def run(self) -> None:
        assert self.stopped.wait(10)
        raise SegmentUnusable("Exiting due to terminate flag being set to true")


def test_a_run_that_does_not_end_is_stopped() -> None:
    segment = Endless()
    words = r"first runs were stopped: they took more than 0\.05 s"
    with pytest.raises(SegmentUnusable, match=words), time_limit(segment, 0.05):
        segment.run()


def test_a_run_that_ended_too_late_counts_as_one_that_was_stopped() -> None:
    segment = Endless()
    with pytest.raises(SegmentUnusable, match="were stopped"), time_limit(segment, 0.01):
        assert segment.stopped.wait(10)


@pytest.mark.parametrize("error", [None, SegmentUnusable("wrong shape")])
def test_what_ends_in_time_is_not_stopped(error: SegmentUnusable | None) -> None:
    segment = Endless()

    def run() -> None:
        with time_limit(segment, 0.05):
            if error:
                raise error

    if error:
        with pytest.raises(SegmentUnusable, match="wrong shape"):
            run()
    else:
        run()
    time.sleep(0.1)
    assert not segment.stopped.is_set()


def test_onnx_runtime_stops_between_nodes() -> None:
    """What ``Segment.stop`` relies on."""
    count = 400
    nodes = [helper.make_node("MatMul", [f"x{i}", "w"], [f"x{i + 1}"]) for i in range(count)]
    value: Callable[..., object] = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "graph",
        [value("x0", TensorProto.FLOAT, [700, 700]), value("w", TensorProto.FLOAT, [700, 700])],
        [value(f"x{count}", TensorProto.FLOAT, None)],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    session = ort.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    options = ort.RunOptions()

    class Running:
        def stop(self) -> None:
            options.terminate = True

    feeds = {name: np.zeros((700, 700), np.float32) for name in ("x0", "w")}

    def run() -> None:
        try:
            session.run(None, feeds, options)
        except Exception as error:
            raise cannot_run(error) from error

    with pytest.raises(SegmentUnusable, match="were stopped"), time_limit(Running(), 0.1):
        run()
