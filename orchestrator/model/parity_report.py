"""How near a converted model is to its source: figures, what they may be, and what could not be compared.

Kept as ``check.json`` beside the manifest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from orchestrator.model.manifest import read_optional_record, to_json

CHECK_FILE = "check.json"


@dataclass(frozen=True)
class Limits:
    """The largest differences of a right model.

    ``unit`` is for the weights as they are kept, ``structure`` for the same computation in the checkpoint's precision,
    ``logits`` for what all rounding together may do.
    """

    unit: float
    structure: float
    logits: float


LIMITS = {
    "fp32": Limits(unit=5e-4, structure=5e-4, logits=5e-3),
    "fp16": Limits(unit=5e-3, structure=1e-2, logits=5e-2),
    "int8": Limits(unit=0.05, structure=5e-4, logits=0.4),
    "mixed": Limits(unit=0.45, structure=5e-4, logits=math.inf),
    "int4": Limits(unit=0.45, structure=5e-4, logits=math.inf),  # four bits move logits as far as a wrong model does
}
"""By precision; docs/decisions/0019-checked-at-the-door.md has what right and wrong models have."""
CARRIED_UNIT_LIMIT = 0.03
"""Of a unit none of whose weights had to be rounded: corrections and scales are, a little."""
VECTOR_LIMIT = 1e-4
"""Of the largest difference of a weight that is not quantised, norms' and biases'."""
ROPE_LIMIT = 5e-3
"""Of the largest difference of a cosine or sine, for each 10,000 positions, at least one of those."""


@dataclass(frozen=True)
class ParityReport:
    """A comparison of a converted model with its source.

    A difference is relative: the length of the vector between what was computed and what should have been, over the
    length of the latter. For a block the vector is the change that it makes to a hidden state; for logits it is all of
    a row, less its mean.

    Attributes:
        reference: what the model was compared with, in words.
        precision: of its weights.
        carried: the share of the weights of matrices that have the very values of the source.
        profile: in which logits were computed.
        rows: positions that logits were compared at.
        logits_difference: the largest, through the whole model.
        argmax_agreement: the share of rows with the same most likely token.
        unit_difference: the largest of all units, each given the source's own hidden states; None if unknown.
        worst_unit: the unit that has it.
        structure_difference: the largest of the first blocks in float32 (or float16, if weights are kept so), on the
            longer text too; None if unknown.
        structure_blocks, structure_tokens: how many blocks and tokens that were.
        vectors: how many weights with one dimension were found in the source too, by name.
        vectors_difference: the largest of them, of any value; None if there are none.
        rope_difference: of the cosines and sines of rotary embeddings, over their limit; None if there are none.
        rope_positions: at positions below this one.
        not_compared: what could not be, in words.
    """

    reference: str
    precision: str
    carried: float
    profile: str
    rows: int
    logits_difference: float
    argmax_agreement: float
    unit_difference: float | None
    worst_unit: int | None
    structure_difference: float | None
    structure_blocks: int
    structure_tokens: int
    vectors: int
    vectors_difference: float | None
    rope_difference: float | None
    rope_positions: int
    not_compared: tuple[str, ...]

    def problems(self) -> list[str]:
        """What says that the model is another one than its source; empty for a right one."""
        limits = LIMITS[self.precision]
        found = []
        if self.structure_difference is not None and not self.structure_difference <= limits.structure:
            found.append(
                f"its first {self.structure_blocks} blocks compute something else, off by"
                f" {_percent(self.structure_difference)} where rounding explains {_percent(limits.structure)}"
            )
        if self.rope_difference is not None and not self.rope_difference <= 1:
            found.append(f"its rotary embedding turns by other angles below position {self.rope_positions:,}")
        if self.vectors_difference is not None and not self.vectors_difference <= VECTOR_LIMIT:
            found.append(f"a norm or bias has other weights, off by {self.vectors_difference:.2g}")
        unit_limit = min(limits.unit, CARRIED_UNIT_LIMIT) if self.carried == 1 else limits.unit
        if self.unit_difference is not None and not self.unit_difference <= unit_limit:
            found.append(
                f"unit {self.worst_unit} is off by {_percent(self.unit_difference)} where {self.precision} explains"
                f" {_percent(unit_limit)}"
            )
        if not self.logits_difference <= limits.logits:
            found.append(
                f"its logits are off by {_percent(self.logits_difference)} where {self.precision} explains"
                f" {_percent(limits.logits)}"
            )
        return found

    def summary(self) -> str:
        """In a line."""
        parts = [
            f"{self.rows} rows of logits ({self.profile}) off by up to {_percent(self.logits_difference)}",
            f"the same most likely token in {self.argmax_agreement:.0%}",
        ]
        if self.unit_difference is not None:
            parts.append(f"each unit off by up to {_percent(self.unit_difference)}")
        if self.structure_difference is not None:
            blocks, tokens = self.structure_blocks, self.structure_tokens
            parts.append(f"{blocks} block(s) over {tokens} tokens by {_percent(self.structure_difference)}")
        return f"against {self.reference}: {', '.join(parts)}"

    def to_json(self) -> str:
        return to_json(self)


def read_check(folder: Path) -> ParityReport | None:
    """What a model's folder has; None for one that was never compared.

    Raises:
        ManifestError: it is damaged, or another version's.
    """
    report: ParityReport | None = read_optional_record(ParityReport, folder / CHECK_FILE)
    return report


def _percent(share: float) -> str:
    return f"{share:.2g}" if share < 1e-3 else f"{share:.1%}"
