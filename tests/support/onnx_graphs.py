"""Small hand-made decoder graphs for the splitter: additive "attention", so that what is alive where is plain to see.

``[B, S, WIDTH]`` hidden states; the KV cache of a block is its input, summed over time into its output.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, TensorProto, helper, numpy_helper

WIDTH, VOCABULARY = 8, 16


class DecoderMaker:
    """Builds a decoder node by node; `block` and `head` append the usual parts."""

    def __init__(self, seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[Any] = []
        self.weights: list[TensorProto] = []
        self.values: list[Any] = []
        self.inputs = [
            helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["B", "S"]),
            helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["B", "T"]),
        ]
        self.outputs: list[Any] = []
        self.layers = 0
        self.weight("table", VOCABULARY, WIDTH)
        self.add("Gather", ["table", "input_ids"], "embedded")

    def weight(self, name: str, *shape: int) -> str:
        """A random float32 weight."""
        values = self.random.normal(size=shape).astype(np.float32)
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def ints(self, name: str, *values: int) -> str:
        """An int64 constant."""
        self.weights.append(numpy_helper.from_array(np.array(values, np.int64), name))
        return name

    def add(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """A node with one output."""
        self.nodes.append(helper.make_node(op, inputs, [output], name=f"make_{output}", **attributes))
        return output

    def lengths(self) -> list[str]:
        """Names of each row's length less one, and of the length with the cache: from the mask, once."""
        if self.layers == 1:
            self.ints("axis_of_tokens", 1)
            self.ints("one", 1)
            counted = self.add("ReduceSum", ["attention_mask", "axis_of_tokens"], "counted", keepdims=0)
            self.add("Cast", [self.add("Sub", [counted, "one"], "less_one")], "row_lengths", to=TensorProto.INT32)
            self.ints("second", 1)
            size = self.add("Gather", [self.add("Shape", ["attention_mask"], "mask_shape"), "second"], "mask_size")
            self.add("Squeeze", [self.add("Cast", [size], "int_size", to=TensorProto.INT32)], "whole_length")
        return ["row_lengths", "whole_length"]

    def block(self, hidden: str, extra: str | None = None) -> str:
        """A block with a KV cache on the residual stream ``hidden``; ``extra`` is added to what it returns."""
        n = self.layers
        self.layers += 1
        for kind in ("key", "value"):
            shape = ["B", 1, "P", WIDTH]
            past = helper.make_tensor_value_info(f"past_key_values.{n}.{kind}", TensorProto.FLOAT, shape)
            present = helper.make_tensor_value_info(f"present.{n}.{kind}", TensorProto.FLOAT, ["B", 1, "T", WIDTH])
            self.inputs.append(past)
            self.outputs.append(present)
        parts = ("query", "key", "value")
        projected = [self.add("MatMul", [hidden, self.weight(f"w{n}{p}", WIDTH, WIDTH)], f"{p}{n}") for p in parts]
        cache = [f"past_key_values.{n}.key", f"past_key_values.{n}.value"]
        attended, *present = f"attended{n}", f"present.{n}.key", f"present.{n}.value"
        self.nodes.append(
            helper.make_node(
                "GroupQueryAttention",
                [*projected, *cache, *self.lengths()],
                [attended, *present],
                name=f"attend{n}",
                domain="com.microsoft",
                num_heads=1,
                kv_num_heads=1,
            )
        )
        self.values.append(helper.make_tensor_value_info(attended, TensorProto.FLOAT, ["B", "S", WIDTH]))
        out = self.add("Add", [hidden, attended], f"residual{n}")
        return out if extra is None else self.add("Add", [out, extra], f"widened{n}")

    def head(self, hidden: str) -> ModelProto:
        """The head on ``hidden``, and the finished model."""
        self.add("MatMul", [hidden, self.weight("head", WIDTH, VOCABULARY)], "logits")
        logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["B", "S", VOCABULARY])
        graph: GraphProto = helper.make_graph(
            self.nodes, "decoder", self.inputs, [logits, *self.outputs], self.weights, value_info=self.values
        )
        return helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)], ir_version=10
        )


def save(model: ModelProto, folder: Path) -> Path:
    """Write ``model.onnx`` and what a model folder needs beside it; returns the folder."""
    import json

    from tests.support.tiny_models import make_tokenizer

    make_tokenizer(folder)
    config = {"model_type": "handmade", "max_position_embeddings": 64, "vocab_size": VOCABULARY}
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return folder
