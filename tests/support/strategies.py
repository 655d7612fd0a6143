"""Hypothesis strategies made from the contract: valid messages, mutated documents, frames, topic names."""

from __future__ import annotations

import copy
import dataclasses
import functools
import string
import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from hypothesis import settings
from hypothesis import strategies as st

from schemas import codec, contract
from schemas.messages import MESSAGES, Epoch
from schemas.shown_text import on_one_line

MOST_ITEMS = 4
"""Arrays and objects stay this short: what depends on their limits has tests of its own."""

NAME_CHARACTERS = string.ascii_letters + string.digits + "._-"


def examples(count: int) -> settings:
    """Settings for a property tested on ``count`` examples where one that says nothing is tested on 100.

    Half of both in `make test`, ten times as many in `make test-long`.
    """
    return settings(max_examples=max(1, count * settings.default.max_examples // 100))


def unicode_text(max_size: int, min_size: int = 0) -> st.SearchStrategy[str]:
    """Any text that UTF-8 can hold."""
    return st.text(st.characters(codec="utf-8"), min_size=min_size, max_size=max_size)


def json_values() -> st.SearchStrategy[Any]:
    """Any JSON value that is small, finite and Unicode."""
    scalars = (
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | unicode_text(8)
        | st.sampled_from(["main", "fp32", "0123456789abcdef", 2**53 + 1, 3.0, -1])
    )
    return st.recursive(
        scalars,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(unicode_text(8), inner, max_size=3),
        max_leaves=6,
    )


def names() -> st.SearchStrategy[str]:
    """Names of nodes, pipelines, models and clients."""
    return st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True)


@functools.cache
def instances(annotation: Any) -> st.SearchStrategy[Any]:
    """Valid values of a dataclass of the contract, or of one annotation in it."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _limited(*get_args(annotation)[:2])
    if origin in (Union, types.UnionType):
        (inner,) = [arg for arg in get_args(annotation) if arg is not type(None)]
        return st.none() | instances(inner)
    if origin is Literal:
        return st.sampled_from(get_args(annotation))
    if origin is tuple:
        return st.tuples(*(instances(item) for item in get_args(annotation)))
    if annotation is bool:
        return st.booleans()
    hints = get_type_hints(annotation, include_extras=True)
    # Members with a default are left out now and then.
    required = {f.name: instances(hints[f.name]) for f in dataclasses.fields(annotation) if _is_required(f)}
    optional = {f.name: instances(hints[f.name]) for f in dataclasses.fields(annotation) if not _is_required(f)}
    return st.fixed_dictionaries(required, optional=optional).map(lambda members: annotation(**members))


def messages() -> st.SearchStrategy[Any]:
    """Valid messages of every type."""
    return st.sampled_from(list(MESSAGES.values())).flatmap(instances)


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _limited(base: Any, limit: object) -> st.SearchStrategy[Any]:
    if isinstance(limit, contract.Text):
        if limit.pattern:
            fits = functools.partial(_has_length, limit)
            return st.from_regex(limit.pattern, fullmatch=True).filter(fits)
        text = unicode_text(min(limit.max_length, 20), limit.min_length)
        return text if limit.verbatim else text.map(on_one_line)
    if isinstance(limit, contract.Number):
        if base is int:
            return st.integers(int(limit.minimum), int(limit.maximum))
        return st.floats(limit.minimum, limit.maximum, exclude_min=limit.exclusive)
    if isinstance(limit, contract.Items):
        items = st.lists(instances(get_args(base)[0]), min_size=limit.min_items, max_size=MOST_ITEMS)
        return items.map(tuple)
    assert isinstance(limit, contract.Entries)
    key, item = get_args(base)
    return st.dictionaries(instances(key), instances(item), max_size=MOST_ITEMS)


def _has_length(limit: contract.Text, text: str) -> bool:
    return limit.min_length <= len(text) <= limit.max_length


@st.composite
def mutated(draw: st.DrawFn, document: dict[str, Any]) -> Any:
    """``document`` with one to three members, at any depth, replaced, deleted, renamed, added or nudged."""
    result = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        parent, key = draw(st.sampled_from(list(_places(result))))
        mutation = draw(st.sampled_from(["replace", "delete", "add", "rename", "nudge"]))
        if mutation == "replace":
            parent[key] = draw(json_values())
        elif mutation == "delete":
            del parent[key]
        elif mutation == "nudge" and isinstance(parent[key], int | float):
            parent[key] = draw(st.sampled_from([-1, 1, 0.5, 2**31, 2**54, 1e19])) + parent[key]
        elif mutation == "nudge" and isinstance(parent[key], str):
            parent[key] += draw(st.sampled_from(["\n", " ", "x", "/", "é", "x" * 1001]))
        elif mutation == "rename" and isinstance(parent, dict):
            parent[draw(unicode_text(8))] = parent.pop(key)
        elif isinstance(parent, dict):
            parent[draw(unicode_text(8))] = draw(json_values())
        else:
            parent.append(draw(json_values()))
        if not result:
            break
    return result


def _places(container: Any) -> Any:
    """Every (container, key) of a document that holds at least one."""
    for key, value in container.items() if isinstance(container, dict) else enumerate(container):
        yield container, key
        if isinstance(value, dict | list):
            yield from _places(value)


_WIDTHS = st.integers(1, 200)
_COUNTS = st.integers(1, 9)


@st.composite
def frames(draw: st.DrawFn) -> codec.Frame:
    """Valid frames of every kind, dtype and allowed flag."""
    kind, dtype, flags = draw(
        st.sampled_from(
            [
                *((codec.Kind.ACTIVATION, d, f) for d in (1, 2, 3) for f in (0, codec.Flag.SAMPLE)),
                *((codec.Kind.TOKENS, 4, f) for f in (0, codec.Flag.STOP, codec.Flag.LENGTH)),
                *((codec.Kind.KV_ROWS, d, 0) for d in (1, 2)),
                (codec.Kind.REPLAY, 0, 0),
                (codec.Kind.KV_ACK, 0, 0),
                (codec.Kind.LOGPROBS, 1, 0),
                (codec.Kind.GUESS, 4, 0),
            ]
        )
    )
    dtype = codec.Dtype(dtype)
    count, width, payload_bytes = 0, 0, 0
    if kind not in (codec.Kind.REPLAY, codec.Kind.KV_ACK):
        count = draw(_COUNTS)
    if kind is codec.Kind.TOKENS:
        width = draw(st.integers(0, 8))
        payload_bytes = 4 * (count + width + (width > 0))
    if kind is codec.Kind.GUESS:
        payload_bytes = 4 * (count + 1)
    if kind is codec.Kind.LOGPROBS:
        width = draw(st.integers(0, 20))
        payload_bytes = count * codec.logprobs_bytes(width)
    if kind is codec.Kind.ACTIVATION:
        width = draw(_WIDTHS)
        payload_bytes = codec.activation_payload_bytes(dtype, count, width)
    header = b""
    if kind is codec.Kind.KV_ROWS:
        heads, head_dim = draw(st.integers(1, 8)), draw(st.integers(1, 16))
        width = heads * head_dim
        layer, part = draw(st.integers(0, 2**16 - 1)), draw(st.integers(0, 1))
        header = codec.pack_kv_header(codec.KvRowsHeader(layer=layer, part=part, heads=heads, head_dim=head_dim))
        payload_bytes = count * width * (4 if dtype is codec.Dtype.FP32 else 2)
    # Payload bytes are opaque to the codec: a repeated short pattern is as good as any, and quick to draw.
    pattern = draw(st.binary(min_size=1, max_size=16))
    payload = header + (pattern * (payload_bytes // len(pattern) + 1))[:payload_bytes]
    return codec.Frame(
        kind=kind,
        request=draw(st.integers(0, 2**64 - 1)),
        epoch=draw(instances(Epoch)),
        attempt=draw(st.integers(0, 2**32 - 1)),
        position=draw(st.integers(0, codec.MAX_POSITION - count)),
        count=count,
        width=width,
        dtype=dtype,
        flags=int(flags),
        payload=payload,
    )
