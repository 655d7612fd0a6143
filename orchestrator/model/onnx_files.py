"""Decoders in ONNX as they lie in folders: onnxruntime-genai's layout, and that of exports on the Hugging Face hub.

The former has ``model.onnx`` beside ``genai_config.json``. The latter have a folder ``onnx`` with one graph for each
precision (``model_q4.onnx``, ``decoder_model_merged_fp16.onnx``), large weights beside them (``..._data``), and
sometimes the embedding in a graph of its own, ``embed_tokens`` with the same ending, whose result the decoder takes.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.model.errors import UnsplittableGraph, UnsupportedModel
from orchestrator.model.graph import read_model
from schemas.segment_tensors import IDS

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto

ONNX_FOLDER = "onnx"
STEMS = ("model", "decoder_model_merged")
EMBEDDING_STEM = "embed_tokens"
EMBEDDED = "inputs_embeds"
_PREFIX = f"{EMBEDDING_STEM}/"


def onnx_file(folder: Path) -> Path | None:
    """The decoder of a model folder: next to its config, or in its ``onnx`` sub-folder; None if there is none.

    Raises:
        UnsupportedModel: there are several, and none of them has the plain name.
    """
    for place in (folder, folder / ONNX_FOLDER):
        for stem in STEMS:
            if (place / f"{stem}.onnx").is_file():
                return place / f"{stem}.onnx"
            others = sorted(place.glob(f"{stem}_*.onnx"))
            if len(others) > 1:
                raise UnsupportedModel(f"{place} has {len(others)} decoders: name one of them, for example {others[0]}")
            if others:
                return others[0]
    return None


def is_decoder(file: Path) -> bool:
    """Whether an ONNX file's name is one of a decoder's."""
    return any(file.stem == stem or file.stem.startswith(f"{stem}_") for stem in STEMS)


def embedding_file(decoder: Path) -> Path:
    """The embedding that belongs to a decoder without one."""
    stem = next(stem for stem in STEMS if decoder.stem.startswith(stem))
    return decoder.with_name(f"{EMBEDDING_STEM}{decoder.stem.removeprefix(stem)}.onnx")


def takes_embedded(model: ModelProto) -> bool:
    """Whether a decoder takes embedded tokens instead of their ids."""
    return any(info.name == EMBEDDED for info in model.graph.input)


def read_decoder(path: Path) -> ModelProto:
    """The graph in ``path``, with its embedding if that is in a file of its own; weights stay on disk.

    Raises:
        BrokenModel: see `orchestrator.model.graph.read_model`.
        UnsplittableGraph: it takes embedded tokens, and there is no graph beside it that makes them.
    """
    model = read_model(path)
    if takes_embedded(model):
        beside = embedding_file(path)
        if not beside.is_file():
            raise UnsplittableGraph(
                f"{path.name} takes {EMBEDDED!r}, which {beside.name} would make, but it is not there"
            )
        _join(read_model(beside), model, beside.name)
    return model


def _join(embedding: ModelProto, decoder: ModelProto, name: str) -> None:
    """Put the embedding's nodes before the decoder's; its names get a prefix of their own."""
    inputs, outputs = embedding.graph.input, embedding.graph.output
    if [i.name for i in inputs] != [IDS] or len(outputs) != 1:
        raise UnsplittableGraph(f"{name} is not an embedding with one input {IDS!r} and one output")
    known = {opset.domain: opset.version for opset in decoder.opset_import}
    for opset in embedding.opset_import:
        if known.setdefault(opset.domain, opset.version) != opset.version:
            raise UnsplittableGraph(f"{name} is made for another version of ONNX ({opset.version}) than the decoder")
    missing = [
        opset for opset in embedding.opset_import if opset.domain not in {o.domain for o in decoder.opset_import}
    ]
    decoder.opset_import.extend(missing)
    taken = next(info for info in decoder.graph.input if info.name == EMBEDDED)
    value = type(taken)()
    value.CopyFrom(taken)
    _rename(embedding.graph, {IDS: IDS, outputs[0].name: EMBEDDED, "": ""})
    nodes = [*embedding.graph.node, *decoder.graph.node]
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del decoder.graph.node[:]
    decoder.graph.node.extend(copies)
    decoder.graph.initializer.extend(embedding.graph.initializer)
    decoder.graph.value_info.extend([*embedding.graph.value_info, value])
    decoder.graph.input.remove(taken)
    decoder.graph.input.insert(0, inputs[0])


def _rename(graph: GraphProto, kept: dict[str, str]) -> None:
    def new(name: str) -> str:
        return kept.get(name, _PREFIX + name)

    for node in graph.node:
        node.name = _PREFIX + node.name
        node.input[:] = [new(name) for name in node.input]
        node.output[:] = [new(name) for name in node.output]
    for named in (*graph.initializer, *graph.value_info):
        named.name = new(named.name)
