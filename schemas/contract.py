"""Typed JSON: dataclass annotations carry the limits, validation and JSON Schema both read them.

A message is a frozen dataclass whose fields are annotated with the closed set of types below. ``load``
turns parsed JSON into such a dataclass or raises ``MemberError`` naming the place; ``dump`` is its inverse;
``json_schema`` writes the JSON Schema 2020-12 document of the same limits, so that other languages can
check messages too. Files that people write (`orchestrator/planning/simulation/fleet_document.py`) are read
the same way. Phones run this: the standard library suffices.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
import types
import typing
from collections.abc import Callable
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from schemas.errors import MemberError, UnknownMember
from schemas.shown_text import on_one_line

Loader = Callable[[Any, str], Any]


@dataclasses.dataclass(frozen=True)
class Text:
    """Limits of a string; lengths in Unicode code points.

    Without a pattern it is shown to people: what is not printable in it is replaced, see `shown_text.on_one_line`.
    ``verbatim``: it is not, as every character counts.
    """

    max_length: int
    min_length: int = 0
    pattern: str | None = None
    verbatim: bool = False


@dataclasses.dataclass(frozen=True)
class Number:
    """Inclusive limits of a number; ``exclusive``: it must be above the minimum."""

    minimum: float
    maximum: float
    exclusive: bool = False


@dataclasses.dataclass(frozen=True)
class Items:
    """Limits of an array's length."""

    max_items: int
    min_items: int = 0


@dataclasses.dataclass(frozen=True)
class Entries:
    """Limit of a mapping's length; its keys are a `Text` with a pattern."""

    max_items: int


def about(description: str, **field_arguments: Any) -> Any:
    """A dataclass field with its description, which the JSON Schema repeats."""
    return dataclasses.field(metadata={"description": description}, **field_arguments)


def load(cls: type, value: object) -> Any:
    """Build ``cls`` from parsed JSON.

    Raises:
        MemberError: naming the path of the first member that is missing, unknown or outside its limits.
    """
    return _loader(cls)(value, "")


def dump(value: object) -> Any:
    """The JSON form of a message: dataclasses become objects, tuples arrays; optional members left at None go."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            f.name: dump(getattr(value, f.name))
            for f in dataclasses.fields(value)
            if not (getattr(value, f.name) is None and f.default is None)
        }
    if isinstance(value, tuple):
        return [dump(item) for item in value]
    if isinstance(value, dict):
        return {key: dump(item) for key, item in value.items()}
    return value


def members(message: Any) -> dict[str, Any]:
    """A message's members by name, for making another message with more of them."""
    return {field.name: getattr(message, field.name) for field in dataclasses.fields(message)}


def short(value: object) -> str:
    """``value`` for an error message: one short line, whatever the network sent."""
    if isinstance(value, dict):
        return "an object"
    return "an array" if isinstance(value, list) else ascii(value)[:64]


def _fail(path: str, problem: str) -> typing.NoReturn:
    raise MemberError(path, problem)


@functools.cache
def _loader(annotation: Any) -> Loader:
    """The function that checks and converts one JSON value to ``annotation``."""
    origin = get_origin(annotation)
    if origin is Annotated:
        base, limit = get_args(annotation)[:2]
        return _limited_loader(base, limit)
    if origin in (Union, types.UnionType):
        (inner,) = [arg for arg in get_args(annotation) if arg is not type(None)]
        load_inner = _loader(inner)
        return lambda value, path: None if value is None else load_inner(value, path)
    if origin is Literal:
        return _choice_loader(get_args(annotation))
    if origin is tuple:
        return _row_loader([_loader(item) for item in get_args(annotation)])
    if annotation is bool:
        return lambda value, path: value if isinstance(value, bool) else _fail(path, "must be true or false")
    if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
        return _object_loader(annotation)
    raise TypeError(f"{annotation!r} is not a type of the contract")


def _limited_loader(base: Any, limit: object) -> Loader:
    if isinstance(limit, Text):
        return _text_loader(limit)
    if isinstance(limit, Number):
        return _integer_loader(limit) if base is int else _number_loader(limit)
    if isinstance(limit, Items):
        return _array_loader(get_args(base)[0], limit)
    if isinstance(limit, Entries):
        key, item = get_args(base)
        return _mapping_loader(key, item, limit)
    raise TypeError(f"{limit!r} is not a limit of the contract")


