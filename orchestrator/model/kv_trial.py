"""What keys and values in int8 do to a model, whichever of its blocks keep them so; the others keep halves.

Several choices of blocks are tried in one go: each unit is opened once, and what choices have in common is computed
once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.model.kv_rounding import IN_HALVES, KvRounding, LayerScales
from orchestrator.model.precision import PROFILES
from orchestrator.model.progress import Progress, silent
from orchestrator.model.quality import Predictions, head_pieces, judge_rows, run_unit
from orchestrator.model.subject import Subject

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from orchestrator.model.manifest import Unit
    from orchestrator.model.model import Model

    Hidden = NDArray[Any] | None

Blocks = frozenset[int]
"""Those in int8."""


@dataclass(frozen=True)
class Fold:
    """Texts, and scales to try on them."""

    texts: tuple[tuple[int, ...], ...]
    scales: tuple[LayerScales, ...]


@dataclass(frozen=True)
class Effect:
    """What a model makes of texts with some of its blocks in int8.

    Attributes:
        divergence: of its predictions from those with the first choice that was tried (Kullback and Leibler), nats per
            row.
    """

    made: Predictions
    divergence: float


def try_blocks(
    model: Model, profile: str, folds: Sequence[Fold], choices: Sequence[Blocks], progress: Progress = silent
) -> list[Effect]:
    """Try each choice on the texts of all folds, one fold behind the other, in a numeric profile.

    Raises:
        UnsupportedModel: ONNX Runtime can't compute it.
        MissingDependency: onnxruntime is not installed.
    """
    by_fold = [_Trial(model, profile, fold).run(choices, progress) for fold in folds]
    return [_joined(parts) for parts in zip(*by_fold, strict=True)]


def _joined(parts: Sequence[Effect]) -> Effect:
    made = Predictions.joined([part.made for part in parts])
    divergence = sum(part.divergence * len(part.made.best) for part in parts) / len(made.best)
    return Effect(made, divergence)


class _Trial:
    """Of one fold."""

    def __init__(self, model: Model, profile: str, fold: Fold) -> None:
        self._texts = fold.texts
        self._units = model.manifest.units
        self._accuracy_level = PROFILES[profile].accuracy_level
        self._halves, self._int8 = (
            Subject(model.plan, model.blobs_folder, model.manifest.with_rounded_kv(rounding).layers, rounding)
            for rounding in (IN_HALVES, KvRounding(fold.scales))
        )

    def run(self, choices: Sequence[Blocks], progress: Progress) -> list[Effect]:
        hidden: dict[Blocks, list[Hidden]] = {Blocks(): [None] * len(self._texts)}
        """Of each text behind a unit, by the blocks in int8 up to there."""
        for unit in self._units[:-1]:
            progress("keys and values", unit.index, len(self._units))
            here = {_until(unit, choice) for choice in choices}
            rounded = {blocks for blocks in here if unit.layer in blocks}
            before, hidden = hidden, {}
            for subject, group in ((self._halves, here - rounded), (self._int8, rounded)):
                session = subject.open(unit.index, self._accuracy_level) if group else None
                for blocks in group:
                    given = zip(self._texts, before[blocks - {unit.layer}], strict=True)
                    hidden[blocks] = [run_unit(subject, session, ids, rows) for ids, rows in given]
        effects = self._predict([hidden[choice] for choice in choices])
        progress("keys and values", len(self._units), len(self._units))
        return effects

    def _predict(self, hidden: Sequence[Sequence[Hidden]]) -> list[Effect]:
        """The effects of choices by what is in front of the head."""
        import numpy as np

        session = self._halves.open(len(self._units) - 1, self._accuracy_level)
        made: list[list[Predictions]] = [[] for _ in hidden]
        divergence = [0.0] * len(hidden)
        for text, ids in enumerate(self._texts):
            for start, stop in head_pieces(len(ids) - 1):
                first = None
                for choice, of_texts in enumerate(hidden):
                    rows = of_texts[text]
                    assert rows is not None
                    logits = run_unit(self._halves, session, ids[start:stop], rows[start:stop]).astype(np.float32)
                    made[choice].append(judge_rows(logits, ids[start + 1 : stop + 1]))
                    likely = _log_probabilities(logits)
                    first = likely if first is None else first
                    divergence[choice] += float((np.exp(first) * (first - likely)).sum(dtype=np.float64))
        joined = [Predictions.joined(parts) for parts in made]
        return [Effect(one, sum_ / len(one.best)) for one, sum_ in zip(joined, divergence, strict=True)]


def _until(unit: Unit, choice: Blocks) -> Blocks:
    """The blocks of a choice up to a unit."""
    return Blocks(block for block in choice if unit.layer is not None and block <= unit.layer)


def _log_probabilities(logits: NDArray[Any]) -> NDArray[Any]:
    import numpy as np

    shifted = logits - logits.max(axis=-1, keepdims=True)
    likely: NDArray[Any] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return likely
