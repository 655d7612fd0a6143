"""Print docs/configuration.md from the commands themselves: ``make docs``. A test compares file and commands."""

from __future__ import annotations

import re
from collections.abc import Iterator

import click
from cli_reference import metavar

from broker.config_file import environment_names, options_of, subcommands
from edge_node.cli import NODE, node
from orchestrator.cli import cli

INTRODUCTION = """\
# Configuration

Written by `make docs` from the commands. What a command's option is, is said by, the first one that says something:

1. a flag: `linguabus serve --min-nodes 2`
2. the environment: `LINGUABUS_SERVE_MIN_NODES=2`
3. the configuration file: what `--config FILE` or `LINGUABUS_CONFIG` names, else, where it is there,
   `$XDG_CONFIG_HOME/linguabus/config.yaml`, by default `~/.config/linguabus/config.yaml` (in Termux, too)
4. the command itself.

The file is YAML and mirrors the commands. Options in front of a command are at its top, a command's own in a section of
its name, under their long names without the dashes; what may be said several times may be a list. `node` is the
section of `linguabus-node`, for which `broker`, `home`, `insecure` and `verbose` at the top go, too, where the section
has none.

```yaml
home: /srv/linguabus
verbose: 1
serve:
  with-broker: true
  min-nodes: 2
api:
  port: 8480
ask:
  temperature: 0.7
  stop: ["END", "STOP"]
node:
  memory-limit-mb: 800
  only-charging: true
```

Paths are seen from the file's folder and may begin with `~`. A value is read as a word of a command line is; flags are
`true` or `false`. Whatever command is run, a key that none has, or a value that can't be, is refused by its line:

```
Error: /home/ann/.config/linguabus/config.yaml, line 4: serve.min_nodes: there is no such option: is it min-nodes?
```

`linguabus config show`, or `config show serve` for one command, prints each option with who said so; passwords in URLs
are masked. A file that has a password in a URL should be its owner's alone: `chmod 600`. For a node there is
`linguabus-node config show`.
"""


def reference() -> str:
    """The whole document."""
    programs = ((cli, "linguabus", (), (NODE,)), (node, "linguabus-node", (NODE,), ()))
    sections = [
        section
        for program, name, words, skipped in programs
        for section in _sections(_context(program, name), words, skipped)
    ]
    return "\n".join([INTRODUCTION, *sections])


def _context(program: click.Command, name: str) -> click.Context:
    return click.Context(program, info_name=name, **program.context_settings)


def _sections(context: click.Context, where: tuple[str, ...], skipped: tuple[str, ...] = ()) -> Iterator[str]:
    """The table of a command and those of its sub-commands."""
    options = options_of(context.command)
    if options:
        heading = f"## {'.'.join(where)}" if where else "## At the top"
        rows = [_row(key, option, context) for key, option in options.items()]
        yield "\n".join([f"{heading}\n", "| key | value | default | variable |", "|---|---|---|---|", *rows, ""])
    for name, inner in subcommands(context):
        if name not in skipped:
            yield from _sections(inner, (*where, name))


def _row(key: str, option: click.Option, context: click.Context) -> str:
    value = "true, false" if option.is_flag else re.sub(r" *\\?\| *", ", ", metavar(option))
    default = option.show_default if isinstance(option.show_default, str) else option.to_info_dict()["default"]
    shown = "" if default in (None, False, "") or callable(default) else f"`{default}`"
    variables = ", ".join(f"`{name}`" for name in environment_names(context, option))
    return f"| `{key}` | {value}{', or a list' if option.multiple else ''} | {shown} | {variables} |"


if __name__ == "__main__":
    click.echo(reference(), nl=False)
