"""Which field of a request is wrong, of what the validation of its body found (pure)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any


def wrong_field(errors: Sequence[dict[str, Any]], body: Any) -> tuple[str, dict[str, Any]]:
    """(dotted path of the field, what is wrong), of the error that lies deepest.

    A field of several kinds has an error for each of them: the deepest is of the kind that was meant. The names of
    kinds are among the places that pydantic tells; what is no place in ``body`` is left out.
    """
    places = [_place(error["loc"], body, is_missing=error["type"] == "missing") for error in errors]
    deepest = max(range(len(errors)), key=lambda number: len(places[number]))
    return ".".join(places[deepest]), errors[deepest]


def in_words(error: dict[str, Any]) -> str:
    """What is wrong, for people; pydantic speaks of dictionaries and of items after validation."""
    said, kind = error.get("ctx", {}), error["type"]
    if kind == "too_long" and said["max_length"] == 0:
        return "this can't be set here: leave it out"
    if kind == "too_short" and said["actual_length"] == 0:
        return "it may not be empty"
    if kind == "too_long":
        return f"it has {said['actual_length']} entries, {said['max_length']} are the most"
    if isinstance(error["input"], float) and math.isnan(error["input"]):
        return "NaN is not a number"
    return str(error["msg"])


def _place(parts: Sequence[str | int], body: Any, *, is_missing: bool) -> list[str]:
    if parts[0] != "body":
        return [str(part) for part in parts[1:]]
    place: list[str] = []
    for number, part in enumerate(parts[1:], 2):
        is_there = part in body if isinstance(body, dict) else isinstance(body, list) and part in range(len(body))
        if is_there:
            body = body[part]
        if is_there or (is_missing and number == len(parts)):
            place.append(str(part))
    return place
