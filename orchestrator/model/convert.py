"""From a checkpoint to one ONNX decoder with KV cache, by onnxruntime-genai's model builder.

The builder's graphs keep the KV cache in one buffer for past and present (GroupQueryAttention), which is what a node
needs. They are made in float32: what the weights become then is decided here (`orchestrator.model.weigh`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from orchestrator.model.checkpoint_files import check_checkpoint
from orchestrator.model.errors import MissingDependency
from orchestrator.model.extras import MODULES, missing
from orchestrator.model.families.table import check_supported
from orchestrator.model.families.text_part import text_architecture, text_part
from orchestrator.model.growth import watch_growth
from orchestrator.model.json_file import read_object
from orchestrator.model.progress import Progress
from orchestrator.model.source import Source
from orchestrator.model.subproc import run_module

GRAPH = "model.onnx"
OPTIONS = {"windowed_kv_cache": "false", "hf_token": "false", "hf_remote": "false"}
"""The last: code that lies beside a model is not run, as older versions would."""


def checkpoint_of(source: Source, scratch: Path, profile: str, progress: Progress) -> Path:
    """The Hugging Face folder to convert: the source itself, or what is made of a GGUF file in ``scratch``.

    Raises:
        BrokenModel: weight files or tensors are missing or damaged.
        UnsupportedModel: the architecture is not one the builder knows, weights are in a form it doesn't, or the
            profile does not suit it.
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
    check_supported(text_architecture(folder), source.text, profile)
    check_checkpoint(folder)
    return text_part(folder, scratch / "text", source.text)


def convert(what: str, checkpoint: Path, scratch: Path, progress: Progress) -> Path:
    """Make the ONNX decoder of a Hugging Face folder in ``scratch``, in float32, and return its file.

    Args:
        what: the source, for messages.

    Raises:
        ConversionFailed: the builder failed.
        MissingDependency: packages that it needs are not there.
    """
    out = scratch / "onnx"
    config = read_object(checkpoint / "config.json")
    layers = int(config.get("num_hidden_layers") or config.get("n_layer") or 0)
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
        _run_builder(what, checkpoint, out, {}, scratch, on_line)
    return out / GRAPH


def convert_first_blocks(what: str, checkpoint: Path, blocks: int, scratch: Path, progress: Progress) -> Path:
    """The same with so many of the first blocks, embedding and head; to compare closely with the source."""
    out = scratch / "first-blocks"
    progress("build", 0, 0)
    with watch_growth(out, lambda done: progress("build", done, 0)):
        _run_builder(what, checkpoint, out, {"num_hidden_layers": str(blocks)}, scratch, lambda _: None)
    return out / GRAPH


def _run_builder(
    what: str,
    checkpoint: Path,
    out: Path,
    options: dict[str, str],
    scratch: Path,
    on_line: Callable[[str], None],
) -> None:
    given = [f"{name}={value}" for name, value in (OPTIONS | options).items()]
    arguments = [str(checkpoint), str(out), str(scratch / "cache"), "fp32", *given]
    run_module("orchestrator.model.genai_builder", arguments, f"converting {what}", on_line, scratch)
