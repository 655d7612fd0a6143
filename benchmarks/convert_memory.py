"""How much memory does `linguabus model add` take, in multiples of the model's size in 16 bits?

Random models of Llama's shape in bfloat16, and GGUF files; all processes of the command together, sampled every 50 ms.
Memory that the system can't take back (anonymous and shared) has the target; pages of files that are mapped are apart.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness import ROOT, Result, main, note

from orchestrator.model.safetensors_file import encode_header
from tests.support.tiny_models import make_tokenizer

MOST = 1.5
"""Times the size in 16 bits."""
_EVERY_S = 0.05
_FIELD = re.compile(r"^Pss_(Anon|Shmem|File): +(\d+) kB$", re.MULTILINE)
_CLI = [sys.executable, "-m", "orchestrator.cli"]


@dataclass(frozen=True)
class Shape:
    """A model of Llama's architecture with embedding and head tied."""

    hidden: int
    middle: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Shapes by name, as in a checkpoint."""
        head_dim = self.hidden // self.heads
        found: dict[str, tuple[int, ...]] = {
            "model.embed_tokens.weight": (self.vocabulary, self.hidden),
            "model.norm.weight": (self.hidden,),
        }
        for layer in range(self.layers):
            of_layer = {
                "self_attn.q_proj": (self.hidden, self.hidden),
                "self_attn.k_proj": (self.kv_heads * head_dim, self.hidden),
                "self_attn.v_proj": (self.kv_heads * head_dim, self.hidden),
                "self_attn.o_proj": (self.hidden, self.hidden),
                "mlp.gate_proj": (self.middle, self.hidden),
                "mlp.up_proj": (self.middle, self.hidden),
                "mlp.down_proj": (self.hidden, self.middle),
                "input_layernorm": (self.hidden,),
                "post_attention_layernorm": (self.hidden,),
            }
            found.update({f"model.layers.{layer}.{name}.weight": shape for name, shape in of_layer.items()})
        return found

    @property
    def parameters(self) -> int:
        return sum(math.prod(shape) for shape in self.tensors().values())


SHAPES = {
    "tiny": Shape(64, 128, 3, 4, 2, 512),
    "0.5b": Shape(896, 4864, 24, 14, 2, 151_936),
    "1b": Shape(2048, 8192, 16, 32, 8, 128_256),
}
"""The larger two have the sizes of Qwen2.5 0.5B and Llama 3.2 1B."""


def write_checkpoint(shape: Shape, folder: Path) -> Path:
    """A Hugging Face folder with random weights in bfloat16, written tensor by tensor."""
    import numpy as np

    folder.mkdir(parents=True)
    tensors = shape.tensors()
    entries, position = {}, 0
    for name, dims in tensors.items():
        end = position + 2 * math.prod(dims)
        entries[name] = {"dtype": "BF16", "shape": dims, "data_offsets": [position, end]}
        position = end
    random = np.random.default_rng(0)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(encode_header(entries))
        for dims in tensors.values():
            for row in range(dims[0]) if len(dims) > 1 else [None]:
                values = np.ones(dims[0], np.float32) if row is None else random.standard_normal(dims[1], np.float32)
                scaled = values if row is None else values * np.float32(0.02)
                file.write((scaled.view(np.uint32) >> 16).astype(np.uint16).tobytes())
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": "bfloat16", "hidden_act": "silu",
        "hidden_size": shape.hidden, "intermediate_size": shape.middle, "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads, "num_key_value_heads": shape.kv_heads, "vocab_size": shape.vocabulary,
        "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "rope_theta": 10_000.0, "tie_word_embeddings": True,
        "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    make_tokenizer(folder)
    return folder


@dataclass
class Peaks:
    """The most memory of a tree of processes, in bytes, and in which step of the command it was."""

    held_bytes: int = 0
    held_in: str = ""
    all_bytes: int = 0
    all_in: str = ""


def _tree(pid: int) -> Iterator[int]:
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # the thread has ended
            for child in children.read_text().split():
                yield from _tree(int(child))


def _memory(pid: int) -> tuple[int, int]:
    """(anonymous and shared, with mapped files) of a process and all that it started, in bytes."""
    held = files = 0
    for one in list(_tree(pid)):
        with contextlib.suppress(OSError):  # it has ended
            for kind, kilobytes in _FIELD.findall(Path(f"/proc/{one}/smaps_rollup").read_text()):
                if kind == "File":
                    files += int(kilobytes) << 10
                else:
                    held += int(kilobytes) << 10
    return held, held + files


def add(source: Path, precision: str, home: Path) -> tuple[Peaks, dict[str, Peaks]]:
    """Add a model by the command; its peaks in all and by step.

    Raises:
        RuntimeError: the command failed.
    """
    command = [*_CLI, "--home", str(home), "model", "add", str(source), "--name", "added", "--precision", precision]
    step = "start"
    lines: list[str] = []
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        errors = process.stderr

        def follow() -> None:
            nonlocal step
            for line in errors:
                lines.append(line.strip())
                step = line.removesuffix(" ...\n") if line.endswith(" ...\n") else step

        reader = threading.Thread(target=follow)
        reader.start()
        steps: dict[str, Peaks] = {}
        over = threading.Event()
        try:
            while process.poll() is None:
                held, everything = _memory(process.pid)
                peaks = steps.setdefault(step, Peaks())
                peaks.held_bytes = max(peaks.held_bytes, held)
                peaks.all_bytes = max(peaks.all_bytes, everything)
                over.wait(_EVERY_S)
        finally:
            if process.poll() is None:
                process.terminate()
            reader.join()
    if process.returncode:
        raise RuntimeError(f"{source} was not added: {lines[-1] if lines else 'no reason given'}")
    held_in = max(steps, key=lambda name: steps[name].held_bytes)
    all_in = max(steps, key=lambda name: steps[name].all_bytes)
    return Peaks(steps[held_in].held_bytes, held_in, steps[all_in].all_bytes, all_in), steps


def parameters_of(source: Path) -> int:
    """Parameters of a GGUF file."""
    from gguf import GGUFReader

    return sum(int(tensor.n_elements) for tensor in GGUFReader(str(source)).tensors)


def results_of(name: str, source: Path, parameters: int, precision: str) -> list[Result]:
    """Peaks of adding one model, as multiples of its size in 16 bits."""
    size = 2 * parameters
    with tempfile.TemporaryDirectory(prefix="linguabus-bench-") as home:
        peaks, steps = add(source, precision, Path(home))
    for step, found in steps.items():
        note(f"{name} {precision}, {step}: {found.held_bytes / size:.2f} held, {found.all_bytes / size:.2f} with files")
    return [
        Result(f"{name} {precision}: held, {peaks.held_in}", peaks.held_bytes / size, "x 16-bit size", at_most=MOST),
        Result(f"{name} {precision}: with files, {peaks.all_in}", peaks.all_bytes / size, "x 16-bit size"),
    ]


def measure(quick: bool, shape: list[str], precision: list[str], gguf: list[Path]) -> list[Result]:
    """How much memory converting a model takes."""
    shape, precision = shape or ([] if gguf else ["0.5b"]), precision or ["int4"]
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="linguabus-bench-") as folder:
        for name in ["tiny"] if quick else shape:
            checkpoint = write_checkpoint(SHAPES[name], Path(folder) / name)
            for wanted in ["int4"] if quick else precision:
                results += results_of(name, checkpoint, SHAPES[name].parameters, wanted)
    for path in [] if quick else gguf:
        for wanted in precision:
            results += results_of(path.name, path, parameters_of(path), wanted)
    return results


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--shape", action="append", default=[], choices=list(SHAPES), help="of a random model")
    parser.add_argument("--precision", action="append", default=[], help="what its weights become")
    parser.add_argument("--gguf", action="append", type=Path, default=[], help="a file to be added, too")


if __name__ == "__main__":
    main("convert_memory", measure, add_options=_add_options)
