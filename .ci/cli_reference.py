"""Print docs/cli.md from the commands themselves: ``make docs``.

The options' own texts are used, not click's layout, which changes between versions. A test compares file and commands.
"""

from __future__ import annotations

from collections.abc import Iterator

import click

from edge_node.cli import node
from orchestrator.cli import cli

INTRODUCTION = """\
# Commands

Written by `make docs` from the commands' own help; `--help` behind any of them prints the same.

Options in front of the command go for all commands; `--broker` and `--insecure` may also stand behind it.
Exit codes: 0 done, 1 something broke, 2 wrong input (one line on stderr says what to change), 130 interrupted.
"""


def reference() -> str:
    """The whole document."""
    programs = ((cli, "linguabus"), (node, "linguabus-node"))
    sections = [section for program, name in programs for section in _sections(program, _context(program, name))]
    return "\n".join([INTRODUCTION, *sections])


def _context(command: click.Command, name: str, parent: click.Context | None = None) -> click.Context:
    return click.Context(command, info_name=name, parent=parent)


def _sections(command: click.Command, context: click.Context) -> Iterator[str]:
    """The command's section and those of its subcommands."""
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    yield f"## {context.command_path}\n\n```text\n{usage}\n```\n\n{' '.join((command.help or '').split())}\n"
    options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
    if options:
        rows = [_row(option) for option in options if option.name != "version"]
        yield "\n".join(["| option | meaning |", "|---|---|", *rows, ""])
    if command.epilog:
        label, _, example = command.epilog.partition(": ")
        yield f"{label}:\n\n```sh\n{example}\n```\n"
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            if inner is not None:
                yield from _sections(inner, _context(inner, name, context))


def _row(option: click.Option) -> str:
    names = ", ".join(f"`{name}`" for name in option.opts)
    value = "" if option.is_flag or option.count else f" {metavar(option)}"
    text = option.help or ""
    if isinstance(option.show_default, str):
        text += f" [default: {option.show_default}]"
    elif option.show_default:
        text += f" [default: {option.default}]"
    return f"| {names}{value} | {text.replace('|', chr(92) + '|')} |"


def metavar(option: click.Option) -> str:
    """What the option's value is."""
    if option.metavar:
        return option.metavar
    if isinstance(option.type, click.Choice):
        return " \\| ".join(option.type.choices)
    return option.type.name.split(" ")[0].upper()


if __name__ == "__main__":
    click.echo(reference(), nl=False)
