"""The committed JSON Schemas, as the jsonschema library reads them: a second opinion on every message."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema
from jsonschema.validators import extend

from schemas.write_json_schemas import JSON_DIR


def _ecma_pattern(validator: Any, pattern: str, instance: Any, schema: Any) -> Iterator[Any]:
    # JSON Schema means ECMA 262, where "$" is the end of the text; Python's also matches before a last newline.
    del schema
    if validator.is_type(instance, "string") and not re.search(re.sub(r"\$$", r"\\Z", pattern), instance):
        yield jsonschema.ValidationError(f"{instance!r} does not match {pattern!r}")


_Validator = extend(jsonschema.Draft202012Validator, {"pattern": _ecma_pattern})


@functools.cache
def validator(message_name: str) -> Any:
    """The validator of one message's committed schema."""
    return _Validator(json.loads((JSON_DIR / f"{message_name}.v1.json").read_text(encoding="utf-8")))


def parse(payload: bytes) -> Any:
    """Parse JSON as RFC 8259 has it: UTF-8 without byte order mark, no NaN, no infinity.

    Raises:
        ValueError: it is not JSON.
    """
    return json.loads(payload.decode("utf-8"), parse_constant=_refuse)


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")
