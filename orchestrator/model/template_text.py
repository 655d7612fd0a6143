"""Text that knows who wrote each of its characters: the chat template, or somebody who asks.

A template is compiled so that its literals are `Text` of origin ``OWN``; what stands in messages is `Text` of origin
``TYPED``. It behaves as any other string, and what templates do with strings (joining, slicing, trimming, splitting,
replacing, changing case) keeps the origins. What an operation makes that is not followed here is a plain string, and a
plain string counts as ``UNKNOWN``: the mistake that can be made is to trust too little.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, SupportsIndex

from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame

OWN, TYPED, UNKNOWN = b"\0", b"\1", b"\2"


class Text(str):
    """A string and the origin of each of its characters (`OWN`, `TYPED` or `UNKNOWN`, one byte each)."""

    __slots__ = ("_origins",)
    _origins: bytes

    def __new__(cls, text: str = "", origins: bytes | None = None) -> Text:
        self = super().__new__(cls, text)
        self._origins = UNKNOWN * len(self) if origins is None else origins
        return self

    def __str__(self) -> Text:
        return self

    def __add__(self, other: str) -> Text:
        return joined((self, other)) if isinstance(other, str) else NotImplemented

    def __radd__(self, other: str) -> Text:
        return joined((other, self)) if isinstance(other, str) else NotImplemented

    def __mul__(self, times: SupportsIndex) -> Text:
        return Text(super().__mul__(times), self._origins * times)

    __rmul__ = __mul__

    def __getitem__(self, key: SupportsIndex | slice) -> Text:
        if isinstance(key, slice):
            return Text(super().__getitem__(key), self._origins[key])
        return Text(super().__getitem__(key), bytes((self._origins[key],)))

    def __iter__(self) -> Iterator[str]:
        return (self[place] for place in range(len(self)))

    def join(self, texts: Iterable[str]) -> Text:
        parts = [part for text in texts for part in (self, text)]
        return joined(parts[1:])

    # --- cutting ----------------------------------------------------------------------------------------------

    def strip(self, chars: str | None = None) -> Text:
        return self.lstrip(chars).rstrip(chars)

    def lstrip(self, chars: str | None = None) -> Text:
        return self[len(self) - len(super().lstrip(chars)) :]

    def rstrip(self, chars: str | None = None) -> Text:
        return self[: len(super().rstrip(chars))]

    def removeprefix(self, prefix: str) -> Text:
        return self[len(self) - len(super().removeprefix(prefix)) :]

    def removesuffix(self, suffix: str) -> Text:
        return self[: len(super().removesuffix(suffix))]

    def split(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[Text]:  # type: ignore[override]
        return self._places(super().split(sep, maxsplit), sep)

    def rsplit(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[Text]:  # type: ignore[override]
        return self._places(super().rsplit(sep, maxsplit), sep)

    def splitlines(self, keepends: bool = False) -> list[Text]:  # type: ignore[override]
        return self._places(super().splitlines(keepends))

    def partition(self, sep: str) -> tuple[Text, Text, Text]:
        before, found, after = self._places(super().partition(sep))
        return before, found, after

    def rpartition(self, sep: str) -> tuple[Text, Text, Text]:
        before, found, after = self._places(super().rpartition(sep))
        return before, found, after

    def _places(self, pieces: Iterable[str], sep: str | None = None) -> list[Text]:
        """Parts of this text in their order. Between two is ``sep``, or nothing, or spaces (then no part begins so)."""
        found, start = [], 0
        for piece in pieces:
            start = self.index(piece, start)
            found.append(self[start : start + len(piece)])
            start += len(piece) + len(sep or "")
        return found

    # --- changing ---------------------------------------------------------------------------------------------

    def replace(self, old: str, new: str, count: SupportsIndex = -1) -> Text:
        if not old:
            return Text(super().replace(old, new, count))
        return joined((new,)).join(self.split(old, count))

    def upper(self) -> Text:
        return self._as(super().upper())

    def lower(self) -> Text:
        return self._as(super().lower())

    def title(self) -> Text:
        return self._as(super().title())

    def capitalize(self) -> Text:
        return self._as(super().capitalize())

    def _as(self, text: str) -> Text:
        """This text in another case: no mapping of case drops a character, so equal lengths mean one for one."""
        return Text(text, self._origins if len(text) == len(self) else None)


def joined(texts: Iterable[Any]) -> Text:
    """Join all of ``texts`` without anything between; what is no string is spelt out."""
    parts = [text if isinstance(text, str) else str(text) for text in texts]
    return Text("".join(parts), b"".join(origins_of(part) for part in parts))


def own(text: str) -> Text:
    """Mark a text as a literal of the template."""
    return Text(text, OWN * len(text))


def typed(text: str) -> Text:
    """Mark a text as written by a person."""
    return Text(text, TYPED * len(text))


def origins_of(text: str) -> bytes:
    """The origin of each character of a text, one byte each."""
    return text._origins if isinstance(text, Text) else UNKNOWN * len(text)


class TextCompiler(CodeGenerator):
    """Compiles a template so that its literals are `Text`; the environment has to have `own` and `joined`."""

    def visit_Const(self, node: nodes.Const, frame: Frame) -> None:  # noqa: N802
        value = node.as_const(frame.eval_ctx)
        if type(value) is str:
            self.write(f"environment.own({value!r})")
        else:
            super().visit_Const(node, frame)

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:  # noqa: N802
        self.write("environment.joined((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")

    def _output_const_repr(self, group: Iterable[Any]) -> str:
        return f"environment.own({''.join(group)!r})"
