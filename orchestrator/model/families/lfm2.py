"""LFM2: blocks with a short convolution, and blocks with attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
from onnxruntime_genai.models import builder

from schemas.segment_tensors import CONV_PART, POSITIONS, past, present

_ANY_END = 2**31 - 1
Shape = list[int | str]


class Lfm2(builder.LFM2Model):  # type: ignore[misc]
    """The convolution looks its last inputs up in rows, one for each position, as attention does with keys and values.

    The builder keeps the last inputs themselves, which can't go back by a position (decision 28). Products and sums of
    single values give each position the same bits whatever run it is in.
    """

    def __init__(self, *args: Any, **others: Any) -> None:
        super().__init__(*args, **others)
        # Where attention turns vectors itself, the builder has no more use for positions.
        self.input_names["position_ids"] = POSITIONS
        for names, name_of in ((self.input_names["past.conv"], past), (self.output_names["present.conv"], present)):
            names.update({layer: name_of(layer, CONV_PART) for layer in names})

    def make_inputs_and_outputs(self) -> None:
        for shapes, key, tokens in (
            (self.input_shapes, "past.conv", "past_sequence_length"),
            (self.output_shapes, "present.conv", "total_sequence_length"),
        ):
            shapes[key] = ["batch_size", 1, tokens, self.hidden_size]
        super(builder.LFM2Model, self).make_inputs_and_outputs()

    def make_short_conv(self, layer_id: int, conv_module: Any, root_input: str) -> str:
        base = f"/model/layers.{layer_id}/conv"
        rows: Shape = ["batch_size", "sequence_length", self.hidden_size]
        projected = self._project(conv_module.in_proj, f"{base}/in_proj", root_input, 3 * self.hidden_size)
        gate, out_gate, given = (f"{base}/Split/output_{index}" for index in range(3))
        self.make_split(
            f"{base}/Split",
            [projected, f"/model/constants/INT64/{[self.hidden_size] * 3}"],
            [gate, out_gate, given],
            [self.io_dtype] * 3,
            [rows] * 3,
        )
        gated = self._op("Mul", f"{base}/gate", [gate, given], self.io_dtype, rows)
        before = self._rows_before(layer_id, base)
        self.make_node(
            "ScatterND",
            [past(layer_id, CONV_PART), self._places(), gated],
            [present(layer_id, CONV_PART)],
            name=f"{base}/ScatterND",
        )
        window = self._op("Concat", f"{base}/window", [before, gated], self.io_dtype, None, axis=1)
        total = self._convolve(layer_id, conv_module.conv, window, base)
        opened = self._op("Mul", f"{base}/out_gate", [out_gate, total], self.io_dtype, rows)
        return self._project(conv_module.out_proj, f"{base}/out_proj", opened, self.hidden_size)

    def _convolve(self, layer_id: int, conv: Any, window: str, base: str) -> str:
        """Of the inputs [B, L - 1 + S, W] each output's weighted sum of L: [B, S, W]."""
        rows: Shape = ["batch_size", "sequence_length", self.hidden_size]
        total = ""
        for tap in range(self.conv_L_cache):
            weight = f"model.layers.{layer_id}.conv.conv.weight.{tap}"
            self.make_initializer(conv.weight[:, 0, tap].contiguous(), weight, to=self.io_dtype)
            behind = self.conv_L_cache - 1 - tap
            bounds = [f"/model/constants/INT64/{[n]}" for n in (tap, -behind if behind else _ANY_END, 1)]
            shifted = self._op("Slice", f"{base}/tap{tap}/Slice", [window, *bounds], self.io_dtype, rows)
            product = self._op("Mul", f"{base}/tap{tap}/Mul", [shifted, weight], self.io_dtype, rows)
            total = self._op("Add", f"{base}/tap{tap}/Add", [total, product], self.io_dtype, rows) if tap else product
        if conv.bias is None:
            return total
        bias = f"model.layers.{layer_id}.conv.conv.bias"
        self.make_initializer(conv.bias, bias, to=self.io_dtype)
        return self._op("Add", f"{base}/bias/Add", [total, bias], self.io_dtype, rows)

    def _project(self, module: Any, name: str, given: str, width: int) -> str:
        product = f"{self.make_matmul(module, f'{name}/MatMul', given)}/output_0"
        if module.bias is None:
            return product
        rows: Shape = ["batch_size", "sequence_length", width]
        bias = f"{name[1:].replace('/', '.')}.bias"
        self.make_initializer(module.bias, bias, to=self.io_dtype)
        return self._op("Add", f"{name}/Add", [product, bias], self.io_dtype, rows)

    def _rows_before(self, layer_id: int, base: str) -> str:
        """The inputs [B, L - 1, W] of the positions before the new ones, zeros before the text."""
        shape: Shape = ["batch_size", self.conv_L_cache - 1]
        common, int64 = "/model/conv/before", ir.DataType.INT64
        offsets = f"/model/constants/INT64/{list(range(1 - self.conv_L_cache, 0))}"
        zero, first, one, two = (f"/model/constants/INT64/{n}" for n in (0, [0], [1], [2]))
        start = self._op("Slice", f"{common}/Slice", [POSITIONS, first, one, one], int64, ["batch_size", 1])
        before = self._op("Add", f"{common}/Add", [start, offsets], int64, shape)
        place = self._op("Max", f"{common}/Max", [before, zero], int64, shape)
        place = self._op("Unsqueeze", f"{common}/places", [place, two], int64, [*shape, 1])
        head = self._op("Mul", f"{common}/Mul", [place, zero], int64, [*shape, 1])
        places = self._op("Concat", f"{common}/Concat", [head, place], int64, [*shape, 2], axis=2)
        is_there = self._op("GreaterOrEqual", f"{common}/GreaterOrEqual", [before, zero], ir.DataType.BOOL, shape)
        is_there = self._op("Unsqueeze", f"{common}/is_there", [is_there, two], ir.DataType.BOOL, [*shape, 1])
        rows: Shape = [*shape, self.hidden_size]
        given = [past(layer_id, CONV_PART), places]
        found = self._op("GatherND", f"{base}/GatherND", given, self.io_dtype, rows, batch_dims=1)
        nothing = f"/model/constants/{self.io_dtype.name}/0.0"
        return self._op("Where", f"{base}/Where", [is_there, found, nothing], self.io_dtype, rows)

    def _places(self) -> str:
        """Where the new rows belong, [B, S, 3]: text, 0, position."""
        common, int64 = "/model/conv/new", ir.DataType.INT64
        shape: Shape = ["batch_size", "sequence_length", 1]
        zero, one, two = (f"/model/constants/INT64/{n}" for n in (0, 1, [2]))
        place = self._op("Unsqueeze", f"{common}/places", [POSITIONS, two], int64, shape)
        head = self._op("Mul", f"{common}/Mul", [place, zero], int64, shape)
        sizes = self._op("Shape", f"{common}/Shape", [POSITIONS], int64, [2])
        texts = self._op("Gather", f"{common}/Gather", [sizes, zero], int64, [], axis=0)
        texts = self._op("Range", f"{common}/Range", [zero, texts, one], int64, ["batch_size"])
        axes = "/model/constants/INT64/[1, 2]"
        texts = self._op("Unsqueeze", f"{common}/texts", [texts, axes], int64, ["batch_size", 1, 1])
        text = self._op("Add", f"{common}/Add", [head, texts], int64, shape)
        return self._op("Concat", f"{common}/Concat", [text, head, place], int64, [*shape[:2], 3], axis=2)

    def _op(self, kind: str, name: str, inputs: Sequence[str], dtype: Any, shape: Shape | None, **others: Any) -> str:
        """Make a node with one output, whose name is returned; one that is there already stays."""
        output = f"{name}/output_0"
        self.make_node(kind, inputs=list(inputs), outputs=[output], name=name, **others)
        self.make_value(output, dtype, shape=shape)
        return output
