"""Opens a graph with ONNX Runtime, as a node wants it to run."""

from __future__ import annotations

from pathlib import Path

import onnxruntime as ort

from edge_node.errors import SegmentUnusable, runtime_reason

CPU = "CPUExecutionProvider"
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
