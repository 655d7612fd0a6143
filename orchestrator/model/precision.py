"""Precisions of a model's weights on disk, and numeric profiles of computing with them."""

from __future__ import annotations

from collections.abc import Iterable

from orchestrator.model.errors import UnsupportedModel

AUTO = "auto"
QUANTISED = ("int4", "mixed", "int8")
"""Precisions of weights in blocks of codes, from the smallest; mixed: of four and eight bits."""
PRECISIONS = (*QUANTISED, "fp16", "fp32")
"""Of weights on disk."""
PROFILES = {"fast": 4, "exact": 1}
"""Numeric profiles: accuracy_level of MatMulNBits, int8 or float32 activations."""


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
