"""From a ``.gguf`` file to a Hugging Face folder: config, float32 weights, tokenizer and chat template.

transformers reads GGUF but holds all weights several times in float32, reads one file of several, makes up what is
missing, skips what it does not know and does not look at how rotary embeddings are scaled. Here it says what the model
is and where each tensor belongs; tensors go one by one from the file into the folder, parts are put together, every
tensor is accounted for, and scaling is carried over. Run as ``python -m orchestrator.model.gguf FILE FOLDER``.
"""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from broker.heap import trimming
from orchestrator.model.checkpoint_weights import refuse_by_report
from orchestrator.model.errors import BrokenModel, UnsupportedModel
from orchestrator.model.gguf_config import overlooked
from orchestrator.model.gguf_header import all_parts, read_header
from orchestrator.model.gguf_reader import compact_reader
from orchestrator.model.gguf_rope import ROPE_TENSORS, rope_scaling
from orchestrator.model.gguf_weights import dequantised, dequantised_whole, finite, hugging_face_shape
from orchestrator.model.safetensors_file import SafetensorsFile

if TYPE_CHECKING:
    from gguf import ReaderTensor

TABLES = ("token_embd.weight", "output.weight")
"""The largest tensors, whose rows nobody reorders: read in pieces."""
HEAD = "lm_head.weight"


def convert(source: Path, target: Path) -> None:
    """Write the Hugging Face folder ``target`` from the GGUF file ``source``, or from all parts if it is the first.

    Raises:
        BrokenModel: tensors are missing, of another shape than the header says, or have NaN or infinity in them.
        UnsupportedModel: there are tensors, or scaled rotary embeddings, that transformers has no place for.
    """
    import gguf
    import torch
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    parts, header = all_parts(source), read_header(source)
    read_one = gguf.GGUFReader

    @functools.cache  # transformers parses the header, seconds of Python for a large vocabulary, for each question
    def read_all(_: str) -> Any:
        first, *others = [compact_reader()(str(part)) for part in parts]
        for other in others:
            first.tensors.extend(other.tensors)
        return first

    setattr(gguf, "GGUFReader", read_all)  # noqa: B010 - mypy takes it for a type
    try:
        folder, name = str(source.parent), source.name
        target.mkdir(parents=True, exist_ok=True)
        AutoTokenizer.from_pretrained(folder, gguf_file=name).save_pretrained(str(target))
        told = AutoConfig.from_pretrained(folder, gguf_file=name, **overlooked(header.entries))
        tensors: list[ReaderTensor] = list(read_all(str(source)).tensors)
    finally:
        setattr(gguf, "GGUFReader", read_one)  # noqa: B010
    auto: Any = AutoModelForCausalLM
    with init_empty_weights():
        model = auto.from_config(told, dtype=torch.float32)
    _write_weights(model, tensors, target / "model.safetensors")
    config = model.config.to_dict()
    config.pop("quantization_config", None)
    config.pop("_name_or_path", None)
    config["architectures"] = [type(model).__name__]
    by_name = {tensor.name: tensor for tensor in tensors}
    divisors = {n: [float(x) for x in by_name[n].data.reshape(-1)] for n in ROPE_TENSORS if n in by_name}
    _scale_rope(config, header.entries, divisors)
    (target / "config.json").write_text(json.dumps(config, indent=1), "utf-8")
    ends = {"eos_token_id": list(header.end_ids)}  # of which transformers takes one only
    (target / "generation_config.json").write_text(json.dumps(ends), "utf-8")


def _write_weights(model: Any, tensors: list[ReaderTensor], path: Path) -> None:
    """Write each tensor under the name that ``model``, which has no weights itself, has for it."""
    from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor, get_gguf_hf_weights_map

    kind: Any = TENSOR_PROCESSORS.get(model.config.model_type.removesuffix("_text"), TensorProcessor)
    processor = kind(config=model.config.to_dict())
    map_names: Any = get_gguf_hf_weights_map
    places = map_names(model, processor)
    _refuse_left_over(places, [tensor.name for tensor in tensors])
    shapes = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        shapes.pop(HEAD, None)
    placed = {places[t.name]: t for t in tensors if places.get(t.name) in shapes}
    found = {name: hugging_face_shape(tensor) for name, tensor in placed.items()}
    mismatched = [(name, shape, shapes[name]) for name, shape in found.items() if shape != shapes[name]]
    missing = sorted(set(shapes) - set(found))
    refuse_by_report({"missing_keys": missing, "mismatched_keys": mismatched, "unexpected_keys": []})
    with SafetensorsFile(path, shapes) as file:
        for name, tensor in placed.items():
            if tensor.name in TABLES:
                file.write(name, finite(tensor, dequantised(tensor)))
            else:
                processed = processor.process(weights=dequantised_whole(tensor), name=tensor.name)
                file.write(name, finite(tensor, [processed.weights]))


def _refuse_left_over(places: dict[str, str], tensors: list[str]) -> None:
    """All tensors must have a place in the model, each once."""
    twice = sorted({name for name in tensors if tensors.count(name) > 1})
    if twice:
        raise BrokenModel(f"it has tensor {twice[0]} more than once; download it again")
    left_over = sorted(set(tensors) - set(places) - set(ROPE_TENSORS))
    if left_over:
        more = f" and {len(left_over) - 1} more" if len(left_over) > 1 else ""
        raise UnsupportedModel(f"it has tensors that its architecture has no place for: {left_over[0]}{more}")


def _scale_rope(
    config: dict[str, Any], entries: dict[str, int | float | str], divisors: dict[str, list[float]]
) -> None:
    """Put the scaling of rotary embeddings into a configuration: of Gemma 3's only those over the whole text."""
    parameters = config["rope_parameters"]
    scaled = parameters.get("full_attention", parameters)
    scaled.update(rope_scaling(entries, divisors, float(scaled["rope_theta"])))
    if scaled.get("rope_type") == "longrope":  # of Phi-3, which reads it at the top
        config["original_max_position_embeddings"] = scaled["original_max_position_embeddings"]


if __name__ == "__main__":
    with trimming():
        convert(Path(sys.argv[1]), Path(sys.argv[2]))
