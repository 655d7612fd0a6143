"""Run a model here, whole or in segments, and compare the logits.

This is for checking, not for serving: past and present are separate arrays that grow, one thread per session.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.model.differences import relative_differences
from orchestrator.model.model import Model
from orchestrator.model.precision import PROFILES
from orchestrator.model.progress import Progress, silent
from orchestrator.model.segment_run import SegmentRun, open_graph
from orchestrator.model.wire import as_received
from schemas.messages import WireDtype
from schemas.run_lengths import RunLengths, cut_into_runs

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PROMPT_TOKENS = 12
DECODE_STEPS = 4
RUNS: tuple[tuple[int, ...], ...] = ((2,), (3,), (5, 7, 4), (1,))
"""Ways to cut a text into runs: lengths that are taken in turn until it ends."""


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


@dataclass(frozen=True)
class WireLoss:
    """What a type on the wire does to a model that is split, against the same split with fp32 on the wire.

    Attributes:
        largest_difference: of a row of logits less its mean, relative to the length of what it should be.
        argmax_agreement: the share of rows with the same most likely token.
    """

    wire: WireDtype
    compared: int
    largest_difference: float
    argmax_agreement: float


@dataclass(frozen=True)
class RunsComparison:
    """A text in one run against the same text in chunks and in single steps.

    Attributes:
        compared: number of logit rows compared.
        max_abs_difference: the largest absolute difference of any logit.
        bitwise_equal: no bit differs.
    """

    compared: int
    max_abs_difference: float
    bitwise_equal: bool


class Chain:
    """A model as consecutive sessions in this process; ``cuts=()`` is the unsplit model.

    Args:
        wire: what hidden states are rounded to between segments; those in float16 stay as they are.
        run_lengths: how many positions are computed at once; None for the first that the profile knows.

    Raises:
        ValueError: the cuts are not increasing or not inside the model.
        MissingDependency: onnxruntime is not installed.
    """

    def __init__(
        self,
        model: Model,
        cuts: Sequence[int] = (),
        profile: str | None = None,
        *,
        wire: WireDtype = "fp32",
        run_lengths: RunLengths | None = None,
    ) -> None:
        edges = [0, *cuts, model.manifest.num_units]
        if any(a >= b for a, b in itertools.pairwise(edges)):
            raise ValueError(f"cuts {list(cuts)} must increase and lie between 1 and {model.manifest.num_units - 1}")
        self._wire: WireDtype = wire if model.manifest.hidden_dtype == "float32" else "fp32"
        specs = [model.segment(a, b, profile, wire=wire) for a, b in itertools.pairwise(edges)]
        folder, layers = model.blobs_folder, model.manifest.layers
        lengths = run_lengths or PROFILES[specs[0].profile].run_lengths[0]
        self._runs = [SegmentRun(open_graph(folder / spec.graph.sha256, folder), layers, lengths) for spec in specs]

    def restart(self) -> None:
        """Forget the text: begin another one."""
        for run in self._runs:
            run.restart()

    def run(self, ids: Sequence[int], logit_positions: Sequence[int] | None = None) -> NDArray[np.floating[Any]]:
        """Feed tokens after those fed before.

        Args:
            ids: S token ids.
            logit_positions: indices into ``ids`` to compute logits for; None for the last.

        Returns:
            logits [n, V].
        """
        first, *others = self._runs
        result = first.step(ids, None, logit_positions)
        for run in others:
            result = run.step(ids, as_received(result, self._wire), logit_positions)
        logits: NDArray[np.floating[Any]] = result[0]
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

    cuts, prompt = _cuts(model, cuts), _prompt(model, ids)
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
    return Verification(cuts, profile or model.manifest.profile, compared, largest, equal, same)


def compare_runs(
    model: Model, ids: Sequence[int] | None = None, *, profile: str | None = None, progress: Progress = silent
) -> RunsComparison:
    """Compare the logits of a text in one run with those of the same text in chunks and in single steps.

    Of the run lengths that the profile knows, the first under which no bit differs, as on nodes; else the last.

    Args:
        ids: the text; None for a fixed mix of ids.

    Raises:
        MissingDependency: onnxruntime is not installed.
    """
    text = _ids(model, PROMPT_TOKENS + DECODE_STEPS) if ids is None else list(ids)
    candidates = PROFILES[profile or model.manifest.profile].run_lengths
    for number, run_lengths in enumerate(candidates):
        progress("runs", number, len(candidates))
        found = _compare_runs(Chain(model, (), profile, run_lengths=run_lengths), text)
        if found.bitwise_equal:
            break
    progress("runs", len(candidates), len(candidates))
    return found


def _compare_runs(chain: Chain, text: Sequence[int]) -> RunsComparison:
    import numpy as np

    expected = chain.run(text, range(len(text)))
    largest, equal = 0.0, True
    for lengths in RUNS:
        chain.restart()
        found = np.concatenate([chain.run(text[a:b], range(b - a)) for a, b in cut_into_runs(len(text), lengths)])
        largest = max(largest, float(np.abs(expected.astype(np.float64) - found.astype(np.float64)).max()))
        equal = equal and expected.tobytes() == found.tobytes()
    return RunsComparison(len(RUNS) * len(text), largest, equal)


def wire_loss(
    model: Model,
    wire: WireDtype,
    cuts: Sequence[int] | None = None,
    ids: Sequence[int] | None = None,
    *,
    profile: str | None = None,
    progress: Progress = silent,
) -> WireLoss:
    """What is lost when hidden states travel as ``wire``, cut at ``cuts``: a prefill, then some decode steps.

    Args, Raises:
        as of `verify`.
    """
    import numpy as np

    cuts, prompt = _cuts(model, cuts), _prompt(model, ids)
    progress("wire", 0, DECODE_STEPS + 1)
    exact, rounded = Chain(model, cuts, profile), Chain(model, cuts, profile, wire=wire)
    differences: list[float] = []
    same: list[bool] = []
    fed = prompt
    for step in range(DECODE_STEPS + 1):
        rows = range(len(fed))
        expected, found = exact.run(fed, rows), rounded.run(fed, rows)
        differences += list(relative_differences(found, expected))
        same += list(expected.argmax(-1) == found.argmax(-1))
        fed = [int(expected[-1].argmax())]
        progress("wire", step + 1, DECODE_STEPS + 1)
    return WireLoss(wire, len(same), max(differences), float(np.mean(same)))


def _cuts(model: Model, cuts: Sequence[int] | None) -> tuple[int, ...]:
    return tuple(range(1, model.manifest.num_units)) if cuts is None else tuple(cuts)


def _prompt(model: Model, ids: Sequence[int] | None) -> list[int]:
    return list(ids) if ids is not None else _ids(model, PROMPT_TOKENS)


def _ids(model: Model, count: int) -> list[int]:
    return [(7 + 37 * i) % model.manifest.vocab_size for i in range(count)]
