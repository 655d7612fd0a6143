"""Precisions of a model's weights on disk, and numeric profiles of computing with them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from orchestrator.model.errors import UnsupportedModel
from schemas.run_lengths import AS_WANTED, CANDIDATES, RunLengths, spare_positions

AUTO = "auto"
QUANTISED = ("int4", "mixed", "int8")
"""Precisions of weights in blocks of codes, from the smallest; mixed: of four and eight bits."""
PRECISIONS = (*QUANTISED, "fp16", "fp32")
"""Of weights on disk."""


@dataclass(frozen=True)
class NumericProfile:
    """How a model's weights are computed with.

    Attributes:
        accuracy_level: of MatMulNBits; 4 rounds activations to int8, 1 leaves them in float32.
        same_bits: does a position get the same bits in any run? Then runs have dummies behind them.
    """

    accuracy_level: int
    same_bits: bool

    @property
    def spare_positions(self) -> int:
        """Most dummies behind a run."""
        return spare_positions(self.same_bits)

    @property
    def run_lengths(self) -> tuple[RunLengths, ...]:
        """How many positions a run may compute; where there are several, the processor decides."""
        return CANDIDATES if self.same_bits else (AS_WANTED,)

    @property
    def rounds_activations(self) -> bool:
        """Are activations rounded to int8, if weights are quantised?"""
        return self.accuracy_level == 4


STEADY = "steady"
PROFILES = {
    "fast": NumericProfile(accuracy_level=4, same_bits=False),
    STEADY: NumericProfile(accuracy_level=4, same_bits=True),
    "exact": NumericProfile(accuracy_level=1, same_bits=False),
}
"""Numeric profiles, the quickest first."""


def check_precision(precision: str) -> None:
    """Check that there is such a precision.

    Raises:
        UnsupportedModel: there is none.
    """
    _check("precision", precision, (AUTO, *PRECISIONS))


def check_profile(profile: str) -> None:
    """Check that there is such a numeric profile.

    Raises:
        UnsupportedModel: there is none.
    """
    _check("profile", profile, PROFILES)


def _check(what: str, name: str, known: Iterable[str]) -> None:
    if name not in known:
        raise UnsupportedModel(f"unknown {what} {name!r}; choose from {', '.join(known)}")
