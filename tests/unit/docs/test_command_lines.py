"""Every command line of the documentation is one that its program takes, or is run by a test, or says why it is not."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence

import click
import pytest

from edge_node.cli import node
from orchestrator.cli import cli
from orchestrator.commands.settings import Settings
from tests.support.command_lines import Block, CommandLine, blocks, inline_commands
from tests.support.repository import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]
PROGRAMS: dict[str, click.Command] = {"linguabus": cli, "linguabus-node": node}
CHECKED = (*PROGRAMS, "make", "python", ".venv/bin/python")
TARGET = re.compile(r"^([a-z][a-z0-9 -]*):(?!=)", re.MULTILINE)
VARIABLES = {"ARGS", "PYTHON", "TORCH_INDEX"}
EVERYBODYS = {".", "cat", "echo", "eval", "rm", "scp", "sh"}
"""What they do is not ours to test."""
ELSEWHERE = {
    "apt": ("tests/acceptance/test_compose.py", "apt"),
    "curl": ("tests/integration/test_openai_client.py", "chat.completions"),
    "docker": ("tests/acceptance/test_compose.py", "docker"),
    "pip": ("tests/acceptance/test_packages.py", "install"),
    "pipx": ("tests/acceptance/test_packages.py", "pipx"),
}
"""Programs of others, with a test that does the same with them, and a word of it."""
PLACEHOLDER = re.compile(r"[A-Z]+(\.[a-z]+)?")
BLOCKS = [block for page in PAGES for block in blocks(page)]


def command_lines() -> Iterator[CommandLine]:
    for block in BLOCKS:
        if not block.mark:
            yield from block.commands()
    for page in PAGES:
        yield from inline_commands(page, CHECKED)


@pytest.mark.parametrize("command", list(command_lines()), ids=str)
def test_its_program_takes_it(command: CommandLine) -> None:
    check(command.words, whole=not command.is_inline)


@pytest.mark.parametrize(
    "block", [block for block in BLOCKS if block.mark], ids=lambda block: f"{block.page}:{block.line}"
)
def test_a_marked_block_is_run_where_it_says(block: Block) -> None:
    assert block.mark
    how, said = block.mark
    if how == "run by":
        assert block.page in (ROOT / said).read_text("utf-8")
    elif how == "tried by":
        assert (ROOT / said).is_file()
    assert block.typed


def test_no_block_and_no_mark_is_overlooked() -> None:
    assert len([block for block in BLOCKS if block.typed]) > 25
    for block in BLOCKS:
        is_one = block.text.startswith(tuple(f"{name} " for name in (*CHECKED, *ELSEWHERE, *EVERYBODYS)))
        assert block.typed or block.language == "text" or not is_one, f"{block.page}:{block.line} is no sh"
    for page in PAGES:
        marks = len(re.findall(r"<!-- (?:run by|tried by|not run:) ", page.read_text("utf-8")))
        assert marks == sum(block.mark is not None for block in blocks(page)), page.name


def check(words: Sequence[str], *, whole: bool) -> None:
    """Fail where a command would be refused as it stands. Not ``whole``: it may be a command's name alone."""
    program, *rest = words
    if program in PROGRAMS:
        check_click(PROGRAMS[program], program, rest, whole=whole)
    elif program == "make":
        check_make(rest)
    elif program in ("python", ".venv/bin/python"):
        check_python(rest)
    elif program == "docker" and "exec" in rest and "linguabus" in rest:
        check(rest[rest.index("linguabus") :], whole=whole)
    elif program == "eval":
        check(shlex.split(rest[0].strip("$()")), whole=whole)
    elif program not in EVERYBODYS:
        test, word = ELSEWHERE[program]
        assert word in (ROOT / test).read_text("utf-8")


def check_click(
    command: click.Command, name: str, words: Sequence[str], *, whole: bool, parent: click.Context | None = None
) -> None:
    """Parse as click does. Nothing is run, and no option's own check, which may ask the machine."""
    context = click.Context(command, info_name=name, parent=parent, obj=Settings(), **command.context_settings)
    is_node = command.name == "node" and parent is not None
    if is_node and (not words or words[0].startswith("-")):
        check_click(node, "linguabus-node", words, whole=whole)
        return
    said, rest, _ = command.make_parser(context).parse_args(list(words))
    for parameter in command.params:
        value = said.get(parameter.name or "")
        if is_given(value) and not is_placeholder(value) and not isinstance(parameter.type, click.Path):
            parameter.type_cast_value(context, value)
        missing = whole and parameter.required and not is_given(value)
        assert not missing, f"{context.command_path} needs {parameter.human_readable_name}"
    passed_on = [str(word) for word in said["options"]] if is_given(said.get("options")) else []
    if isinstance(command, click.Group) and rest:
        inner = command.get_command(context, rest[0])
        assert inner, f"{context.command_path} has no command {rest[0]}"
        check_click(inner, rest[0], rest[1:], whole=whole, parent=context)
    elif passed_on:
        what = str(said.get("what", "node"))
        check(["linguabus", what, *passed_on], whole=False)
    else:
        assert not rest, f"{context.command_path} takes no {rest}"


def is_given(value: object) -> bool:
    return value is not None and type(value).__name__ != "Sentinel" and value != ()


def is_placeholder(value: object) -> bool:
    return isinstance(value, str) and PLACEHOLDER.fullmatch(value) is not None


def check_make(words: Sequence[str]) -> None:
    targets = {name for names in TARGET.findall((ROOT / "Makefile").read_text("utf-8")) for name in str(names).split()}
    for word in words:
        assert word.split("=")[0] in VARIABLES if "=" in word else word in targets, word


def check_python(words: Sequence[str]) -> None:
    """A script or a module of the repository, with options that are made in its folder."""
    path = ROOT / (words[1].replace(".", "/") if words[0] == "-m" else words[0])
    path = next(one for one in (path, path.with_suffix(".py"), path / "__main__.py") if one.is_file())
    assert "__main__" in path.read_text("utf-8") or path.name == "__main__.py"
    options = "".join(one.read_text("utf-8") for one in path.parent.glob("*.py"))
    for word in words:
        assert not word.startswith("--") or f'"{word}"' in options, f"{path.name} has no option {word}"


@pytest.mark.parametrize(
    "line",
    [
        "linguabus serve --with-brokers", "linguabus nods", "linguabus revoke", "linguabus version now", "make tests",
        "linguabus serve --slots many", "linguabus service install node --only-charged", "linguabus-node leave --now",
        "python benchmarks/nothing.py", "python benchmarks/hop.py --slowly", "docker compose exec x linguabus asks",
        "wget something", "linguabus join linguabus://x --memory-limit 3",
    ],
)  # fmt: skip
def test_what_is_wrong_is_found(line: str) -> None:
    with pytest.raises((AssertionError, click.ClickException, KeyError, StopIteration)):
        check(line.split(), whole=True)
