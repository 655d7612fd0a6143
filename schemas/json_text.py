"""JSON as it is sent and taken here (pure): written compactly, read strictly."""

from __future__ import annotations

import json
from typing import Any, NoReturn


def compact(value: Any) -> str:
    """The text of a value, without spaces, letters as they are.

    Raises:
        ValueError: it holds NaN or an infinity.
    """
    return _ENCODER.encode(value)


def read(text: str) -> Any:
    """The value that a text stands for.

    Raises:
        ValueError: it is no JSON; Python's NaN and Infinity are none.
        RecursionError: it is nested too deeply to be read.
    """
    return _DECODER.decode(text)


def depth(value: Any) -> int:
    """How deep lists and objects are nested, without recursion."""
    found, level = 0, [value]
    while level := [item for item in level if isinstance(item, dict | list)]:
        found += 1
        level = [child for item in level for child in (item.values() if isinstance(item, dict) else item)]
    return found


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON number")


# Made once: json.dumps and json.loads make one for each call that wants anything unusual.
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)
_DECODER = json.JSONDecoder(parse_constant=_refuse)
