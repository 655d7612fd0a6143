"""Numbers as models are to write them: where a number may have any digits, a small model writes them for ever.

What is added to a schema only takes something away, so a document of the result is one of the schema as it was.
"""

from __future__ import annotations

from typing import Any

DECIMALS = 1e-9
"""And no exponents."""
_MOST = 10**15
"""So many a double tells apart with all their digits."""
_SCHEMAS_BY_NAME = ("properties", "patternProperties", "$defs", "definitions")
_SCHEMAS_IN_A_LIST = ("anyOf", "allOf", "prefixItems")
_SCHEMAS = ("items", "additionalProperties", "unevaluatedProperties")
"""Not `oneOf`, `not` and `if`: with less in a part there may be more in the whole."""


def bounded(schema: Any) -> Any:
    """The schema with bounds to all numbers that have none; of at most so many levels as `grammar` lets through."""
    if not isinstance(schema, dict):
        return schema
    result = dict(schema)
    for key in _SCHEMAS_BY_NAME:
        if isinstance(parts := schema.get(key), dict):
            result[key] = {name: bounded(part) for name, part in parts.items()}
    for key in _SCHEMAS_IN_A_LIST:
        if isinstance(parts := schema.get(key), list):
            result[key] = [bounded(part) for part in parts]
    for key in _SCHEMAS:
        if key in schema:
            result[key] = bounded(schema[key])
    kinds = schema.get("type")
    kinds = kinds if isinstance(kinds, list) else [kinds]
    if ("number" in kinds or "integer" in kinds) and not schema.keys() & {"enum", "const"}:
        if not schema.keys() & {"minimum", "exclusiveMinimum"}:
            result["minimum"] = -_MOST
        if not schema.keys() & {"maximum", "exclusiveMaximum"}:
            result["maximum"] = _MOST
        if "number" in kinds and "multipleOf" not in schema:
            result["multipleOf"] = DECIMALS
    return result
