"""Opens a graph with ONNX Runtime, as a node wants it to run."""

from __future__ import annotations

from pathlib import Path

import onnxruntime as ort

from edge_node.errors import SegmentUnusable, runtime_reason
from edge_node.stage_spec import SegmentSpec
from schemas.codec import Dtype, kept_dtype

CPU = "CPUExecutionProvider"
ROUNDS_KV_SINCE = (1, 29)
"""The version from which on attention is known to keep keys and values in int8; 1.26 does not."""
ort.set_default_logger_severity(3)


def session_options(threads: int) -> ort.SessionOptions:
    """How a node runs a graph with so many threads."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    # A node waits for the network between runs: spinning threads would only burn its battery.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def check_runtime(spec: SegmentSpec) -> None:
    """Check that this ONNX Runtime has what a segment needs.

    Raises:
        SegmentUnusable: it is too old.
    """
    rounds = any(kept_dtype(layer) is Dtype.INT8 for layer in spec.kv_layers)
    version = tuple(int(number) for number in ort.__version__.split(".")[:2])
    if rounds and version < ROUNDS_KV_SINCE:
        since = ".".join(map(str, ROUNDS_KV_SINCE))
        raise SegmentUnusable(
            f"keys and values in int8 need ONNX Runtime {since} or newer, here is {ort.__version__}: update it, or have"
            " the orchestrator serve with --kv auto"
        )


def open_session(graph_path: Path, threads: int, provider: str = CPU) -> ort.InferenceSession:
    """Open a graph; what the provider can't run, the CPU does.

    Raises:
        SegmentUnusable: ONNX Runtime refuses it.
    """
    providers = list(dict.fromkeys((provider, CPU)))
    try:
        return ort.InferenceSession(str(graph_path), session_options(threads), providers=providers)
    except Exception as error:  # ONNX Runtime raises many unrelated types
        reason = runtime_reason(error)
        raise SegmentUnusable(f"ONNX Runtime {ort.__version__} can't open the segment: {reason}") from error