def _choice_loader(choices: tuple[Any, ...]) -> Loader:
    # With its type: to Python, True is 1.
    known = {(type(choice), choice) for choice in choices}
    problem = f"must be one of {', '.join(map(str, choices))}"

    def load_choice(value: Any, path: str) -> Any:
        return value if isinstance(value, str | int) and (type(value), value) in known else _fail(path, problem)

    return load_choice


def _text_loader(limit: Text) -> Loader:
    # fullmatch: Python's "$" would let a trailing newline through, which ECMA regular expressions do not.
    matches = re.compile(limit.pattern).fullmatch if limit.pattern else None

    def load_text(value: Any, path: str) -> str:
        if not isinstance(value, str):
            _fail(path, "must be a text")
        _check_unicode(value, path)
        if not limit.min_length <= len(value) <= limit.max_length:
            _fail(path, f"has {len(value)} characters, allowed are {limit.min_length} to {limit.max_length}")
        if matches and not matches(value):
            _fail(path, f"does not match {limit.pattern}")
        # Replaced, not refused: a node's last words are to be read even so.
        return value if matches or limit.verbatim else on_one_line(value)

    return load_text


def _check_unicode(value: str, path: str) -> None:
    # JSON's \u escapes can spell half a surrogate pair, which no UTF-8 file, terminal or database takes.
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            _fail(path, "must be Unicode text, it has a lone surrogate")


def _check_range(value: float, limit: Number, path: str, *, whole: bool) -> None:
    if value < limit.minimum or (limit.exclusive and value == limit.minimum):
        rule = _at_least(limit, whole=whole)
    elif value > limit.maximum:
        rule = f"must be at most {limit.maximum if whole else format(limit.maximum, 'g')}"
    else:
        return
    _fail(path, f"{rule}, {str(value)[:24]} is outside {limit.minimum} to {limit.maximum}")


def _at_least(limit: Number, *, whole: bool) -> str:
    if whole:
        return f"must be a whole number of at least {limit.minimum}"
    if limit.exclusive:
        return f"must be above {limit.minimum:g}"
    return "must not be negative" if limit.minimum == 0 else f"must be at least {limit.minimum:g}"


def _check_number(value: Any, path: str) -> None:
    # NaN compares with nothing, so no range refuses it.
    if not isinstance(value, int | float) or isinstance(value, bool) or value != value:
        _fail(path, f"must be a number, not {short(value)}")


def _integer_loader(limit: Number) -> Loader:
    def load_integer(value: Any, path: str) -> int:
        # JSON has one number type: 3.0 is the integer 3, as in JSON Schema.
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        _check_number(value, path)
        if not isinstance(value, int):
            _fail(path, f"{_at_least(limit, whole=True)}, not {short(value)}")
        _check_range(value, limit, path, whole=True)
        return value

    return load_integer


def _number_loader(limit: Number) -> Loader:
    def load_number(value: Any, path: str) -> float:
        _check_number(value, path)
        _check_range(value, limit, path, whole=False)
        return float(value)

    return load_number


def _array_loader(item: Any, limit: Items) -> Loader:
    load_item = _loader(item)
    what = "a list of texts" if get_origin(item) is Annotated and get_args(item)[0] is str else "a list"
    if limit.min_items:
        what += f" with at least {'one entry' if limit.min_items == 1 else f'{limit.min_items} entries'}"

    def load_array(value: Any, path: str) -> tuple[Any, ...]:
        if not isinstance(value, list):
            _fail(path, f"must be {what}")
        if len(value) < limit.min_items:
            _fail(path, f"must be {what}, {len(value)} is outside {limit.min_items} to {limit.max_items}")
        if len(value) > limit.max_items:
            _fail(path, f"has {len(value)} items, allowed are {limit.min_items} to {limit.max_items}")
        return tuple(load_item(item, f"{path}[{index}]") for index, item in enumerate(value))

    return load_array


def _row_loader(loaders: list[Loader]) -> Loader:
    def load_row(value: Any, path: str) -> tuple[Any, ...]:
        if not isinstance(value, list) or len(value) != len(loaders):
            _fail(path, f"must be a list of {len(loaders)} values")
        return tuple(
            load(item, f"{path}[{index}]") for index, (load, item) in enumerate(zip(loaders, value, strict=True))
        )

    return load_row


