"""The command lines that pages of the documentation show, as words; and what may stand before them.

A shell block is a fence of ``sh``, or has lines that begin with ``$``. An HTML comment right before it says what is
known of it: ``<!-- run by tests/some/test.py -->`` where a test takes it from the page, ``<!-- tried by
tests/some/test.py -->`` where one does the same in its own words, or ``<!-- not run: why -->``.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

_MARKDOWN = MarkdownIt("commonmark").enable("table")
_MARK = re.compile(r"<!-- (run by|tried by|not run:) (.+) -->")
_BETWEEN = {"&&", "||", "|", ";", "&"}
_REDIRECTIONS = {"<", ">", ">>"}
_VARIABLE = re.compile(r"[A-Za-z_]+=")
_CONTINUED = "\\\n"


@dataclass(frozen=True)
class CommandLine:
    """One command.

    Attributes:
        page: the file's name.
        line: where it is, from 1.
        words: as a shell makes them, without redirections.
        is_inline: in the middle of a sentence, where it may be no more than a command's name.
    """

    page: str
    line: int
    words: tuple[str, ...]
    is_inline: bool = False

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {shlex.join(self.words)}"


@dataclass(frozen=True)
class Block:
    """A block of a page.

    Attributes:
        language: what the page says that it is; may be empty.
        typed: what a reader types of it.
        mark: what is said before it, such as ``("run by", "tests/some/test.py")``.
    """

    page: str
    line: int
    language: str
    text: str
    typed: str
    mark: tuple[str, str] | None

    def commands(self) -> Iterator[CommandLine]:
        """Those of its lines, in order."""
        for number, line in enumerate(self.typed.replace(_CONTINUED, " ").splitlines()):
            for words in simple_commands(line):
                yield CommandLine(self.page, self.line + number, words)


def blocks(path: Path) -> list[Block]:
    """Those of a page, in order."""
    tokens = _MARKDOWN.parse(path.read_text("utf-8"))
    found = []
    for before, token in zip([None, *tokens], tokens, strict=False):
        if token.type in ("fence", "code_block") and token.map is not None:
            typed = "\n".join(line[2:] for line in token.content.splitlines() if line.startswith("$ "))
            if token.info == "sh":
                typed = token.content
            found.append(Block(path.name, token.map[0] + 2, token.info, token.content, typed, _mark(before)))
    return found


def _mark(before: Token | None) -> tuple[str, str] | None:
    said = _MARK.fullmatch(before.content.strip()) if before and before.type == "html_block" else None
    return (said[1], said[2]) if said else None


def inline_commands(path: Path, programs: tuple[str, ...]) -> Iterator[CommandLine]:
    """Those in sentences and tables that begin with one of these words."""
    for token in _MARKDOWN.parse(path.read_text("utf-8")):
        for child in token.children or ():
            if child.type == "code_inline" and child.content.split(" ")[0] in programs and token.map:
                for words in simple_commands(child.content):
                    yield CommandLine(path.name, token.map[0] + 1, words, is_inline=True)


def simple_commands(line: str) -> Iterator[tuple[str, ...]]:
    """The commands of a shell's line: without comments, pipes, redirections and variables in front."""
    words: list[str] = []
    split = shlex.shlex(line, posix=True, punctuation_chars="&|;<>")
    split.whitespace_split = True
    skips = False
    for word in split:
        if word in _BETWEEN:
            if words:
                yield tuple(words)
            words = []
        elif word in _REDIRECTIONS:
            skips = True
        elif skips:
            skips = False
        elif words or not _VARIABLE.match(word):
            words.append(word)
    if words:
        yield tuple(words)
