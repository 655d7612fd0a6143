"""Text that others wrote, as it can be shown: nothing in it moves a cursor, hides a line or makes one up."""

from __future__ import annotations

import re

_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_REPLACEMENT = "\ufffd"


def on_one_line(text: str) -> str:
    """``text`` with a space for each separator and U+FFFD for whatever else is not printable; as long as before.

    Not printable are, besides control characters, those that turn the direction of writing, and other invisible ones.
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else " " if one.isspace() else _REPLACEMENT for one in text)


def escaped(text: str) -> str:
    """``text`` for a log: whatever is not printable as its escape."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else _escape(one) for one in text)


def without_controls(text: str) -> str:
    """``text`` of several lines for a terminal: control characters but newline and tab as their escapes.

    What joins or turns letters stays, as scripts need it. Each character is looked at alone, so that a sequence in
    two pieces is escaped too.
    """
    return _CONTROLS.sub(lambda found: found[0] if found[0] in "\n\t" else _escape(found[0]), text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
