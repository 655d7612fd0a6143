"""How good a model is: figures, and which type on the wire they speak for.

Kept as ``quality.json`` beside the manifest, with what the source made of the same text in ``source-rows.json``, so
that the figures of another numeric profile need no source.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from orchestrator.model.manifest import parse_json, read_optional_record, to_json
from orchestrator.model.precision import PROFILES
from schemas.messages import WireDtype

ROWS_FILE, QUALITY_FILE = "source-rows.json", "quality.json"
LARGEST_LOSS = 100.0
"""In nats: no token costs more, so that figures stay finite."""
LEAST_AGREEMENT, MOST_PERPLEXITY = 0.98, 1.01
"""What a type on the wire keeps of the same model with fp32 if it is to be used where nobody chose one: so that other
texts keep 0.97, too, since 500 rows are off by 0.006."""
UNJUDGED_WIRE: WireDtype = "fp16"
"""Of models without figures."""


@dataclass(frozen=True)
class SourceRows:
    """What the source makes of some passages, in float32; a row for each token but the last of its passage.

    Attributes:
        passages: token ids, each passage a text of its own from position 0.
        best: the most likely next token of each row; empty if there is no source to ask.
        losses: the negative log-likelihood of the token that does follow, in nats; likewise.
    """

    passages: tuple[tuple[int, ...], ...]
    best: tuple[int, ...]
    losses: tuple[float, ...]

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self)) + "\n"


@dataclass(frozen=True)
class Quality:
    """What a model makes of passages.

    Attributes:
        rows: next tokens that were judged.
        argmax_agreement: the share of them whose most likely token is that of the source in float32; None if unknown.
        perplexity: exp of the mean negative log-likelihood.
        source_perplexity: the source's in float32; None if unknown.
    """

    rows: int
    argmax_agreement: float | None
    perplexity: float
    source_perplexity: float | None


@dataclass(frozen=True)
class WireQuality:
    """What a type on the wire makes of a model that three nodes share.

    Attributes:
        argmax_agreement: the share of rows with the most likely token of the same model in one piece.
        perplexity: see `Quality`.
    """

    wire: str
    argmax_agreement: float
    perplexity: float


@dataclass(frozen=True)
class QualityReport:
    """How good a model is in its numeric profile.

    Attributes:
        source_bytes: size of the source's weights.
        cuts: the boundaries where hidden states were rounded for ``wires``.
        wires: fp16 and int8.
    """

    profile: str
    model: Quality
    source_bytes: int
    cuts: tuple[int, ...]
    wires: tuple[WireQuality, ...]

    @property
    def wire(self) -> WireDtype:
        """What hidden states travel as unless somebody chooses: fp16 where that changes little, else fp32.

        int8 changes more than fp16 in every model, and saves less than it seems beside the time of a hop. A profile
        that promises the same bits keeps them over a change of layout with fp32 only.
        """
        if PROFILES[self.profile].same_bits:
            return "fp32"
        most = MOST_PERPLEXITY * self.model.perplexity
        halves = next(wire for wire in self.wires if wire.wire == "fp16")
        return "fp16" if halves.argmax_agreement >= LEAST_AGREEMENT and halves.perplexity <= most else "fp32"

    def to_json(self) -> str:
        return to_json(self)


def read_rows(path: Path) -> SourceRows:
    """What `SourceRows.to_json` made; raises `ManifestError`."""
    rows: SourceRows = parse_json(SourceRows, path.read_text("utf-8"), str(path))
    return rows


def read_quality(folder: Path) -> QualityReport | None:
    """What a model's folder has; None for one that was never judged.

    Raises:
        ManifestError: it is damaged, or another version's.
    """
    report: QualityReport | None = read_optional_record(QualityReport, folder / QUALITY_FILE)
    return report
