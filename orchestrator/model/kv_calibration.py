"""Keys and values of a model in int8: scales, the blocks that had better keep halves, and what that does to it.

Scales are found by running the model over some text. What they cost is seen on texts that they were not found with, as
what a text has that others have not is cut off: half of the texts are judged by the scales of the other half. Blocks
that change most keep halves, as many as it takes.

Kept among the model's segments, and made when somebody first wants keys and values in int8, or by ``model verify``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.model.calibration_text import TEXTS
from orchestrator.model.errors import ManifestError
from orchestrator.model.kv_peaks import KvPeaks
from orchestrator.model.kv_rounding import KvRounding, LayerScales
from orchestrator.model.kv_trial import Blocks, Effect, Fold, try_blocks
from orchestrator.model.manifest import read_optional_record, to_json
from orchestrator.model.model import SEGMENTS_FOLDER, Model, write_file
from orchestrator.model.passages import PASSAGES, encode_passages, mixed_ids
from orchestrator.model.progress import Progress, silent
from orchestrator.model.quality import UNROUNDED, Predictions, predict
from orchestrator.model.subject import Subject

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from orchestrator.model.quality import Kept

KV_FILE = f"{SEGMENTS_FOLDER}/kv-int8.json"
VERSION = 2
"""Changes whenever the same model gets other scales, or other blocks in halves, than before."""
MOST_PERPLEXITY = 0.005
"""By what share int8 may raise perplexity: nobody sees that, and types on the wire may do as much."""
UNSEEN = 2
"""Times as much as those judged here other texts may lose: they are longer, and have more that no scale was made for.
With all blocks of SmolLM2-135M in int8 a licence lost 1.5 times as much as they."""
PROFILE = "exact"
"""The numeric profile that models are tried in: the others round activations, and make as much of any last bit that
differs."""
_FOLDS = 2
_SHORT = 5
"""Texts of a fold that blocks are tried with one by one: they are the shortest."""
_STEPS = 8
"""Shares of all blocks that are tried in int8 are multiples of an eighth."""
_FRAMES = 4
"""Tokens that begin or end texts."""


@dataclass(frozen=True)
class KvReport:
    """Scales, the blocks that keep halves nevertheless, and what becomes of texts whose scales were found with others.

    Attributes:
        profile: the numeric profile that it was tried in.
        scales: of all blocks with keys and values.
        halves: those of them that keep halves.
        share: bytes of a position over those without rounding.
        rows: next tokens that were judged.
        argmax_agreement: the share of them whose most likely token is that of the model with keys and values in floats.
        perplexity: see `Quality`; ``float_perplexity``: of the model with keys and values in floats.
        error: one standard error of the ratio of both.
    """

    version: int
    profile: str
    scales: tuple[LayerScales, ...]
    halves: tuple[int, ...]
    share: float
    rows: int
    argmax_agreement: float
    perplexity: float
    float_perplexity: float
    error: float

    @property
    def rounding(self) -> KvRounding:
        return KvRounding(tuple(scales for scales in self.scales if scales.layer not in self.halves))

    def figures(self) -> dict[str, Any]:
        """Of what it does to the model, for programs."""
        figures = dataclasses.asdict(self)
        del figures["version"], figures["scales"]
        return {"blocks": len(self.scales), **figures}

    def summary(self) -> str:
        """A line for people."""
        blocks = len(self.scales)
        others = f" in {blocks - len(self.halves)} of {blocks} blocks, in fp16 in the others" if self.halves else ""
        change = self.perplexity / self.float_perplexity - 1
        return (
            f"keys and values in int8 (serve --kv int8){others}, {self.share:.2f} of their bytes, keep"
            f" {self.argmax_agreement:.1%} of the most likely tokens (perplexity {self.perplexity:.4g}, without"
            f" {self.float_perplexity:.4g}: {change:+.2%}, give or take {self.error:.2%})"
        )


def read_kv(folder: Path) -> KvReport | None:
    """What a model's folder has; None where there is nothing of this version, which is soon made again."""
    with contextlib.suppress(ManifestError):
        report: KvReport | None = read_optional_record(KvReport, folder / KV_FILE)
        return report if report and report.version == VERSION else None
    return None


