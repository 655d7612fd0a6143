"""``linguabus service``: the system starts an orchestrator, a way in by HTTP or a node, and keeps it running."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from broker.config_file import config_of
from broker.option_types import FiniteRange
from broker.security import password_warning
from orchestrator.commands.output import print_json
from orchestrator.commands.settings import HelpGroup, Settings, pass_settings
from orchestrator.service.supervision.supervised import WHATS, What, name_of

if TYPE_CHECKING:
    from orchestrator.service.supervision.supervised import Supervised, Supervisor

NOT_RUNNING = 3
"""Exit code of ``status``."""
_F = TypeVar("_F", bound=Callable[..., Any])


def _where(function: _F) -> _F:
    system = click.option(
        "--system/--user",
        "is_system",
        default=None,
        help="Of the machine, or of this user. [default: of the machine for root, else of the user]",
    )
    timeout = click.option(
        "--timeout",
        "timeout_s",
        type=FiniteRange(1, 3600),
        default=120.0,
        show_default=True,
        metavar="SECONDS",
        help="How long the system may take for each step.",
    )
    return system(timeout(function))


def _what_runs(function: _F) -> _F:
    account = click.option(
        "--as",
        "account",
        metavar="USER",
        envvar="SUDO_USER",
        help="Whom the machine's unit runs as, in that user's home unless --home names another one. [default: who has"
        " called sudo]",
    )
    what = click.argument("what", type=click.Choice(WHATS))
    options = click.argument("options", nargs=-1, type=click.UNPROCESSED)
    return account(what(options(function)))


_own_options = {"allow_interspersed_args": False, "ignore_unknown_options": True}


@click.group("service", cls=HelpGroup, epilog="Example: linguabus service install serve --with-broker")
def command() -> None:
    """Have the system start a command with the machine and keep it running: systemd, or Termux's services."""


@command.command(
    "install", epilog="Example: linguabus service install serve --with-broker", context_settings=_own_options
)
@_where
@click.option("--no-start", is_flag=True, help="Not now: from the machine's next start on.")
@_what_runs
@pass_settings
@click.pass_context
def install(context: click.Context, settings: Settings, /, no_start: bool, what: What, **said: Any) -> None:
    """Have the system run 'linguabus serve', 'api' or 'node', with OPTIONS of that command.

    What stands in front of 'service' (--home, --broker, --config) goes for it, too. Again, it replaces what was there.
    Of a machine with systemd, --system needs root, and --user runs while the user is logged in or lingers.
    """
    supervisor, service = _service(context, settings, what, **said)
    supervisor.install(service, starts=not no_start, tell=click.echo)
    click.echo(f"{name_of(what)} {'starts with the machine' if no_start else 'runs, and starts with the machine'}")
    click.echo(f"to remove it: linguabus service remove {what}")


@command.command("show", epilog="Example: linguabus service show node --only-charging", context_settings=_own_options)
@_where
@_what_runs
@pass_settings
@click.pass_context
def show(context: click.Context, settings: Settings, /, what: What, **said: Any) -> None:
    """Print what 'install' would write, and where, and change nothing."""
    supervisor, service = _service(context, settings, what, **said)
    for path, text in supervisor.files(service).items():
        click.echo(f"# {path}\n{text}")


@command.command("remove", epilog="Example: linguabus service remove serve")
@_where
@click.argument("what", type=click.Choice(WHATS))
def remove(is_system: bool | None, timeout_s: float, what: What) -> None:
    """Stop a service and remove all that 'install' has written. Its home, with models and keys, stays."""
    if _supervisor(is_system, timeout_s).remove(what):
        click.echo(f"{name_of(what)} is removed")
    else:
        click.echo(f"{name_of(what)} was not installed")


