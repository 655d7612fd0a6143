"""What it costs to check a segment when it is loaded and later, and what a check finds."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from harness import Result, main, median_result
from rings import CONTEXT_TOKENS, open_segment
from smollm2 import open_smollm2

from edge_node.runtime.known_answers import SelfCheck, answer, shares
from edge_node.runtime.segment import Segment
from edge_node.storage.blob_store import BlobStore
from orchestrator.model.known_answers import KnownAnswers
from orchestrator.model.model import Model
from schemas.known_answer import KnownAnswer, decode_known_answer
from schemas.messages import BlobRef
from tests.support.segments import segment_spec

PROFILES = ("exact", "fast")
CUTS = ((0, 32), (8, 16), (15, 16))
"""The whole of SmolLM2, eight of its blocks, one."""
DAMAGED = 15
REPEATS = 5


def _graph(model: Model, start: int, stop: int) -> str:
    """The name of the graph that `open_segment` opens."""
    return segment_spec(model, start, stop, context_tokens=CONTEXT_TOKENS).graph.sha256


def _known(model: Model, start: int, stop: int) -> tuple[Path, KnownAnswer]:
    path = model.blobs_folder / KnownAnswers(model, lambda: None).of(start, stop).sha256
    return path, decode_known_answer(path.read_bytes())


def _costs(model: Model, start: int, stop: int, repeats: int) -> list[Result]:
    """What opening a segment takes, and what is added to it."""
    spec = model.segment(start, stop)
    path, _ = _known(model, start, stop)
    store = BlobStore(model.blobs_folder, limit_bytes=1 << 40)
    files = [BlobRef(sha256=blob.sha256, size_bytes=blob.size_bytes) for blob in spec.files]
    size_mb = sum(blob.size_bytes for blob in files) / 1e6
    times_ms: dict[str, list[float]] = {}

    def timed(what: str, action: Callable[[], object]) -> object:
        started = time.perf_counter()
        result = action()
        times_ms.setdefault(what, []).append((time.perf_counter() - started) * 1e3)
        return result

    def open_and_warm_up() -> Segment:
        segment = open_segment(model, (start, stop), 0)
        segment.warm_up()
        return segment

    for _ in range(repeats):
        timed("reading the weights again", lambda: store.fetch(files, (), on_progress=lambda *_: None))
        segment = timed("opening", open_and_warm_up)
        assert isinstance(segment, Segment)
        check = SelfCheck(segment, path)
        timed("a known answer", check.repeat)
    where = f"[{start}, {stop}), {size_mb:.0f} MB"
    costs = [median_result(f"{where}: {what}", values, "ms") for what, values in times_ms.items()]
    return [*costs, Result(f"{where}: its known answer", path.stat().st_size / 1e3, "KB")]


def _other_activations(models: dict[str, Model], profile: str, start: int, stop: int) -> list[Result]:
    """How far off a segment is that rounds activations as no other processor does: not at all, or always."""
    other = models[PROFILES[PROFILES.index(profile) - 1]]
    _, known = _known(models[profile], start, stop)
    results = []
    for what, model, wire in (("halves at its input", models[profile], "fp16"), ("the other profile", other, "fp32")):
        off = float(shares(answer(open_segment(model, (start, stop), 0, wire=wire), known), known).max())  # type: ignore[arg-type]
        limit = {"at_most": known.tolerance} if profile == "fast" or wire == "fp16" else {}
        results.append(Result(f"{profile} [{start}, {stop}) with {what}: off by", off, "of its work", **limit))
    return results


def _zeros(weights: np.ndarray) -> None:
    weights[:] = 0


def _page_of_zeros(weights: np.ndarray) -> None:
    weights[weights.size // 2 :][:4096] = 0


def _bit(weights: np.ndarray) -> None:
    weights[weights.size // 3] ^= 0x40


def _damage(model: Model, start: int, stop: int, how: Callable[[np.ndarray], None], what: str) -> list[Result]:
    """How far off a segment is whose block ``DAMAGED`` has been damaged, and whether a later check would find it."""
    _, known = _known(model, start, stop)
    blobs = [blob.sha256 for blob in model.manifest.blobs_of(start, stop)]
    (blob,) = [blob for blob in model.manifest.blobs if blob.units == (DAMAGED,)]
    with tempfile.TemporaryDirectory(prefix="linguabus-bench-") as name:
        for sha256 in (_graph(model, start, stop), *blobs):
            shutil.copy(model.blobs_folder / sha256, name)
        weights = np.fromfile(Path(name) / blob.sha256, np.uint8)
        how(weights)
        weights.tofile(Path(name) / blob.sha256)
        found = answer(open_segment(model, (start, stop), 0, folder=Path(name)), known)
    whole = answer(open_segment(model, (start, stop), 0), known)
    profile = model.manifest.profile
    where = f"{profile} [{start}, {stop}), {what} in block {DAMAGED}"
    off = float(shares(found, known).max())
    return [
        Result(f"{where}: off by", off, f"of its work (found at load above {known.tolerance:.2g})"),
        Result(f"{where}: values that differ", int((found != whole).sum()), f"of {found.size}", at_least=1),
    ]


def measure(quick: bool) -> list[Result]:
    """Costs of checks of SmolLM2's segments, what other rounding of activations makes of them, and damage."""
    models = {profile: open_smollm2(profile) for profile in PROFILES}
    cuts = CUTS[-1:] if quick else CUTS
    results = [result for cut in cuts for result in _costs(models["fast"], *cut, 1 if quick else REPEATS)]
    for profile in PROFILES[:1] if quick else PROFILES:
        for cut in cuts:
            results += _other_activations(models, profile, *cut)
            for what, how in (("zeros", _zeros), ("4 KB of zeros", _page_of_zeros), ("one bit flipped", _bit)):
                results += _damage(models[profile], *cut, how, what)
    return results


if __name__ == "__main__":
    main("known_answers", measure)
