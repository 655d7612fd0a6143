"""Tool calls in the text of an answer (pure): which of it is content, and which functions the model wants to be called.

Models write calls as JSON between marks of their own. A call comes out as soon as its JSON is complete; text that may
yet become one is held back. What is no valid call of a tool that was offered stays text, as it was written.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

from schemas import json_text
from schemas.messages import ToolFormat


@dataclass(frozen=True, slots=True)
class FoundCall:
    """A function that the model wants to be called; ``arguments`` is the text of a JSON object."""

    name: str
    arguments: str


@dataclass(frozen=True)
class _Syntax:
    opening: str
    """In front of the JSON of calls."""
    closing: str = ""
    """Behind it."""
    bare: str = ""
    """How JSON begins that is a call without the opening, where an answer begins with it."""
    separators: str = ""
    """Characters between one call and the next one, which has no opening."""


_SYNTAX: Final[dict[ToolFormat, _Syntax]] = {
    "tagged": _Syntax("<tool_call>", "</tool_call>"),
    "bracketed": _Syntax("[TOOL_CALLS]", bare="["),
    "bare": _Syntax("<|python_tag|>", "<|eom_id|>", bare="{", separators=";"),
}
_USES_TOOLS: Final = re.compile(r"\{[{%](?:(?![%}]\}).)*?\btools\b", re.DOTALL)


def takes_tools(template: str | None) -> bool:
    """Does a chat template do something with tools?"""
    return bool(template and _USES_TOOLS.search(template))


def tool_format(template: str | None) -> ToolFormat | None:
    """How a model with this chat template writes calls; None where it takes no tools, or its way is not known.

    tagged: Hermes, Qwen and SmolLM; bracketed: Mistral; bare: Llama 3.
    """
    if template is None or not takes_tools(template):
        return None
    if "<tool_call>" in template:
        return "tagged"
    if "[TOOL_CALLS]" in template:
        return "bracketed"
    return "bare" if "<|python_tag|>" in template or "ipython" in template else None


class ToolCallReader:
    """Reads one answer's text bit by bit."""

    def __init__(self, form: ToolFormat, names: Collection[str] = ()) -> None:
        """``names``: the tools that were offered; without any every name is taken for one."""
        self._syntax = _SYNTAX[form]
        self._names = frozenset(names)
        self._text = ""
        """What is still to be judged."""
        self._is_start = True
        """Was there nothing but spaces so far?"""
        self._behind_call = False
        """Nothing but spaces since the last call?"""
        self._json_start: int | None = None
        """Where the JSON of a call may begin, spaces included; None outside of one."""
        self._scan = _JsonScan()

    def push(self, text: str) -> list[str | FoundCall]:
        """Take in more text: the content and the calls that are certain now."""
        self._text += text
        found: list[str | FoundCall] = []
        while self._content(found) if self._json_start is None else self._call(found, self._json_start):
            pass
        return found

    def finish(self) -> list[str | FoundCall]:
        """What is left at the end of the answer."""
        rest = self._text.lstrip() if self._behind_call and self._json_start is None else self._text
        self._text, self._json_start = "", None
        return [rest] if rest else []

    def _content(self, found: list[str | FoundCall]) -> bool:
        """Pass on content up to where a call may begin; is there more to do?"""
        syntax = self._syntax
        if self._behind_call:
            self._text = self._text.lstrip()
            for closing in (syntax.closing, *syntax.separators):
                if closing and self._text.startswith(closing):
                    self._text = self._text[len(closing) :]
                    return True
            if not self._text or syntax.closing.startswith(self._text):
                return False
        stripped = self._text.lstrip()
        may_be_bare = self._is_start or (self._behind_call and syntax.separators)
        if may_be_bare and syntax.opening.startswith(stripped):
            return False
        is_marked = stripped.startswith(syntax.opening)
        if may_be_bare and not is_marked and syntax.bare and stripped.startswith(syntax.bare):
            self._begin_call(0)
            return True
        start = self._text.find(syntax.opening)
        if start >= 0:
            self._pass_on(start, found)
            self._begin_call(len(syntax.opening))
            return True
        held = next(n for n in range(len(syntax.opening) - 1, -1, -1) if self._text.endswith(syntax.opening[:n]))
        self._pass_on(len(self._text) - held, found)
        return False

    def _pass_on(self, length: int, found: list[str | FoundCall]) -> None:
        content, self._text = self._text[:length], self._text[length:]
        if content:
            found.append(content)
            self._is_start = self._is_start and not content.strip()
            self._behind_call = False

    def _begin_call(self, json_start: int) -> None:
        self._json_start, self._scan = json_start, _JsonScan(json_start)

    def _call(self, found: list[str | FoundCall], start: int) -> bool:
        """Take in the JSON of a call; is there more to do?"""
        end = self._scan.end(self._text)
        if end is None:
            return False
        self._json_start = None
        calls = _calls(self._text[start:end], self._names, is_marked=start > 0)
        if calls is None:
            self._is_start = False
            self._pass_on(end, found)
        else:
            found += calls
            self._text = self._text[end:]
            self._is_start, self._behind_call = False, True
        return True


class _JsonScan:
    """Finds the end of an object or array in a text that grows."""

    def __init__(self, start: int = 0) -> None:
        self._at = start
        self._depth = 0
        self._in_string = self._escaped = False

    def end(self, text: str) -> int | None:
        """Where it ends; None while it goes on. Where there is none, it ends with the first character that is wrong."""
        for place in range(self._at, len(text)):
            letter = text[place]
            if self._in_string:
                self._in_string = self._escaped or letter != '"'
                self._escaped = letter == "\\" and not self._escaped
            elif letter in "{[":
                self._depth += 1
            elif letter in "}]":
                self._depth -= 1
            elif letter == '"':
                self._in_string = True
            if self._depth <= 0 and (self._in_string or not letter.isspace()):
                return place + 1
        self._at = len(text)
        return None


def _calls(text: str, names: Collection[str], *, is_marked: bool) -> list[FoundCall] | None:
    """The calls in JSON, one or a list of them; None if one of them is none."""
    try:
        value = json_text.read(text)
        entries = value if isinstance(value, list) else [value]
        calls = [_found(entry, names, is_marked=is_marked) for entry in entries]
    except (ValueError, RecursionError):
        return None
    return calls or None


def _found(entry: Any, names: Collection[str], *, is_marked: bool) -> FoundCall:
    """The call that an object stands for; raises ValueError if it is none."""
    if not isinstance(entry, dict) or not isinstance(name := entry.get("name"), str):
        raise ValueError("no call")
    given = entry.get("arguments", entry.get("parameters", {} if is_marked else None))
    arguments = json_text.read(given) if isinstance(given, str) else given
    if not isinstance(arguments, dict) or not name or (names and name not in names):
        raise ValueError("no call")
    shown = json.dumps(arguments, ensure_ascii=False)
    (name + shown).encode()  # half of a surrogate pair is no text
    return FoundCall(name, shown)