def _mapping_loader(key: Any, item: Any, limit: Entries) -> Loader:
    if not get_args(key)[1].pattern:
        raise TypeError("keys need a pattern: errors name them")
    load_key, load_item = _loader(key), _loader(item)

    def load_mapping(value: Any, path: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            _fail(path, "must be a mapping of keys to values")
        if len(value) > limit.max_items:
            _fail(path, f"has {len(value)} members, allowed are {limit.max_items}")
        return {load_key(name, path): load_item(item, f"{path}.{name}") for name, item in value.items()}

    return load_mapping


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _object_loader(cls: type) -> Loader:
    hints = get_type_hints(cls, include_extras=True)
    fields = {f.name: (_loader(hints[f.name]), _is_required(f)) for f in dataclasses.fields(cls)}

    def load_object(value: Any, path: str) -> Any:
        if not isinstance(value, dict):
            _fail(path, "must be a mapping of keys to values")
        prefix = f"{path}." if path else ""
        unknown = value.keys() - fields.keys()
        if unknown:
            raise UnknownMember(path, min(unknown), tuple(fields))
        arguments = {}
        for name, (load_field, required) in fields.items():
            if name in value:
                arguments[name] = load_field(value[name], prefix + name)
            elif required:
                _fail(prefix + name, "is missing")
        return cls(**arguments)

    return load_object


def json_schema(cls: type, *, schema_id: str) -> dict[str, Any]:
    """The JSON Schema 2020-12 document with the same limits as ``load``; nested objects go to ``$defs``."""
    definitions: dict[str, Any] = {}
    body = _object_schema(cls, definitions)
    document = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": schema_id,
        "title": cls.__name__,
        **body,
    }
    if definitions:
        document["$defs"] = definitions
    return document


def _object_schema(cls: type, definitions: dict[str, Any]) -> dict[str, Any]:
    hints = get_type_hints(cls, include_extras=True)
    properties = {}
    for field in dataclasses.fields(cls):
        properties[field.name] = {
            **_value_schema(hints[field.name], definitions),
            "description": field.metadata["description"],
        }
    return {
        "description": " ".join((cls.__doc__ or "").split()),
        "type": "object",
        "properties": properties,
        "required": [f.name for f in dataclasses.fields(cls) if _is_required(f)],
        "additionalProperties": False,
    }


def _value_schema(annotation: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    origin = get_origin(annotation)
    if origin is Annotated:
        base, limit = get_args(annotation)[:2]
        return _limited_schema(base, limit, definitions)
    if origin in (Union, types.UnionType):
        (inner,) = [arg for arg in get_args(annotation) if arg is not type(None)]
        return {"anyOf": [_value_schema(inner, definitions), {"type": "null"}]}
    if origin is Literal:
        return {"enum": list(get_args(annotation))}
    if origin is tuple:
        row = [_value_schema(item, definitions) for item in get_args(annotation)]
        return {"type": "array", "prefixItems": row, "items": False, "minItems": len(row)}
    if annotation is bool:
        return {"type": "boolean"}
    if annotation.__name__ not in definitions:
        definitions[annotation.__name__] = _object_schema(annotation, definitions)
    return {"$ref": f"#/$defs/{annotation.__name__}"}


def _limited_schema(base: Any, limit: object, definitions: dict[str, Any]) -> dict[str, Any]:
    if isinstance(limit, Text):
        schema: dict[str, Any] = {"type": "string", "minLength": limit.min_length, "maxLength": limit.max_length}
        return {**schema, "pattern": limit.pattern} if limit.pattern else schema
    if isinstance(limit, Number):
        if not (math.isfinite(limit.minimum) and math.isfinite(limit.maximum)):
            raise TypeError("limits must be finite")
        least = "exclusiveMinimum" if limit.exclusive else "minimum"
        return {"type": "integer" if base is int else "number", least: limit.minimum, "maximum": limit.maximum}
    if isinstance(limit, Items):
        item = _value_schema(get_args(base)[0], definitions)
        return {"type": "array", "items": item, "minItems": limit.min_items, "maxItems": limit.max_items}
    assert isinstance(limit, Entries)
    key, item = (_value_schema(part, definitions) for part in get_args(base))
    return {"type": "object", "propertyNames": key, "additionalProperties": item, "maxProperties": limit.max_items}
