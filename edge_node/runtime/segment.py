"""One stage's part of the model, opened with ONNX Runtime.

Inputs and outputs are bound by address: hidden states live in the buffers of ``edge_node.runtime.hidden_buffers``,
lengths in buffers of this object, keys and values in the ``KvCache``, so that a decode step allocates nothing and, once
the shapes of steps are bound, binds nothing.

Where the plan wants every position to get the same bits in any run, runs have dummies behind them, hidden states of
zeros or tokens 0 (`schemas.run_lengths`). ``choose_runs`` finds out how many this processor needs.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from edge_node.errors import SegmentUnusable, runtime_reason
from edge_node.runtime.graph_check import check_graph
from edge_node.runtime.hidden_buffers import Payload, entry_for, exit_for
from edge_node.runtime.kv_cache import KvCache
from edge_node.runtime.packed_corrections.opening import open_with_corrections
from edge_node.runtime.run_choice import choose_runs
from edge_node.runtime.session import CPU, check_runtime, open_session
from edge_node.runtime.state_cache import StateCache
from edge_node.stage_spec import SegmentSpec
from edge_node.work import MAX_LOGITS, StateCopies
from schemas import segment_tensors as tensors
from schemas.codec import Dtype
from schemas.run_lengths import AS_WANTED, CANDIDATES

Array = NDArray[Any]
_DEVICE = "cpu"
_OPTIONAL_INPUTS = {
    tensors.LENGTHS, tensors.TOTAL_LENGTH, tensors.MASK, tensors.POSITIONS, tensors.LOGIT_POSITIONS,
    tensors.ATTENTION_PADS, tensors.ATTENTION_END,
}  # fmt: skip
_MAX_BINDINGS = 64
_NUMPY_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int8)": np.int8,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
}


@dataclass(slots=True)
class _Binding:
    """An IOBinding, and the numbers of positions and logits per slot, dummies among them, that it is bound for."""

    binding: Any
    count: int = 0
    logits: int = 0


class RunResult(NamedTuple):
    """What a run gave: ``output`` is (rows, width), a view that the next run overwrites."""

    output: Array
    compute_s: float


class Segment:
    """Units [start, stop) of a model, ready to run for ``slots`` requests of ``context_tokens`` positions."""

    def __init__(
        self,
        spec: SegmentSpec,
        graph_path: Path,
        *,
        threads: int,
        emulated_speed: float = 1.0,
        heir_of: Segment | None = None,
        limit_bytes: int | None = None,
        provider: str = CPU,
        packs_corrections: bool = True,
    ) -> None:
        """Open the graph; KV caches of layers that ``heir_of`` has, too, are shared with it.

        Args:
            limit_bytes: of its weights; see `edge_node.runtime.graph_check`.
            provider: of ONNX Runtime's, which computes what it can.
            packs_corrections: those of weights, where kernels take them (`edge_node.runtime.packed_corrections`).

        Raises:
            GraphRefused: it has what no graph of linguabus has; ONNX Runtime has not seen it.
            SegmentUnusable: ONNX Runtime refuses it, or its inputs are not the expected ones.
        """
        check_graph(graph_path, limit_bytes)
        check_runtime(spec)
        self.spec, self.threads = spec, threads
        self.ready: Any = None
        """The binding that could run one position of its slot next without a look at shapes; see ``get_ready``."""
        self.emulate(emulated_speed)
        self._clock = time.thread_time if threads == 1 else time.process_time
        self._run_options = ort.RunOptions()
        # Where all machines are to give the same bits, they compute the same graph.
        packs = packs_corrections and provider == CPU and not spec.same_bits
        packed = open_with_corrections(graph_path, threads) if packs else None
        self.has_packed_corrections = packed is not None
        self.session = packed or open_session(graph_path, threads, provider)
        self._dtypes = {
            node.name: _NUMPY_TYPES.get(node.type) for node in (*self.session.get_inputs(), *self.session.get_outputs())
        }
        self._input_names = {node.name for node in self.session.get_inputs()}
        self.runs = CANDIDATES[0] if spec.same_bits else AS_WANTED
        """How many positions a run computes; ``choose_runs`` sets what this processor needs."""
        rows = max(spec.chunk_tokens + spec.spare_rows, spec.slots)
        logit_rows = MAX_LOGITS + spec.spare_rows
        self.entry = entry_for(self._dtypes, rows, max(spec.width_in, 1))
        self._check_inputs()
        self._output_name = next(
            node.name for node in self.session.get_outputs() if not node.name.startswith(tensors.PRESENT)
        )
        self.kv: KvCache = KvCache(
            spec.kv_layers,
            slots=spec.slots,
            context_tokens=spec.context_tokens + spec.spare_positions,
            dtypes=self._dtypes,
            heir_of=heir_of.kv if heir_of else None,
        )
        self.states: StateCache = StateCache(
            spec.kv_layers, slots=spec.slots, heir_of=heir_of.states if heir_of else None
        )
        output_dtype = self._dtypes[self._output_name]
        self._ids = np.zeros(rows, np.int64)
        self._has_mask = tensors.MASK in self._input_names
        self._has_positions = tensors.POSITIONS in self._input_names
        longest = spec.context_tokens + spec.spare_positions
        self._mask = np.zeros(spec.slots * longest if self._has_mask else 0, np.int64)
        self._lengths = np.zeros(spec.slots, np.int32)
        self._total_length = np.zeros(1, np.int32)
        # To write a number, a memoryview takes half the time that an array takes.
        self.lengths_view, self.total_view = self._lengths.data, self._total_length.data
        self._range = np.arange(longest)
        self._positions = np.zeros(rows, np.int64)
        self._pads = np.zeros(6, np.int64)
        """What is put before and behind each axis of attention's inputs; dummies are behind the second."""
        self._attention_end = np.zeros(1, np.int64)
        self._logit_positions = np.zeros(logit_rows, np.int64)
        self._selected = (0, 0, 0)
        """What ``_logit_positions`` begins with: the last so many (second) of so many positions (first), then some to
        make so many in all (third)."""
        output_shape = (
            (max(spec.slots, logit_rows), spec.vocab_size) if spec.is_last else (rows, max(spec.width_out, 1))
        )
        output = np.zeros(output_shape, output_dtype)
        self.exit = exit_for(self._dtypes, self._output_name, output, spec.wire)
        self._bindings: dict[tuple[int, int, StateCopies | None], _Binding] = {}

    def _check_inputs(self) -> None:
        past = set()
        for layer in self.spec.kv_layers:
            past |= {tensors.past(layer.layer, part.name) for part in tensors.cache_parts(layer)}
            past |= {tensors.past(layer.layer, state.name) for state in layer.states}
        source = {tensors.IDS} if self.spec.is_first else {tensor.name for tensor in self.entry.tensors}
        unknown = self._input_names - past - source - _OPTIONAL_INPUTS
        unknown |= {name for name, dtype in self._dtypes.items() if dtype is None}
        missing = (past | source) - self._input_names
        if unknown or missing:
            raise SegmentUnusable(f"the segment's inputs are not the plan's: {sorted(unknown | missing)[:3]}")

    def _new_binding(self, slot: int, slots: int, copies: StateCopies | None) -> _Binding:
        """The binding of neighbouring slots; kept, because binding every layer's cache takes a while."""
        if len(self._bindings) >= _MAX_BINDINGS:
            del self._bindings[next(iter(self._bindings))]
        binding = self.session.io_binding()
        for buffer in self.kv.buffers:
            place = (_DEVICE, 0, buffer.data.dtype, buffer.shape_of(slots), buffer.slot_pointer(slot))
            binding.bind_input(buffer.past_name, *place)
            binding.bind_output(buffer.present_name, *place)
        if copies:
            for state in self.states.buffers:
                before, after = state.place(slot, copies.source), state.place(slot, copies.target)
                self._bind_input(binding, state.past_name, before, (1, *before.shape))
                self._bind_output(binding, state.present_name, after, (1, *after.shape))
        if tensors.LENGTHS in self._input_names:
            self._bind_input(binding, tensors.LENGTHS, self._lengths, (slots,))
            self._bind_input(binding, tensors.TOTAL_LENGTH, self._total_length, ())
        if tensors.ATTENTION_PADS in self._input_names:
            self._bind_input(binding, tensors.ATTENTION_PADS, self._pads, self._pads.shape)
            self._bind_input(binding, tensors.ATTENTION_END, self._attention_end, self._attention_end.shape)
        self._bindings[slot, slots, copies] = made = _Binding(binding)
        return made

    @property
    def step_positions(self) -> memoryview:
        """Position ids of a step, its dummies' too; empty where the graph takes none."""
        return self._positions[: self.runs.rows(1) if self._has_positions else 0].data

    @property
    def kernels(self) -> frozenset[str]:
        """Names of the kernels that the graph needs; empty where it does not tell."""
        told = self.session.get_modelmeta().custom_metadata_map.get(tensors.KERNELS, "")
        return frozenset(told.split(tensors.KERNELS_BETWEEN)) if told else frozenset()

    @property
    def kv_dtypes(self) -> frozenset[str]:
        """The element types of keys and values, and so of attention, by their names in NumPy."""
        return frozenset(str(buffer.data.dtype) for buffer in self.kv.buffers)

    @staticmethod
    def _bind_input(binding: Any, name: str, data: Array, shape: tuple[int, ...]) -> None:
        binding.bind_input(name, _DEVICE, 0, data.dtype, shape, data.ctypes.data)

    @staticmethod
    def _bind_output(binding: Any, name: str, data: Array, shape: tuple[int, ...]) -> None:
        binding.bind_output(name, _DEVICE, 0, data.dtype, shape, data.ctypes.data)

    def take_in(self, payload: Payload, dtype: Dtype, count: int = 1, begin: int = 0) -> None:
        """Put hidden states that arrived into rows [begin, begin + count) of the input.

        Raises:
            BadInput: a value is NaN or infinite; a segment that takes halves may find it only in what it gives.
        """
        self.entry.take(payload, dtype, begin, count)

    def give_out(self, count: int = 1, begin: int = 0) -> bytes:
        """The payload of rows [begin, begin + count) of what a run gave, as the plan's wire wants it.

        Raises:
            NotFinite: a value is NaN or infinite.
        """
        return self.exit.give(begin, count)

    def ids_input(self, rows: int, begin: int = 0) -> Array:
        """The buffer to write token ids to: (rows,), from row ``begin`` on."""
        return self._ids[begin : begin + rows]

    def run(
        self, slot: int, positions: Sequence[int], count: int, *, logits: int = 1, copies: StateCopies | None = None
    ) -> RunResult:
        """Compute ``count`` positions of each of the slots [slot, slot + len(positions)) from the input buffer.

        Args:
            slot: the first slot.
            positions: where each slot's new positions begin; more than one only with a ``count`` of 1, and not where
                runs have dummies behind them.
            count: positions per slot; the input buffer holds len(positions) x count rows.
            logits: last stage: how many of each slot's last positions need logits, ``MAX_LOGITS`` at most.
            copies: of the slot's folded states; None for a run that goes on where the slot's last one ended.

        Returns the hidden states (rows, width_out) or, on the last stage, the logits (slots x logits, vocabulary).

        Raises:
            SegmentUnusable: ONNX Runtime failed, for want of memory for example; or the run is none that it can do.
        """
        slots, rows, attended = len(positions), self.runs.rows(count), self.runs.attended(count)
        if slots > 1 and attended > 1:
            raise SegmentUnusable("several positions of several requests can't be computed in one run")
        if not self.states.buffers:
            copies = None
        elif slots > 1:
            raise SegmentUnusable("several requests can't be computed in one run, as each has a state of its own")
        elif copies is None:
            copies = self.states.on_from_last(slot, positions[0])
        else:
            self.states.check(slot, positions[0], copies)
        kept = self._bound(slot, slots, count, logits, copies)
        for index, position in enumerate(positions):
            self.lengths_view[index] = position + attended - 1  # as GroupQueryAttention wants them: less one
        self.total_view[0] = max(positions) + attended
        if self._has_mask:
            self._bind_mask(kept.binding, positions, attended)
        if self._has_positions:
            for index, position in enumerate(positions):
                self._positions[index * rows : (index + 1) * rows] = np.arange(position, position + rows)
        started = time.perf_counter()
        cpu_started = self._clock() if self._speed < 1.0 else 0.0
        try:
            self.session.run_with_iobinding(kept.binding, self._run_options)
        except Exception as error:  # as above
            raise cannot_run(error) from error
        if self._speed < 1.0:
            # A device of speed S needs 1/S of the time: the rest is waited, not computed.
            time.sleep((1.0 / self._speed - 1.0) * (self._clock() - cpu_started))
        compute_s = time.perf_counter() - started
        if copies:
            self.states.written(slot, positions[0] + count, copies)
        wanted = slots * (logits if self.spec.is_last else count)
        return RunResult(self.exit.rows(wanted), compute_s)

    def get_ready(self, slot: int) -> None:
        """Set ``ready`` to a binding that runs one position of a slot; before a run, only lengths and position ids have
        to be written, dummies included.

        It stays None where there is more to do in each run (a mask, an emulated speed, folded states).
        """
        if not (self._has_mask or self._speed < 1.0 or self.states.buffers):
            self.ready = self._bound(slot, 1, 1, 1, None).binding

    def _bound(self, slot: int, slots: int, count: int, logits: int, copies: StateCopies | None) -> _Binding:
        """The binding of neighbouring slots, with these shapes, and dummies where there have to be more positions."""
        self.ready = None
        kept = self._bindings.get((slot, slots, copies)) or self._new_binding(slot, slots, copies)
        rows, logit_rows = shapes = self.runs.rows(count), self.runs.rows(logits)
        if (kept.count, kept.logits) != shapes:
            self._bind_shapes(kept.binding, slots, *shapes)
            kept.count, kept.logits = shapes
        if self.spec.is_last and self._selected != (count, logits, logit_rows):
            self._selected = count, logits, logit_rows
            self._logit_positions[:logits] = self._range[count - logits : count]
            self._logit_positions[logits:logit_rows] = 0  # behind those that are wanted, any position does
        if count < rows:
            self._put_dummies(count, rows)
        self._pads[4], self._attention_end[0] = self.runs.attended(count) - rows, rows
        return kept

    def _put_dummies(self, begin: int, end: int) -> None:
        """Put something finite into rows [begin, end) of the input: what is not a number would spread to others."""
        if self.spec.is_first:
            self._ids[begin:end] = 0
        else:
            self.entry.clear(begin, end)

    def _bind_mask(self, binding: Any, positions: Sequence[int], count: int) -> None:
        """Ones over each slot's valid length, in a row as long as the longest of them."""
        total = max(positions) + count
        mask = self._mask[: len(positions) * total].reshape(len(positions), total)
        mask[...] = self._range[:total] < np.asarray(positions)[:, None] + count
        self._bind_input(binding, tensors.MASK, self._mask, mask.shape)

    def _bind_shapes(self, binding: Any, slots: int, count: int, logits: int) -> None:
        if self.spec.is_first:
            self._bind_input(binding, tensors.IDS, self._ids, (slots, count))
        else:
            for name, data in self.entry.tensors:
                self._bind_input(binding, name, data, (slots, count, data.shape[1]))
        if self.spec.is_last:
            self._bind_input(binding, tensors.LOGIT_POSITIONS, self._logit_positions, (logits,))
        if self._has_positions:
            self._bind_input(binding, tensors.POSITIONS, self._positions, (slots, count))
        height = logits if self.spec.is_last else count
        for name, data in self.exit.tensors:
            self._bind_output(binding, name, data, (slots, height, data.shape[1]))

    def copy_prefix(self, source: int, target: int, count: int, copies: tuple[int, int] | None = None) -> None:
        """Copy the first ``count`` positions of a slot to another, and of its folded states one copy to one there."""
        if copies:
            self.states.copy((source, copies[0]), (target, copies[1]))
        for buffer in self.kv.buffers:
            buffer.data[target, :, :count] = buffer.data[source, :, :count]

    def emulate(self, speed: float) -> None:
        """Behave like a device of this relative speed."""
        self._speed = speed
        self.ready = None

    def stop(self) -> None:
        """End the run that goes on before the graph's next node, and all later ones; from any thread."""
        self._run_options.terminate = True

    def choose_runs(self) -> None:
        """Find out how many dummies runs need, if they do.

        Raises:
            SegmentUnusable: none make this processor give the same bits in any run, though that is wanted.
        """
        if self.spec.same_bits:
            choose_runs(self)

    def warm_up(self) -> None:
        """Run once in both shapes, so that the first request does not pay for allocations; find out what runs need.

        The rows go to a cache of their own: the real one may be in use already, by the stage this one is the heir of.

        Raises:
            SegmentUnusable: as ``choose_runs``.
        """
        spec = self.spec
        self.choose_runs()
        with self.aside(spec.context_tokens):
            for length in (min(spec.chunk_tokens, spec.context_tokens), 1):
                self.run(0, (0,), length)

    @contextmanager
    def aside(self, context_tokens: int) -> Iterator[None]:
        """Send runs to caches of their own, of one slot: rows and states of requests are neither read nor written."""
        kept = self.kv, self.states, self._bindings
        rows = context_tokens + self.spec.spare_positions
        self.kv = KvCache(self.spec.kv_layers, slots=1, context_tokens=rows, dtypes=self._dtypes)
        self.states = StateCache(self.spec.kv_layers, slots=1)
        self._bindings, self.ready = {}, None
        try:
            yield
        finally:
            (self.kv, self.states, self._bindings), self.ready = kept, None


def cannot_run(error: Exception) -> SegmentUnusable:
    """What ONNX Runtime raised in a run, as an error of ours."""
    return SegmentUnusable(f"ONNX Runtime can't run the segment: {runtime_reason(error)}")
