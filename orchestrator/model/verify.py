"""Run a model here, whole or in segments, and compare the logits.

This is for checking, not for serving: past and present are separate arrays that grow, one thread per session.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.model.errors import MissingDependency
from orchestrator.model.model import Model, SegmentSpec
from orchestrator.model.progress import Progress, silent
from schemas import segment_tensors as tensors

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from onnxruntime import InferenceSession

PROMPT_TOKENS = 12
DECODE_STEPS = 4


@dataclass(frozen=True)
class Verification:
    """Split against unsplit.

    Attributes:
        cuts: the boundaries that were cut at.
        compared: number of logit rows compared.
        max_abs_difference: the largest absolute difference of any logit.
        bitwise_equal: no bit differs.
        same_tokens: the most likely token is the same in every row.
    """

    cuts: tuple[int, ...]
    profile: str
    compared: int
    max_abs_difference: float
    bitwise_equal: bool
    same_tokens: bool


class Chain:
    """A model as consecutive sessions in this process; ``cuts=()`` is the unsplit model.

    Raises:
        ValueError: the cuts are not increasing or not inside the model.
        MissingDependency: onnxruntime is not installed.
    """

    def __init__(self, model: Model, cuts: Sequence[int] = (), profile: str | None = None) -> None:
        edges = [0, *cuts, model.manifest.num_units]
        if any(a >= b for a, b in itertools.pairwise(edges)):
            raise ValueError(f"cuts {list(cuts)} must increase and lie between 1 and {model.manifest.num_units - 1}")
        self.specs = [model.segment(a, b, profile) for a, b in itertools.pairwise(edges)]
        self._sessions = [_open(model, spec) for spec in self.specs]
        self._cache: dict[str, NDArray[Any]] = {}
        self.length = 0  # tokens in the cache

    def run(self, ids: Sequence[int], logit_positions: Sequence[int] | None = None) -> NDArray[np.floating[Any]]:
        """Feed tokens after those fed before.

        Args:
            ids: S token ids.
            logit_positions: indices into ``ids`` to compute logits for; None for the last.

        Returns:
            logits [n, V].
        """
        import numpy as np

        count = len(ids)
        total = self.length + count
        positions = [count - 1] if logit_positions is None else list(logit_positions)
        feeds: dict[str, NDArray[Any]] = {
            tensors.IDS: np.array([ids], np.int64),
            tensors.MASK: np.ones((1, total), np.int64),
            tensors.LENGTHS: np.array([total - 1], np.int32),
            tensors.TOTAL_LENGTH: np.array(total, np.int32),
            tensors.POSITIONS: np.arange(self.length, total, dtype=np.int64)[None],
            tensors.LOGIT_POSITIONS: np.array(positions, np.int64),
        }
        result: dict[str, NDArray[Any]] = {}
        for spec, session in zip(self.specs, self._sessions, strict=True):
            for tensor in spec.inputs:
                if tensor.name.startswith(tensors.PAST) and tensor.name not in self._cache:
                    shape = (1, int(tensor.shape[1]), 0, int(tensor.shape[3]))
                    self._cache[tensor.name] = np.zeros(shape, np.dtype(tensor.dtype))
            known = feeds | self._cache
            names = [t.name for t in spec.outputs]
            outputs = session.run(names, {t.name: known[t.name] for t in spec.inputs})
            result = dict(zip(names, outputs, strict=True))
            for name, value in result.items():
                if name.startswith(tensors.PRESENT):
                    self._cache[name.replace(tensors.PRESENT, tensors.PAST)] = value
            if tensors.HIDDEN_OUT in result:
                feeds[tensors.HIDDEN_IN] = result[tensors.HIDDEN_OUT]
        self.length = total
        logits: NDArray[np.floating[Any]] = result[tensors.LOGITS][0]
        return logits

    def greedy(self, ids: Sequence[int], count: int) -> list[int]:
        """``count`` tokens after the prompt ``ids``, the most likely each time."""
        tokens: list[int] = []
        fed = list(ids)
        for _ in range(count):
            tokens.append(int(self.run(fed)[-1].argmax()))
            fed = tokens[-1:]
        return tokens


def verify(
    model: Model,
    cuts: Sequence[int] | None = None,
    ids: Sequence[int] | None = None,
    *,
    profile: str | None = None,
    decode_steps: int = DECODE_STEPS,
    progress: Progress = silent,
) -> Verification:
    """Compare the model cut at ``cuts`` with the same model in one piece: a prefill, then some decode steps.

    Args:
        cuts: boundaries, 1 <= cut < num_units; None for one before every unit.
        ids: the prompt; None for a fixed mix of ids.

    Raises:
        ValueError, MissingDependency: see `Chain`.
    """
    import numpy as np

    manifest = model.manifest
    cuts = tuple(range(1, manifest.num_units)) if cuts is None else tuple(cuts)
    prompt = list(ids) if ids is not None else [(7 + 37 * i) % manifest.vocab_size for i in range(PROMPT_TOKENS)]
    progress("verify", 0, decode_steps + 1)
    whole, split = Chain(model, (), profile), Chain(model, cuts, profile)
    largest, equal, same, compared = 0.0, True, True, 0
    fed = prompt
    for step in range(decode_steps + 1):
        rows = range(len(fed))
        expected, found = whole.run(fed, rows), split.run(fed, rows)
        largest = max(largest, float(np.abs(expected.astype(np.float64) - found.astype(np.float64)).max()))
        equal = equal and np.array_equal(expected, found)
        same = same and np.array_equal(expected.argmax(-1), found.argmax(-1))
        compared += len(fed)
        fed = [int(expected[-1].argmax())]
        progress("verify", step + 1, decode_steps + 1)
    return Verification(cuts, profile or manifest.profile, compared, largest, equal, same)


def _open(model: Model, spec: SegmentSpec) -> InferenceSession:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingDependency("a model can't be verified", "orchestrator") from error

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    path = model.blobs_folder / spec.graph.sha256
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
