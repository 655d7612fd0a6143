"""The settings that every command has: where the broker is, where files are kept, how much to say."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from broker.address import DEFAULT_URL, BrokerAddress, parse_broker_url
from broker.credential import FILE, Credential
from broker.option_types import BrokerUrl
from broker.security import password_warning
from broker.user_home import user_home
from broker.whereabouts import Whereabouts
from orchestrator.errors import NoHome

_F = TypeVar("_F", bound=Callable[..., Any])


def default_home() -> Path:
    """``$XDG_DATA_HOME/linguabus``, by default ``~/.local/share/linguabus``; raises `NoHome`."""
    return Path(os.environ.get("XDG_DATA_HOME") or _user_home() / ".local" / "share") / "linguabus"


def default_cache() -> Path:
    """``$XDG_CACHE_HOME/linguabus``, by default ``~/.cache/linguabus``: what can be fetched or made again.

    Raises:
        NoHome: the user has no home directory.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or _user_home() / ".cache") / "linguabus"


def _user_home() -> Path:
    try:
        return user_home()
    except RuntimeError:
        raise NoHome("you have no home directory: give --home DIR before the command, or set HOME") from None


def _has_home() -> bool:
    try:
        return os.access(_user_home(), os.W_OK | os.X_OK)
    except NoHome:
        return False


@dataclass
class Settings:
    """The settings of a command, filled by the options in front of its name, then by its own."""

    broker: str = DEFAULT_URL
    broker_source: ParameterSource = ParameterSource.DEFAULT
    """Who has named it."""
    given_home: Path | None = None
    insecure: bool = False
    verbose: int = 0

    @property
    def broker_is_given(self) -> bool:
        """By an option."""
        return self.broker_source is ParameterSource.COMMANDLINE

    @property
    def broker_is_named(self) -> bool:
        """By an option, the environment or the configuration file: then this home's fleet is not asked."""
        return self.broker_source is not ParameterSource.DEFAULT

    @property
    def home(self) -> Path:
        """The folder where models and state are kept; raises `NoHome`."""
        return self.given_home or default_home()

    @home.setter
    def home(self, path: Path) -> None:
        """Set the folder. For a user without a home it becomes HOME: libraries and child processes ask for one."""
        self.given_home = path
        if not _has_home():
            os.environ["HOME"] = str(path.absolute())

    @property
    def home_if_any(self) -> Path | None:
        """The home folder, or None for commands that may do without."""
        try:
            return self.home
        except NoHome:
            return None

    @property
    def address(self) -> BrokerAddress:
        """The broker that was named, or that of the fleet that this home has joined, or the default one.

        Raises:
            BadBrokerUrl: what was named is none.
            CredentialUnusable: the fleet's credential can't be read.
        """
        membership = self.membership
        return membership.broker() if membership else parse_broker_url(self.broker)

    @property
    def membership(self) -> Whereabouts | None:
        """The fleet that this home has joined, unless another broker was named; raises `CredentialUnusable`."""
        home = None if self.broker_is_named else self.home_if_any
        credential = Credential.load(home / FILE) if home else None
        return Whereabouts(home / FILE, credential) if home and credential else None

    @property
    def models_dir(self) -> Path:
        """The folder of the `ModelStore`."""
        return self.home / "models"


class HelpGroup(click.Group):
    """Commands with a name in common; the name alone prints their help, as ``--help`` does."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, args or ["--help"])


pass_settings = click.make_pass_decorator(Settings)


_WEIGHT = {ParameterSource.COMMANDLINE: 3, ParameterSource.ENVIRONMENT: 2, ParameterSource.DEFAULT_MAP: 1}
"""What stands behind a command's name goes before what stands in front of it, unless that was said louder."""


def _set_broker(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value is None or parameter.name is None:
        return
    settings = context.ensure_object(Settings)
    source = context.get_parameter_source(parameter.name) or ParameterSource.DEFAULT
    if _WEIGHT.get(source, 0) < _WEIGHT.get(settings.broker_source, 0):
        return
    settings.broker, settings.broker_source = value, source
    if settings.broker_is_given and (warning := password_warning(value)):
        click.echo(f"warning: {warning}", err=True)


def _set_insecure(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value:
        context.ensure_object(Settings).insecure = True


def bus_options(function: _F) -> _F:
    """Decorate a command with ``--broker`` and ``--insecure``, which may stand before or behind its name."""
    broker = click.option(
        "--broker",
        type=BrokerUrl(),
        metavar="URL",
        expose_value=False,
        callback=_set_broker,
        help="The broker: mqtt://host[:port] or mqtts://host[:port]. [default: LINGUABUS_BROKER, the fleet that was"
        f" joined, or {DEFAULT_URL}]",
    )
    insecure = click.option(
        "--insecure",
        is_flag=True,
        expose_value=False,
        callback=_set_insecure,
        help="Allow connections to other machines without encryption.",
    )
    return broker(insecure(function))
