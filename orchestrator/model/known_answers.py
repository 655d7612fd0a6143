"""Known answers: what a model's segments make of a fixed input, for nodes to prove that they compute the same.

One text goes through the model here, unit by unit, once; what comes out at each boundary is kept. It is the expected
output of a segment that ends there, and the input of one that begins there, so that no segment is ever run for it.
Only one unit is in memory at a time.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.model.assemble import ASSEMBLY
from orchestrator.model.errors import CannotRun, MissingDependency
from orchestrator.model.model import SEGMENTS_FOLDER, BlobRef, Model, SegmentSpec, write_file
from orchestrator.model.precision import PROFILES
from orchestrator.model.segment_run import SegmentRun, open_graph
from schemas.known_answer import MAX_VALUES, POSITIONS, KnownAnswer, encode_known_answer, places

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

VERSION = 1
"""Changes whenever the same model gives another known answer than before."""
EXACT_TOLERANCE = 0.005
"""How far off other kernels may be, as a share of what the segment adds to its input; measured: 0.0004 where the input
comes as halves."""
FAST_TOLERANCE, LEAST_FAST_TOLERANCE = 0.05, 0.15
"""The same for activations of eight bits, which other processors round in other ways: the first one times the root of
the number of units. It is three times what those of 32 bits make of it, measured; see decision 20."""
ROUNDED_KV_TOLERANCE = 0.02
"""At least, where keys and values are rounded: one at the edge of a step falls to the other side elsewhere."""
HALF_TOLERANCE = 0.1
"""At least, where hidden states are halves: some processors add in halves too."""


class KnownAnswers:
    """The known answers of one model."""

    def __init__(self, model: Model, check: Callable[[], None]) -> None:
        """``check``: read the model's weights and raise if they are damaged; called before they are run."""
        self._model = model
        self._check = check
        self._folder = model.folder / SEGMENTS_FOLDER
        self._states: dict[str, list[NDArray[Any]]] = {}

    def of(self, start: int, stop: int) -> BlobRef:
        """The blob of units [start, stop) in the model's own profile; made once, then kept.

        Raises:
            MissingDependency, CannotRun: the model can't be run here.
            BlobCorrupt: the model's weights are not what they were.
        """
        profile = self._model.manifest.profile
        kept = self._folder / f"{start}-{stop}-{profile}{self._model.variant}.answer{VERSION}.json"
        known = self._read_kept(kept)
        if known is not None:
            return known
        data = encode_known_answer(self._known_answer(start, stop, profile))
        ref = BlobRef(hashlib.sha256(data).hexdigest(), len(data))
        kept.parent.mkdir(exist_ok=True)
        # As with graphs: what nothing speaks of goes with the next model that is removed.
        write_file(kept, json.dumps({"answer": asdict(ref)}).encode())
        write_file(self._model.blobs_folder / ref.sha256, data)
        return ref

    def _read_kept(self, kept: Path) -> BlobRef | None:
        if not kept.is_file():
            return None
        ref = BlobRef(**json.loads(kept.read_text("utf-8"))["answer"])
        return ref if (self._model.blobs_folder / ref.sha256).is_file() else None

    def _known_answer(self, start: int, stop: int, profile: str) -> KnownAnswer:
        import numpy as np

        manifest = self._model.manifest
        states = self.states(profile)
        given, expected = states[start], states[stop]
        has_head = stop == manifest.num_units
        values = min(expected.shape[1], MAX_VALUES)
        kept = places(expected.shape[1], values)
        expected_kept = expected[:, kept].astype("<f4")
        if has_head:
            scale = expected_kept - expected_kept.mean(axis=1, keepdims=True)
        elif start > 0 and given.shape == expected.shape:
            scale = expected_kept - given[:, kept].astype("<f4")
        else:
            scale = expected_kept
        return KnownAnswer(
            positions=POSITIONS,
            width_in=given.shape[1] if start else 0,
            rows=len(expected),
            values=values,
            width_out=expected.shape[1],
            tolerance=self._tolerance(stop - start, profile),
            given=given.astype("<f4" if start else "<i4").tobytes(),
            norms=np.linalg.norm(scale, axis=1).astype("<f4").tobytes(),
            expected=expected_kept.tobytes(),
        )

    def _tolerance(self, units: int, profile: str) -> float:
        tolerance = EXACT_TOLERANCE
        if PROFILES[profile].rounds_activations and self._model.manifest.precision != "fp32":
            tolerance = max(FAST_TOLERANCE * math.sqrt(units), LEAST_FAST_TOLERANCE)
        if self._model.rounding is not None:
            tolerance = max(tolerance, ROUNDED_KV_TOLERANCE)
        return max(tolerance, HALF_TOLERANCE) if self._model.manifest.hidden_dtype == "float16" else tolerance

    def states(self, profile: str) -> list[NDArray[Any]]:
        """The ids (POSITIONS,), then what each unit gives: (POSITIONS, width), the head (2, vocabulary)."""
        import numpy as np

        if profile not in self._states:
            path = self._folder / f"states-{VERSION}-{ASSEMBLY}-{profile}{self._model.variant}.npz"
            if not path.is_file():
                self._check()
                _save(path, self._run(profile))
            with np.load(path, allow_pickle=False) as file:
                self._states[profile] = [file[f"arr_{index}"] for index in range(len(file.files))]
        return self._states[profile]

    def _run(self, profile: str) -> list[NDArray[Any]]:
        import numpy as np

        manifest = self._model.manifest
        ids = np.array([(7 + 37 * index) % manifest.vocab_size for index in range(POSITIONS)], np.int64)
        states: list[NDArray[Any]] = [ids]
        for unit in range(manifest.num_units):
            spec = self._model.segment(unit, unit + 1, profile)
            try:
                states.append(self._run_unit(spec, ids, states[-1] if unit else None))
            except MissingDependency:
                raise
            except Exception as error:  # ONNX Runtime raises many unrelated types
                raise CannotRun(unit, error) from error
        return states

    def _run_unit(self, spec: SegmentSpec, ids: NDArray[Any], hidden: NDArray[Any] | None) -> NDArray[Any]:
        """What a unit gives: as on nodes first a chunk of a prompt, then a step, which take other ways in kernels."""
        import numpy as np

        folder = self._model.blobs_folder
        session = open_graph(folder / spec.graph.sha256, folder)
        run = SegmentRun(session, self._model.manifest.layers, PROFILES[spec.profile].run_lengths[0])
        parts = (slice(0, POSITIONS - 1), slice(POSITIONS - 1, POSITIONS))
        return np.concatenate(
            [run.step(ids[part].tolist(), None if hidden is None else hidden[None, part])[0] for part in parts]
        )


def _save(path: Path, states: list[NDArray[np.floating[Any]]]) -> None:
    import numpy as np

    path.parent.mkdir(exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    with partial.open("wb") as file:
        np.savez(file, *states)
    partial.replace(path)