def measure_kv(model: Model, progress: Progress = silent) -> KvReport:
    """Find scales for a model and the blocks that had better keep halves, judge them, and write all into its folder.

    Raises:
        UnsupportedModel: ONNX Runtime can't compute it.
        MissingDependency: onnxruntime is not installed.
    """
    manifest = model.manifest
    judged, others = _judged(model), tuple(_others(model))
    parts = [part for part in (judged[fold::_FOLDS] for fold in range(_FOLDS)) if part]
    subject = Subject(model.plan, model.blobs_folder, manifest.layers)
    whole, made = KvPeaks(subject), []
    peaks = [KvPeaks(subject) for _ in parts]
    for fold, part in enumerate(parts):
        elsewhere = [whole, *peaks[:fold], *peaks[fold + 1 :]]
        made.append(predict(subject, PROFILE, part, progress=progress, kept=_into(elsewhere))[UNROUNDED])
    predict(subject, PROFILE, others, progress=progress, kept=_into([whole, *peaks]))
    plain = Predictions.joined(made)
    folds = [Fold(part, found.scales()) for part, found in zip(parts, peaks, strict=True)]
    halves, effect = _choose(model, folds, plain, progress)
    _, error = _loss(effect, plain)
    scales = whole.scales()
    rounding = KvRounding(tuple(one for one in scales if one.layer not in halves))
    report = KvReport(
        version=VERSION,
        profile=PROFILE,
        scales=scales,
        halves=tuple(sorted(halves)),
        share=manifest.with_rounded_kv(rounding).kv_bytes_per_token / max(1, manifest.kv_bytes_per_token),
        rows=len(plain.best),
        argmax_agreement=effect.made.agreement(plain.best),
        perplexity=effect.made.perplexity,
        float_perplexity=plain.perplexity,
        error=error,
    )
    path = model.folder / KV_FILE
    path.parent.mkdir(exist_ok=True)
    write_file(path, to_json(report).encode())
    return report


def _choose(model: Model, folds: Sequence[Fold], plain: Predictions, progress: Progress) -> tuple[Blocks, Effect]:
    """The blocks that had better keep halves, as few as there have to be, and what comes of it."""
    layers = [scales.layer for scales in folds[0].scales]
    in_halves, effect = try_blocks(model, PROFILE, folds, [Blocks(), Blocks(layers)], progress)
    if _is_harmless(effect, plain):
        return Blocks(), effect
    order = _by_harm(model, folds, layers, progress)
    counts = sorted({len(layers) * step // _STEPS for step in range(1, _STEPS)} - {0})
    choices = [Blocks(order[:count]) for count in counts]
    _, *effects = try_blocks(model, PROFILE, folds, [Blocks(), *choices], progress)
    tried = zip([Blocks(), *choices], [in_halves, *effects], strict=True)
    *_, (rounded, best) = itertools.takewhile(lambda one: not one[0] or _is_harmless(one[1], plain), tried)
    return Blocks(layers) - rounded, best


def _by_harm(model: Model, folds: Sequence[Fold], layers: Sequence[int], progress: Progress) -> list[int]:
    """Blocks by what int8 in each of them alone does to the first texts, the least first."""
    short = [Fold(fold.texts[:_SHORT], fold.scales) for fold in folds]
    alone = [Blocks((layer,)) for layer in layers]
    _, *effects = try_blocks(model, PROFILE, short, [Blocks(), *alone], progress)
    harm = dict(zip(layers, (effect.divergence for effect in effects), strict=True))
    return sorted(layers, key=harm.__getitem__)


def _is_harmless(effect: Effect, plain: Predictions) -> bool:
    """Is it likely that perplexity rises by no more than it may, of texts as these and of the model's own?

    Of its own it rises by the divergence, which is known much better from so few rows than what a text shows.
    """
    change, error = _loss(effect, plain)
    return UNSEEN * max(change + error, effect.divergence) <= math.log1p(MOST_PERPLEXITY)


def _loss(effect: Effect, plain: Predictions) -> tuple[float, float]:
    """By how many nats a token costs more than without rounding, and the standard error of that."""
    more = effect.made.losses - plain.losses
    return float(more.mean()), float(more.std() / math.sqrt(len(more)))


def _into(peaks: Sequence[KvPeaks]) -> Kept:
    def take(cache: Mapping[str, NDArray[Any]]) -> None:
        for one in peaks:
            one.take(cache)

    return take


def _judged(model: Model) -> tuple[tuple[int, ...], ...]:
    """Texts as people write them."""
    manifest, tokenizer = model.manifest, model.tokenizer()
    passages = encode_passages(tokenizer, manifest.vocab_size, manifest.max_context)
    return (*passages, *_known(model, map(tokenizer.encode, TEXTS)))


def _others(model: Model) -> Iterator[tuple[int, ...]]:
    """Texts of what those don't have: each token that frames texts, in front of a passage; a conversation; a mix."""
    manifest, tokenizer = model.manifest, model.tokenizer()
    passage = encode_passages(tokenizer, manifest.vocab_size, manifest.max_context)[0]
    frames = tokenizer.eos_ids if tokenizer.bos_id is None else tokenizer.eos_ids | {tokenizer.bos_id}
    texts: list[Sequence[int]] = [(token, *passage) for token in sorted(frames)[:_FRAMES]]
    if not tokenizer.check_template():
        texts.append(tokenizer.encode_chat([{"role": "user", "content": PASSAGES[1]}]))
    yield from _known(model, texts)
    yield mixed_ids(manifest.vocab_size, manifest.max_context)


def _known(model: Model, texts: Iterable[Sequence[int]]) -> Iterator[tuple[int, ...]]:
    """Texts without what the model does not know, as far as it can look back."""
    for text in texts:
        known = tuple(token for token in text if token < model.manifest.vocab_size)[: model.manifest.max_context]
        if len(known) > 1:
            yield known
