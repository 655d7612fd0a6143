"""One stage's part of the model, opened with ONNX Runtime.

Inputs and outputs are bound by address: hidden states and masks live in buffers of this object, keys and values
in the ``KvCache``, so that a decode step allocates nothing.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from edge_node.errors import SegmentUnusable
from edge_node.kv_cache import KvCache
from schemas.messages import PrepareSegment

ort.set_default_logger_severity(3)

Array = NDArray[Any]
_DEVICE = "cpu"
_HIDDEN = "hidden"
_NUMPY_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int64)": np.int64}


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a run gave: ``output`` is (rows, width), a view that the next run overwrites."""

    output: Array
    compute_s: float


class Segment:
    """Units [start, stop) of a model, ready to run for ``slots`` requests of ``context_tokens`` positions."""

    def __init__(self, spec: PrepareSegment, graph_path: Path, *, threads: int, emulated_speed: float = 1.0) -> None:
        """Open the graph.

        Raises:
            SegmentUnusable: ONNX Runtime refuses it, or its inputs are not the expected ones.
        """
        self.spec = spec
        self.is_first = spec.stage == 0
        self.is_last = spec.stage == len(spec.ring) - 1
        self._speed = emulated_speed
        self._clock = time.thread_time if threads == 1 else time.process_time
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        # A node waits for the network between runs: spinning threads would only burn its battery.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = ort.InferenceSession(str(graph_path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime raises many unrelated types
            raise SegmentUnusable(f"ONNX Runtime can't open the segment: {_first_line(error)}") from error
        self._dtypes = {
            node.name: _NUMPY_TYPES.get(node.type)
            for node in (*self._session.get_inputs(), *self._session.get_outputs())
        }
        self._input_names = {node.name for node in self._session.get_inputs()}
        self._check_inputs()
        self._output_name = next(
            node.name for node in self._session.get_outputs() if not node.name.startswith("present.")
        )
        self._kv = KvCache(spec.kv_layers, slots=spec.slots, context_tokens=spec.context_tokens, dtypes=self._dtypes)
        longest = spec.chunk_tokens
        self._ids = np.zeros((1, longest), np.int64)
        self._hidden_in = np.zeros((1, longest, max(spec.width_in, 1)), self._dtypes.get(_HIDDEN))
        self._mask = np.ones((1, spec.context_tokens), np.int64)
        self._positions = np.arange(spec.context_tokens, dtype=np.int64)
        self._logit_positions = np.zeros(1, np.int64)
        self._logits = np.zeros((1, 1, spec.vocab_size if self.is_last else 1), self._dtypes[self._output_name])
        self._hidden_out = np.zeros((1, longest, max(spec.width_out, 1)), self._dtypes[self._output_name])
        self._bindings = [self._new_binding(slot) for slot in range(spec.slots)]
        self._bound_counts = [0] * spec.slots

    def _check_inputs(self) -> None:
        past = {f"past_key_values.{layer.layer}.{part}" for layer in self.spec.kv_layers for part in ("key", "value")}
        source = "input_ids" if self.is_first else _HIDDEN
        unknown = self._input_names - past - {source, "attention_mask", "position_ids", "logit_positions"}
        unknown |= {name for name, dtype in self._dtypes.items() if dtype is None}
        missing = (past | {source}) - self._input_names
        if unknown or missing:
            raise SegmentUnusable(f"the segment's inputs are not the plan's: {sorted(unknown | missing)[:3]}")

    def _new_binding(self, slot: int) -> Any:
        binding = self._session.io_binding()
        for buffer in self._kv.buffers:
            place = (_DEVICE, 0, buffer.data.dtype, buffer.slot_shape, buffer.slot_pointer(slot))
            binding.bind_input(buffer.past_name, *place)
            binding.bind_output(buffer.present_name, *place)
        if "logit_positions" in self._input_names:
            self._bind_input(binding, "logit_positions", self._logit_positions, self._logit_positions.shape)
        if self.is_last:
            self._bind_output(binding, self._output_name, self._logits, self._logits.shape)
        return binding

    @staticmethod
    def _bind_input(binding: Any, name: str, data: Array, shape: tuple[int, ...], offset: int = 0) -> None:
        binding.bind_input(name, _DEVICE, 0, data.dtype, shape, data.ctypes.data + offset * data.itemsize)

    @staticmethod
    def _bind_output(binding: Any, name: str, data: Array, shape: tuple[int, ...]) -> None:
        binding.bind_output(name, _DEVICE, 0, data.dtype, shape, data.ctypes.data)

    def hidden_input(self, count: int) -> Array:
        """The buffer to write ``count`` incoming hidden states to: (count, width_in)."""
        return self._hidden_in[0, :count]

    def ids_input(self, count: int) -> Array:
        """The buffer to write ``count`` token ids to: (count,)."""
        return self._ids[0, :count]

    def run(self, slot: int, position: int, count: int) -> RunResult:
        """Compute positions [position, position + count) of a slot from the input buffer.

        Returns the hidden states (count, width_out) or, on the last stage, the logits of the last of them
        (1, vocabulary).

        Raises:
            SegmentUnusable: ONNX Runtime failed, for want of memory for example.
        """
        binding = self._bindings[slot]
        if self._bound_counts[slot] != count:
            self._bind_shapes(binding, count)
            self._bound_counts[slot] = count
        if "attention_mask" in self._input_names:
            self._bind_input(binding, "attention_mask", self._mask, (1, position + count))
        if "position_ids" in self._input_names:
            self._bind_input(binding, "position_ids", self._positions, (1, count), offset=position)
        self._logit_positions[0] = count - 1
        started = time.perf_counter()
        cpu_started = self._clock()
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:  # as above
            raise SegmentUnusable(f"ONNX Runtime can't run the segment: {_first_line(error)}") from error
        if self._speed < 1.0:
            # A device of speed S needs 1/S of the time: the rest is waited, not computed.
            time.sleep((1.0 / self._speed - 1.0) * (self._clock() - cpu_started))
        compute_s = time.perf_counter() - started
        return RunResult(self._logits[0] if self.is_last else self._hidden_out[0, :count], compute_s)

    def _bind_shapes(self, binding: Any, count: int) -> None:
        if self.is_first:
            self._bind_input(binding, "input_ids", self._ids, (1, count))
        else:
            self._bind_input(binding, _HIDDEN, self._hidden_in, (1, count, self.spec.width_in))
        if not self.is_last:
            self._bind_output(binding, self._output_name, self._hidden_out, (1, count, self.spec.width_out))

    def warm_up(self) -> None:
        """Run once in both shapes, so that the first request does not pay for allocations."""
        count = min(self.spec.chunk_tokens, self.spec.context_tokens)
        for length in (count, 1):
            self.run(0, 0, length)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