@command.command("status", epilog="Example: linguabus service status --json")
@_where
@click.option("--json", "as_json", is_flag=True, help="Print everything as one JSON object.")
def status(is_system: bool | None, timeout_s: float, as_json: bool) -> None:
    """Say which services are installed, and whether they run.

    Exit code 0: all that are installed run; 3: one of them does not, or there is none.
    """
    supervisor = _supervisor(is_system, timeout_s)
    found = [state for what in WHATS if (state := supervisor.state(what)).installed]
    if as_json:
        print_json({"services": [{**asdict(state), "runs": state.runs} for state in found]})
    for state in found if not as_json else ():
        start = "starts with the machine" if state.starts_with_machine else "does not start with the machine"
        click.echo(f"{state.name}: {state.active}, {start}")
    if not found and not as_json:
        click.echo("nothing is installed: linguabus service install serve --with-broker")
    if not found or not all(state.runs for state in found):
        sys.exit(NOT_RUNNING)


def _is_system(given: bool | None) -> bool:
    return os.geteuid() == 0 if given is None else given


def _supervisor(is_system: bool | None, timeout_s: float, account: str = "") -> Supervisor:
    from orchestrator.service.supervision.systemd import Systemd
    from orchestrator.service.supervision.termux import TermuxServices, termux_prefix

    if prefix := termux_prefix():
        return TermuxServices(prefix, Path.home(), timeout_s=timeout_s)
    return Systemd(is_system=_is_system(is_system), account=account, timeout_s=timeout_s)


def _service(
    context: click.Context,
    settings: Settings,
    what: What,
    *,
    is_system: bool | None,
    timeout_s: float,
    account: str | None,
    options: tuple[str, ...],
) -> tuple[Supervisor, Supervised]:
    """Who is to keep what running; raises click.UsageError where the command would not start."""
    from orchestrator.service.supervision.supervised import Supervised
    from orchestrator.service.supervision.systemd import home_of
    from orchestrator.service.supervision.termux import termux_prefix

    home = settings.home
    if termux_prefix() is None and _is_system(is_system):
        if not account:
            raise click.UsageError(
                f"say whom the machine's unit runs as, and in whose home: --as USER, in front of {what}; for root"
                " itself: --as root"
            )
        home = settings.given_home or home_of(account)
    words = ["--home", str(home.absolute()), *_said_in_front(context, settings)]
    _try_options(context, what, options)
    service = Supervised(what=what, command=(*_program(), *words, what, *options), home=home.absolute())
    return _supervisor(is_system, timeout_s, account or ""), service


def _program() -> tuple[str, ...]:
    """This very linguabus, wherever it is started from."""
    script = Path(sys.executable).with_name("linguabus")
    return (str(script),) if script.exists() else (sys.executable, "-P", "-m", "orchestrator.cli")


def _said_in_front(context: click.Context, settings: Settings) -> list[str]:
    """What a flag or the environment has said for all commands; the file says it again."""
    words = ["-v"] * settings.verbose + ["--insecure"] * settings.insecure
    if settings.broker_is_named and settings.broker_source is not ParameterSource.DEFAULT_MAP:
        if password_warning(settings.broker):
            raise click.UsageError(
                "everybody on this machine can read a unit, and the password in --broker: write it into the"
                " configuration file (broker: URL), for its owner alone"
            )
        words += ["--broker", settings.broker]
    source = context.find_root().get_parameter_source("config")
    if source in (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT) and (config := config_of(context)):
        words += ["--config", str(config.path.absolute())]
    return words


def _try_options(context: click.Context, what: What, options: tuple[str, ...]) -> None:
    """Refuse now what the command would refuse when the machine starts."""
    if what != "node":
        root = context.find_root()
        if isinstance(root.command, click.Group) and (command := root.command.get_command(root, what)):
            command.make_context(what, list(options), parent=root)
        return
    run = partial(subprocess.run, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    tried = run([sys.executable, "-P", "-m", "edge_node", *options, "config", "show", "--json"])
    if tried.returncode:
        said = tried.stderr.strip().splitlines() or [f"it ended with {tried.returncode}"]
        raise click.UsageError(f"linguabus node: {said[-1].removeprefix('Error: ')}")
