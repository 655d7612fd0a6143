"""An API key as text: the name of a member of the fleet, and its key (pure)."""

from __future__ import annotations

PREFIX = "lb-"


def key_text(name: str, key: str) -> str:
    """An API key as its owner has it: ``lb-NAME.KEY``; a name may have dots, a key has none."""
    return f"{PREFIX}{name}.{key}"


def read_key(given: list[str]) -> tuple[str, str] | None:
    """Name and key of an ``Authorization: Bearer``; None where it is something else."""
    scheme, _, text = given[0].partition(" ") if len(given) == 1 else ("", "", "")
    name, dot, key = text.strip().removeprefix(PREFIX).rpartition(".")
    if scheme.lower() != "bearer" or not text.strip().startswith(PREFIX) or not dot:
        return None
    return name, key
