"""``config show``, of both programs: what each option is, and who said so."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import click
from click.core import ParameterSource

from broker.config_file import (
    ConfigFile,
    config_of,
    default_path,
    environment_variable,
    key_of,
    options_of,
    subcommands,
    words_of,
)

_PASSWORD = re.compile(r"(://[^/@:]*):[^/]*@")


@dataclass(frozen=True)
class Setting:
    """One option, as a command would have it now.

    Attributes:
        option: its key in the file, behind those of its commands: ``serve.min-nodes``.
        value: text, or a list of texts; passwords in URLs are masked. None: the command finds it out, or does without.
        source: flag, environment, file or default.
        place: the flag, the variable, or the file with the line.
    """

    option: str
    value: str | list[str] | None
    source: str
    place: str


def settings_of(context: click.Context) -> Iterator[Setting]:
    """Each option of a program or command, and of the commands below it.

    What a command takes over from the program in front of it is the program's alone.

    Raises:
        click.BadParameter: the environment has a value that the option can't have.
    """
    program = options_of(context.find_root().command) if context.parent else {}
    for key, option in options_of(context.command).items():
        setting = _setting(context, option, config_of(context))
        if setting.source != "default" or key not in program:
            yield setting
    for _, inner in subcommands(context):
        yield from settings_of(inner)


def config_command(example: str) -> click.Group:
    """The command ``config`` of a program; ``example`` is a line that shows how it is used."""

    @click.group("config", epilog=example)
    def config() -> None:
        """The configuration file: see docs/configuration.md for all that it may have."""

    @config.command("show", epilog=example)
    @click.argument("command", required=False)
    @click.option("--json", "as_json", is_flag=True, help="Print everything as one JSON object.")
    @click.pass_context
    def show(context: click.Context, command: str | None, as_json: bool) -> None:
        """Print each option's value, and who said so: a flag, the environment, the file, or the command's default.

        COMMAND is one of this program's: its options alone are printed then. Passwords are masked.
        """
        root = context.find_root()
        shown = root if command is None else _command(root, command)
        found = list(settings_of(shown))
        file = config_of(context)
        if as_json:
            settings = {one.option: {k: v for k, v in asdict(one).items() if k != "option"} for one in found}
            click.echo(json.dumps({"file": str(file.path) if file else None, "settings": settings}, indent=2))
            return
        click.echo(_file_line(file))
        rows = [(one.option, _text(one.value), f"{one.source} {one.place}".rstrip()) for one in found]
        widths = [max(len(row[column]) for row in rows) for column in range(2)]
        for option, value, source in rows:
            click.echo(f"{option:<{widths[0]}}  {value:<{widths[1]}}  {source}")

    return config


def _command(root: click.Context, name: str) -> click.Context:
    found = dict(subcommands(root)).get(name)
    if found is None:
        raise click.UsageError(f"there is no command {name!r}")
    return found


def _file_line(file: ConfigFile | None) -> str:
    return f"file {file.path}" if file else f"file {default_path() or 'config.yaml'}: not there"


def _setting(context: click.Context, option: click.Option, config: ConfigFile | None) -> Setting:
    parameter, name = str(option.name), ".".join((*words_of(context), key_of(option)))
    if context.get_parameter_source(parameter) is ParameterSource.COMMANDLINE:
        given = context.params.get(parameter, getattr(context.obj, parameter, None))
        return Setting(name, _shown(given), "flag", f"--{key_of(option)}")
    if (found := option.value_from_envvar(context)) is not None:
        shown = _shown(option.type_cast_value(context, found))
        return Setting(name, shown, "environment", environment_variable(context, option))
    if config and (found := context.lookup_default(parameter)) is not None:
        return Setting(name, _shown(option.type_cast_value(context, found)), "file", config.place(context, parameter))
    default = option.show_default if isinstance(option.show_default, str) else option.to_info_dict()["default"]
    return Setting(name, None if callable(default) else _shown(default), "default", "")


def _shown(value: Any) -> str | list[str] | None:
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return [str(_shown(one)) for one in value]
    return _PASSWORD.sub(r"\1:***@", str(value))


def _text(value: str | list[str] | None) -> str:
    return (value if isinstance(value, str) else ", ".join(value or ())) or "-"
