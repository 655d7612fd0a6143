"""Random JSON schemas of moderate size, as people give them to models."""

from __future__ import annotations

import random
from typing import Any

_NAMES = (
    "name", "title", "age", "city", "tags", "price", "kind", "items", "count", "email", "active", "notes", "address",
    "score", "colour", "start", "end", "author", "language", "state",
)  # fmt: skip
_WORDS = ("red", "green", "blue", "small", "large", "open", "closed", "north", "south", "unknown", "pending", "done")


def random_schema(seed: int) -> dict[str, Any]:
    """The schema of this number: an object, with parts up to three levels deep."""
    return _object(random.Random(seed), 3)


def _object(draw: random.Random, depth: int) -> dict[str, Any]:
    names = draw.sample(_NAMES, draw.randint(1, 5))
    required = [name for name in names if draw.random() < 0.8]
    return {
        "type": "object",
        "properties": {name: _value(draw, depth - 1) for name in names},
        "required": required,
        "additionalProperties": False,
    }


def _value(draw: random.Random, depth: int) -> dict[str, Any]:
    kinds = ["text", "text", "integer", "number", "boolean", "choice", "pattern", "constant", "maybe"]
    kinds += ["list", "object", "either"] if depth > 0 else []
    match draw.choice(kinds):
        case "text":
            return {"type": "string", "maxLength": draw.choice((8, 20, 40))}
        case "integer":
            low = draw.randint(-5, 10)
            return {"type": "integer", "minimum": low, "maximum": low + draw.choice((3, 100, 5000))}
        case "number":
            return {"type": "number", "minimum": 0, "maximum": draw.choice((1, 99.5, 1e4))}
        case "boolean":
            return {"type": "boolean"}
        case "choice":
            return {"enum": draw.sample(_WORDS, draw.randint(2, 5))}
        case "pattern":
            return {
                "type": "string",
                "pattern": draw.choice((r"^[A-Z]{2}-\d{3,5}$", r"^\d{4}-\d{2}-\d{2}$", "^[a-z]+$")),
            }
        case "constant":
            return {"const": draw.choice((*_WORDS, 1, None, True))}
        case "maybe":
            return {"type": ["string", "null"], "maxLength": 10}
        case "list":
            most = draw.randint(1, 4)
            return {
                "type": "array",
                "items": _value(draw, depth - 1),
                "minItems": draw.randint(0, most),
                "maxItems": most,
            }
        case "object":
            return _object(draw, depth)
    return {"anyOf": [_value(draw, depth - 1), {"type": "integer", "minimum": 0, "maximum": 9}]}
