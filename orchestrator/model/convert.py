"""From a checkpoint to one ONNX decoder with KV cache, by onnxruntime-genai's model builder.

The builder's graphs keep the KV cache in one buffer for past and present (GroupQueryAttention), which is what a node
needs. Precisions:

========  =================================================================================================
int4      MatMulNBits with blocks of 32 weights; a tied embedding shares the head's quantised table
int8      the same with 8 bits; embedding and head apart (the builder's shared form does not load)
fp16      float16 weights on disk and on the wire, computed in float32 (CPUs without half kernels would anyway,
          and rounding would otherwise depend on where the model is cut)
fp32      as it is
========  =================================================================================================

The two numeric profiles, ``fast`` and ``exact``, share these files: they differ in an attribute set when a segment is
assembled.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from orchestrator.model.checkpoint_files import check_checkpoint
from orchestrator.model.errors import MissingDependency, UnsupportedModel
from orchestrator.model.extras import MODULES, missing
from orchestrator.model.growth import watch_growth
from orchestrator.model.json_file import read_object
from orchestrator.model.precision import PROFILES
from orchestrator.model.progress import Progress
from orchestrator.model.source import Source
from orchestrator.model.subproc import run_module

BUILDER_PRECISION = {"int4": "int4", "int8": "int8", "fp16": "fp32", "fp32": "fp32"}
ARCHITECTURES = {
    "LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM", "MistralForCausalLM", "Phi3ForCausalLM",
    "Gemma3ForCausalLM", "GemmaForCausalLM", "Gemma2ForCausalLM", "SmolLM3ForCausalLM", "GraniteForCausalLM",
    "OlmoForCausalLM", "NemotronForCausalLM", "Ernie4_5ForCausalLM",
}  # fmt: skip


def checkpoint_of(source: Source, scratch: Path, progress: Progress) -> Path:
    """The Hugging Face folder to convert: the source itself, or what is made of a GGUF file in ``scratch``.

    Raises:
        BrokenModel: weight files or tensors are missing or damaged.
        UnsupportedModel: the architecture is not one the builder knows, or weights are in a form it doesn't.
        ConversionFailed: a GGUF file could not be read.
        MissingDependency: the packages of linguabus[convert] are not there.
    """
    if missing(MODULES["convert"]):
        raise MissingDependency(f"{source.text} can't be converted", "orchestrator", "convert")
    folder = source.path
    if source.kind == "gguf":
        folder = scratch / "hf"
        progress("read", 0, 0)
        what = f"reading {source.path.name}"
        with watch_growth(folder, lambda done: progress("read", done, 0)):
            run_module("orchestrator.model.gguf", [str(source.path), str(folder)], what, lambda _: None, scratch)
    architecture = str((read_object(folder / "config.json").get("architectures") or ["none"])[0])
    if architecture not in ARCHITECTURES:
        raise UnsupportedModel(
            f"{source.text}: architecture {architecture} is not supported; "
            f"supported are {', '.join(sorted(ARCHITECTURES))}"
        )
    check_checkpoint(folder)
    return folder


def convert(what: str, checkpoint: Path, precision: str, scratch: Path, progress: Progress) -> Path:
    """Make the ONNX decoder of a Hugging Face folder in ``scratch`` and return its folder.

    Args:
        what: the source, for messages.

    Raises:
        ConversionFailed: the builder failed.
        MissingDependency: packages that it needs are not there.
    """
    out = scratch / "onnx"
    layers = int(read_object(checkpoint / "config.json").get("num_hidden_layers", 0))
    reading = re.compile(r"Reading layer (\d+)")

    writing = False

    def on_line(line: str) -> None:
        nonlocal writing
        match = reading.match(line)
        if match:
            progress("convert", min(int(match[1]) + 1, layers), layers)
        elif line.startswith("Saving ONNX model"):
            writing = True

    def on_growth(written: int) -> None:
        if writing:
            progress("save", written, 0)

    progress("convert", 0, layers)
    with watch_growth(out, on_growth):
        _run_builder(what, checkpoint, out, BUILDER_PRECISION[precision], _options(precision), scratch, on_line)
    return out


def convert_first_blocks(what: str, checkpoint: Path, blocks: int, scratch: Path, progress: Progress) -> Path:
    """The same in float32, with so many of the first blocks, embedding and head; to compare closely with the source."""
    out = scratch / "first-blocks"
    progress("build", 0, 0)
    options = _options("fp32") | {"num_hidden_layers": str(blocks)}
    with watch_growth(out, lambda done: progress("build", done, 0)):
        _run_builder(what, checkpoint, out, "fp32", options, scratch, lambda _: None)
    return out


def _run_builder(
    what: str,
    checkpoint: Path,
    out: Path,
    precision: str,
    options: dict[str, str],
    scratch: Path,
    on_line: Callable[[str], None],
) -> None:
    given = [f"{k}={v}" for k, v in options.items()]
    arguments = [str(checkpoint), str(out), str(scratch / "cache"), precision, *given]
    run_module("orchestrator.model.genai_builder", arguments, f"converting {what}", on_line, scratch)


def _options(precision: str) -> dict[str, str]:
    options = {"windowed_kv_cache": "false", "hf_token": "false"}
    if precision in ("int4", "int8"):
        options["int4_accuracy_level"] = str(PROFILES["fast"].accuracy_level)
    if precision == "int8":
        options["shared_embeddings"] = "false"
    return options
