"""Fill in a manifest from the split graph and the files beside the checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.model.attention import check_head_size
from orchestrator.model.candidate import Candidate
from orchestrator.model.errors import UnsplittableGraph
from orchestrator.model.graph import PAST_NAME, SEQUENCE_INPUTS, Decoder
from orchestrator.model.json_file import read_optional
from orchestrator.model.manifest import FORMAT, Blob, BoundaryInfo, LayerCache, Manifest, SamplingDefaults, Unit
from orchestrator.model.rotary import computed_rows, row_bytes, table_pairs
from orchestrator.model.shapes import FLOAT_NAMES
from orchestrator.model.split import SplitPlan
from orchestrator.model.tokenizer import ModelTokenizer
from schemas.messages import FoldedState
from schemas.segment_tensors import CONV_PART, KV_PARTS, LOGITS, STATE_PARTS, past
from schemas.units import kinds_of

if TYPE_CHECKING:
    from onnx import NodeProto, ValueInfoProto


@dataclass(frozen=True)
class Identity:
    """The part of a manifest that does not come from the graph."""

    name: str
    source: str
    fingerprint: str
    profile: str
    version: str
    asked: str
    """The precision that was asked for."""


def describe(plan: SplitPlan, blobs: tuple[Blob, ...], folder: Path, identity: Identity, chosen: Candidate) -> Manifest:
    """The manifest of a packed model.

    Args:
        folder: the model's tokenizer and configuration files.
        chosen: what its weights are.

    Raises:
        UnsplittableGraph: sizes that a node must know are nowhere to be found.
    """
    config, genai = _settings(folder)
    tokenizer = ModelTokenizer(folder)
    decoder = plan.decoder
    logits = next(o for o in decoder.model.graph.output if o.name == LOGITS)
    vocabulary = _last_dim(logits) or _first_int(config.get("vocab_size"), genai.get("vocab_size"))
    context = _first_int(genai.get("context_length"), config.get("max_position_embeddings"))
    if not vocabulary or not context:
        raise UnsplittableGraph("neither the graph nor config.json gives the vocabulary and the context length")
    context = min([context, *_rotary_rows(decoder)])
    layers = tuple(_layer_cache(decoder, layer, config, genai) for layer in decoder.layers)
    boundaries = tuple(
        BoundaryInfo(i, b.width, FLOAT_NAMES[b.elem_type], len(b.tensors)) for i, b in enumerate(plan.boundaries, 1)
    )
    return Manifest(
        format=FORMAT,
        version=identity.version,
        name=identity.name,
        source=identity.source,
        fingerprint=identity.fingerprint,
        profile=identity.profile,
        precision=chosen.precision or _precision(decoder),
        asked=identity.asked,
        carried=chosen.carried,
        family=str(config.get("model_type") or genai.get("type") or "unknown"),
        vocab_size=vocabulary,
        max_context=context,
        logits_dtype=_dtype(logits),
        kv_dtype=layers[0].dtype,
        inputs=tuple(n for n in decoder.input_names if n in SEQUENCE_INPUTS),
        boundaries=boundaries,
        layers=layers,
        units=_units(plan, blobs, layers),
        blobs=blobs,
        position_bytes=row_bytes(decoder.initializers),
        bos_id=tokenizer.bos_id,
        eos_ids=tuple(sorted(tokenizer.eos_ids)),
        sampling=_sampling(folder),
        has_chat_template=tokenizer.chat_template is not None,
    )


def _settings(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    config = read_optional(folder / "config.json")
    genai = read_optional(folder / "genai_config.json").get("model", {})
    return config | config.get("text_config", {}), genai


def _sampling(folder: Path) -> SamplingDefaults:
    raw = read_optional(folder / "generation_config.json")

    def number(key: str) -> float | None:
        value = raw.get(key)
        return float(value) if isinstance(value, int | float) else None

    sample, top_k = raw.get("do_sample"), raw.get("top_k")
    return SamplingDefaults(
        do_sample=sample if isinstance(sample, bool) else None,
        temperature=number("temperature"),
        top_k=top_k if type(top_k) is int else None,
        top_p=number("top_p"),
        repetition_penalty=number("repetition_penalty"),
    )


def _units(plan: SplitPlan, blobs: tuple[Blob, ...], layers: tuple[LayerCache, ...]) -> tuple[Unit, ...]:
    flops = [0] * plan.num_units
    for step, unit in zip(plan.decoder.core, plan.unit_of, strict=True):
        if step.part != "add":
            flops[unit] += _flops(plan.decoder, plan.decoder.model.graph.node[step.node])
    units, kinds = [], kinds_of(plan.num_units)
    for index in range(plan.num_units):
        own = [b for b in blobs if index in b.units]
        cache = layers[index - 1] if plan.layer_of(index) is not None else None
        units.append(
            Unit(
                index=index,
                kind=kinds[index],
                layer=plan.layer_of(index),
                blobs=tuple(b.sha256 for b in own),
                weight_bytes=sum(b.size_bytes for b in own),
                flops_per_token=flops[index],
                kv_bytes_per_token=cache.bytes_per_token if cache else 0,
                state_bytes=cache.state_bytes if cache else 0,
            )
        )
    return tuple(units)


def _flops(decoder: Decoder, node: NodeProto) -> int:
    attributes = {a.name: a.i for a in node.attribute}
    if node.op_type == "MatMulNBits":
        return 2 * int(attributes["K"]) * int(attributes["N"])
    if node.op_type in ("MatMul", "Gemm"):
        shape = decoder.weight_shape(node.input[1])
        return 2 * shape[-1] * shape[-2] if len(shape) >= 2 else 0
    return 0


def _precision(decoder: Decoder) -> str:
    for node in decoder.model.graph.node:
        if node.op_type == "MatMulNBits":
            bits = next((a.i for a in node.attribute if a.name == "bits"), 4)
            return f"int{bits}"
    kinds = {t.data_type for t in decoder.initializers.values() if len(t.dims) >= 2}
    return "fp16" if 10 in kinds else "fp32"


def _layer_cache(decoder: Decoder, layer: int, config: Mapping[str, Any], genai: Mapping[str, Any]) -> LayerCache:
    inputs = {i.name: i for i in decoder.model.graph.input}
    if decoder.parts[layer] == (CONV_PART,):
        rows = inputs[past(layer, CONV_PART)]
        width = _last_dim(rows)
        if not width:
            raise UnsplittableGraph(f"the width of {rows.name} is unknown")
        return LayerCache(layer, 0, 0, 0, width, _dtype(rows), None)
    if decoder.parts[layer] == STATE_PARTS:
        states = tuple(_state(inputs[past(layer, part)], part) for part in STATE_PARTS)
        return LayerCache(layer, 0, 0, 0, 0, _dtype(inputs[past(layer, STATE_PARTS[0])]), None, states)
    key, value = (inputs[past(layer, kind)] for kind in KV_PARTS)
    attention = _attention(decoder, layer)
    attributes = {a.name: a.i for a in attention.attribute} if attention is not None else {}
    told = genai.get("decoder", {})
    heads = key.type.tensor_type.shape.dim[1].dim_value or attributes.get("kv_num_heads", 0)
    heads = heads or _first_int(config.get("num_key_value_heads"), told.get("num_key_value_heads")) or 0
    dim = _first_int(config.get("head_dim"), told.get("head_size")) or 0
    if not dim and _first_int(config.get("hidden_size")) and _first_int(config.get("num_attention_heads")):
        dim = int(config["hidden_size"]) // int(config["num_attention_heads"])
    key_dim = _last_dim(key) or _projected_dim(decoder, attention, heads, 1) or dim
    value_dim = _last_dim(value) or _projected_dim(decoder, attention, heads, 2) or dim
    if not heads or not key_dim or not value_dim:
        raise UnsplittableGraph(f"the shape of past_key_values.{layer} is unknown (heads {heads}, dimension {key_dim})")
    if attention is not None:
        check_head_size(key_dim, f"block {layer}", turned=bool(attributes.get("do_rotary")))
    window = attributes.get("local_window_size", -1)
    return LayerCache(layer, heads, key_dim, value_dim, 0, _dtype(key), window if window > 0 else None)


def _state(info: ValueInfoProto, part: str) -> FoldedState:
    shape = tuple(dim.dim_value for dim in info.type.tensor_type.shape.dim)[1:]
    if not shape or not all(shape) or _dtype(info) != "float32":
        raise UnsplittableGraph(f"{info.name} is not a state in float32 whose shape is known")
    return FoldedState(name=part, shape=shape)


def _rotary_rows(decoder: Decoder) -> list[int]:
    """Rows of the tables that attention turns vectors by; a text cannot be longer."""
    rows = []
    for cos in {cos for cos, _ in table_pairs(decoder.model.graph.node)}:
        rows += [computed_rows(decoder.initializers, cos), *decoder.weight_shape(cos)[:1]]
    return [count for count in rows if count]


def _attention(decoder: Decoder, layer: int) -> NodeProto | None:
    nodes: Iterable[NodeProto] = decoder.model.graph.node
    readers = (n for n in nodes if past(layer, KV_PARTS[0]) in n.input)
    return next((n for n in readers if n.op_type == "GroupQueryAttention"), None)


def _projected_dim(decoder: Decoder, attention: NodeProto | None, kv_heads: int, argument: int) -> int | None:
    """Head dimension from the width of what goes into GroupQueryAttention: packed QKV, or key and value apart."""
    if attention is None or not kv_heads:
        return None
    heads = next(a.i for a in attention.attribute if a.name == "num_heads")
    if attention.input[1]:
        separate = decoder.types.get(attention.input[argument])
        return separate.last_dim // kv_heads if separate and separate.last_dim else None
    packed = decoder.types.get(attention.input[0])
    return packed.last_dim // (heads + 2 * kv_heads) if packed and packed.last_dim else None


def _last_dim(info: ValueInfoProto) -> int | None:
    dims = info.type.tensor_type.shape.dim
    return dims[-1].dim_value or None if dims else None


def _dtype(info: ValueInfoProto) -> str:
    name = FLOAT_NAMES.get(info.type.tensor_type.elem_type)
    if name is None:
        what = "KV cache" if PAST_NAME.match(info.name) else "output"
        raise UnsplittableGraph(f"{what} {info.name!r} is neither float32 nor float16")
    return name


def _first_int(*values: Any) -> int | None:
    return next((v for v in values if type(v) is int), None)
