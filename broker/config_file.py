"""The configuration file: in YAML, what options of commands are where neither a flag nor the environment says it.

It mirrors the commands, and becomes click's ``default_map``. Values are read as a command line's words are: what YAML
makes of ``on`` or ``1.10`` does not matter.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from broker.errors import ConfigUnusable
from broker.user_home import user_home

VARIABLE = "LINGUABUS_CONFIG"
NOT_IN_FILES = frozenset({"help", "version", "config"})
"""Options that only a command line has, by their parameters' names."""
_META = "linguabus.config"
_F = TypeVar("_F", bound=Callable[..., Any])


@dataclass(frozen=True)
class ConfigFile:
    """A file whose keys and values are all known.

    Attributes:
        path: where it is.
        values: click's ``default_map``: by parameter and by sub-command.
        lines: where each value stands, by the command's words and the parameter.
    """

    path: Path
    values: Mapping[str, Any]
    lines: Mapping[tuple[str, ...], int]

    def place(self, context: click.Context, parameter: str) -> str:
        """Where in the file an option of a command has its value."""
        line = self.lines.get((*words_of(context), parameter))
        return f"{self.path}, line {line}" if line else str(self.path)


class ConfiguredGroup(click.Group):
    """A program whose options may come from elsewhere: what is wrong with a value from there is told with its place."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        try:
            return super().make_context(*args, **kwargs)
        except click.BadParameter as error:
            raise _with_place(error) from None

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.BadParameter as error:
            raise _with_place(error) from None


def _with_place(error: click.BadParameter) -> Exception:
    context, parameter = error.ctx, error.param
    if context is None or not isinstance(parameter, click.Option) or parameter.name is None:
        return error
    source, config = context.get_parameter_source(parameter.name), config_of(context)
    if source is ParameterSource.ENVIRONMENT:
        error.param_hint = environment_variable(context, parameter)
    elif source is ParameterSource.DEFAULT_MAP and config:
        return ConfigUnusable(config.place(context, parameter.name), f"{key_of(parameter)}: {error.message}")
    return error


def config_folder() -> Path:
    """``$XDG_CONFIG_HOME``, by default ``~/.config``; raises RuntimeError for a user without a home."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or user_home() / ".config")


def default_path() -> Path | None:
    """``linguabus/config.yaml`` in the folder for configuration; None for a user without a home."""
    try:
        return config_folder() / "linguabus" / "config.yaml"
    except RuntimeError:
        return None


def config_of(context: click.Context) -> ConfigFile | None:
    """The file that this command line goes by."""
    found: ConfigFile | None = context.meta.get(_META)
    return found


def config_option(read: Callable[[click.Context, Path], ConfigFile]) -> Callable[[_F], _F]:
    """``--config`` of a program; ``read`` checks a file for it."""

    def take(context: click.Context, _parameter: click.Parameter, given: Path | None) -> None:
        path = given or default_path()
        if context.resilient_parsing or path is None or (given is None and not path.exists()):
            return
        config = context.meta[_META] = read(context, path)
        context.default_map = dict(config.values)

    return click.option(
        "--config",
        type=click.Path(path_type=Path, dir_okay=False),
        envvar=VARIABLE,
        metavar="FILE",
        is_eager=True,
        expose_value=False,
        callback=take,
        help=f"What options are, in YAML. [default: {VARIABLE}, or ~/.config/linguabus/config.yaml where it is there]",
    )


def key_of(parameter: click.Parameter) -> str:
    """What an option is called in the file: its long name without the dashes."""
    return max(parameter.opts, key=len).lstrip("-")


def options_of(command: click.Command) -> dict[str, click.Option]:
    """The options that a file may have, by key."""
    found = (one for one in command.params if isinstance(one, click.Option) and one.name not in NOT_IN_FILES)
    return {key_of(option): option for option in found}


def environment_names(context: click.Context, option: click.Option) -> list[str]:
    """Variables that an option is read from, the first one first."""
    named = [option.envvar] if isinstance(option.envvar, str) else list(option.envvar or ())
    if context.auto_envvar_prefix and option.allow_from_autoenv:
        named.append(f"{context.auto_envvar_prefix}_{str(option.name).upper()}")
    return list(dict.fromkeys(named))


def environment_variable(context: click.Context, option: click.Option) -> str:
    """The variable that has an option's value now; empty: none has one."""
    return next((name for name in environment_names(context, option) if os.environ.get(name)), "")


def subcommands(context: click.Context) -> Iterator[tuple[str, click.Context]]:
    """Name and context of each sub-command. Other than when it is run, nothing is parsed."""
    if isinstance(context.command, click.Group):
        for name in context.command.list_commands(context):
            if command := context.command.get_command(context, name):
                yield name, click.Context(command, info_name=name, parent=context)


def words_of(context: click.Context) -> tuple[str, ...]:
    """The names of the command's context and of those around it, without the program's."""
    return (*words_of(context.parent), str(context.info_name)) if context.parent else ()
