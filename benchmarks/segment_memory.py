"""Memory that single segments take in a process of their own: what the constants of plans come from (Linux).

Of each model its head, its middle block and all of its blocks. A segment is opened, warmed up and filled with one text
as a node does it; two peaks are read, until it is ready and from then on, less what the process held before. Blocks are
what all of them take more than one, a session is what one takes beside a block, and the head what it takes beside that.
`orchestrator/replanning/memory_model.py` reckons each.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from harness import Result, main, note
from memory import MODELS, open_model

from broker.heap import trim
from edge_node.runtime import process_heap
from edge_node.runtime.segment import Segment
from edge_node.telemetry import device
from orchestrator.model.model import Model
from orchestrator.replanning.memory_model import PeakBytes, block_bytes, head_bytes, own_disk_bytes
from schemas.limits import MB
from tests.support.segments import segment_spec

CONTEXT_TOKENS, CHUNK_TOKENS = 512, 32


@dataclass(frozen=True)
class Part:
    """Units of one kind: bytes on disk, numbers in their matrices, and their peaks, reckoned and found."""

    name: str
    disk_bytes: int
    weights: int
    reckoned: PeakBytes
    found: PeakBytes

    def results(self) -> list[Result]:
        """Both peaks, and what they are per byte on disk and, without the bytes on disk, per weight."""
        rows = []
        for peak in ("loading", "serving"):
            name, found, reckoned = f"{self.name}, {peak}", getattr(self.found, peak), getattr(self.reckoned, peak)
            rows += [
                Result(name, found / MB, "MB", at_most=reckoned / MB),
                Result(f"{name}: per byte on disk", found / self.disk_bytes, "bytes"),
                Result(f"{name}: more than on disk per weight", (found - self.disk_bytes) / self.weights, "bytes"),
            ]
        return rows


def measure(quick: bool, only: str = "") -> list[Result]:
    """Peaks of heads and blocks, found and reckoned, and what they are per byte on disk and per weight."""
    kinds = [(model, precision) for model, (_, precisions) in MODELS.items() for precision in precisions]
    results = []
    for model, precision in kinds[:1] if quick else kinds:
        if only in f"{model} {precision}":
            results += _of_model(f"{model} {precision}", open_model(model, precision))
    return results


def _of_model(name: str, model: Model) -> list[Result]:
    manifest = model.manifest
    last = manifest.num_units - 1
    middle, blocks, head = manifest.units[last // 2], manifest.units[1:last], manifest.units[last]
    rest = [unit for unit in blocks if unit is not middle]
    sizes = {unit.index: own_disk_bytes(manifest, unit) for unit in (*blocks, head)}
    one, all_blocks = _peaks(model, middle.index, middle.index + 1), _peaks(model, 1, last)
    kv_bytes = CONTEXT_TOKENS * sum(unit.kv_bytes_per_token for unit in rest)
    found = PeakBytes(all_blocks.loading - one.loading, all_blocks.serving - one.serving - kv_bytes)
    reckoned = [block_bytes(manifest, unit, sizes[unit.index]) for unit in rest]
    session_bytes = one.loading - found.loading // len(rest)
    alone = _peaks(model, last, last + 1)
    parts = (
        Part(
            f"{name}: {len(rest)} blocks",
            sum(sizes[unit.index] for unit in rest),
            sum(unit.flops_per_token // 2 for unit in rest),
            PeakBytes(sum(peak.loading for peak in reckoned), sum(peak.serving for peak in reckoned)),
            found,
        ),
        Part(
            f"{name}: head",
            sizes[last],
            head.flops_per_token // 2,
            head_bytes(manifest, sizes[last], slots=1),
            PeakBytes(alone.loading - session_bytes, alone.serving - session_bytes),
        ),
    )
    note(f"{name} is measured")
    session = Result(f"{name}: session", session_bytes / MB, "MB")
    return [session, *(row for part in parts for row in part.results())]


def _peaks(model: Model, start: int, stop: int) -> PeakBytes:
    command = [sys.executable, __file__, "--segment", str(model.folder), str(model.blobs_folder), str(start), str(stop)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    return PeakBytes(*json.loads(done.stdout))


def _measure_segment(folder: str, blobs_folder: str, start: str, stop: str) -> None:
    """Print both peaks of one segment."""
    process_heap.ask_for_huge_pages()
    model = Model(Path(folder), Path(blobs_folder))
    limits = {"context_tokens": CONTEXT_TOKENS, "slots": 1, "chunk_tokens": CHUNK_TOKENS}
    spec = segment_spec(model, int(start), int(stop), wire=model.wire, **limits)
    trim()  # of what making the graph took
    process_heap.forget_peak()
    before_bytes = device.memory_bytes()[0]
    segment = Segment(spec, model.blobs_folder / spec.graph.sha256, threads=1)
    segment.warm_up()
    loading_bytes = device.memory_bytes()[1] - before_bytes
    trim()
    process_heap.let_go_of_file_pages(model.blobs_folder)
    process_heap.forget_peak()
    for position in range(0, CONTEXT_TOKENS, CHUNK_TOKENS):
        segment.run(0, (position,), CHUNK_TOKENS)
    segment.run(0, (CONTEXT_TOKENS - 1,), 1)
    print(json.dumps([loading_bytes, device.memory_bytes()[1] - before_bytes]))


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", default="", metavar="TEXT", help="models whose name and precision have this in it")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--segment"]:
        _measure_segment(*sys.argv[2:])
    else:
        main("segment_memory", measure, add_options=_options)
