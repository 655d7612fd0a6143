"""``linguabus up``: a fleet on this machine in one command, with what it needs to answer in a browser."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import click

from broker.config_file import VARIABLE, config_of
from broker.credential import FILE, Credential
from orchestrator.client import Client, NoOrchestrator
from orchestrator.commands.api import DEFAULT_PORT
from orchestrator.commands.connection import connect
from orchestrator.commands.interrupts import leave_on_signals
from orchestrator.commands.output import warn_of_few_files
from orchestrator.commands.parts import PAGE, Parts
from orchestrator.commands.settings import Settings, pass_settings
from orchestrator.errors import AddressInUse
from orchestrator.text.status_text import status_text
from schemas import names

_SERVES = re.compile(r"^orchestrator: pipeline", re.MULTILINE)
_STOP_S = 6.0
"""For all programs together: each ends within five seconds."""
_CHECK_S = 0.5
_STATUS_S = 1.0


def _check_name(_context: click.Context, parameter: click.Parameter, value: str | None) -> str:
    name = names.name_from(socket.gethostname()) or "host" if value is None else value
    if not names.is_name(name):
        raise click.BadParameter(names.RULE, param=parameter)
    return name


@click.command("up", epilog="Example: linguabus up")
@click.option("--name", callback=_check_name, help="Of this machine's node. [default: the host's name]")
@click.option("--no-node", is_flag=True, help="No node on this machine: other devices have to lend themselves.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=DEFAULT_PORT,
    show_default=True,
    help="The page's, for this machine alone; 0: a free one.",
)
@pass_settings
@click.pass_context
def command(context: click.Context, settings: Settings, name: str, no_node: bool, port: int) -> int:
    """A fleet on this machine, in one command: broker, orchestrator, a node and the page, until Ctrl-C.

    What is there already is taken: a fleet that 'linguabus init' has made, the active model, this machine as a node.
    What is missing is made first; the model is then the demo's. The fleet stays, and so do those who have joined it:
    the next time all goes on. Options of 'serve', 'api' and 'node' are in the configuration file.
    """
    from orchestrator.identity.fleet_broker import fleet_mosquitto
    from orchestrator.identity.fleet_folder import FleetFolder
    from orchestrator.model.lock import exclusive, is_held
    from orchestrator.model.store import ModelStore

    if settings.broker_is_named:
        raise click.UsageError("the fleet has a broker of its own: leave --broker and LINGUABUS_BROKER out")
    fleet_mosquitto()  # refused now, not when a model has been fetched
    home = settings.home.absolute()
    warn_of_few_files()
    folder = home / "up"
    if is_held(folder / "lock"):
        raise click.UsageError(f"'linguabus up' runs on {home} already")
    _require_free(port)
    with exclusive(folder / "lock"):
        if not FleetFolder.exists(home):
            _run(context, "init")
        if ModelStore(settings.models_dir).active is None:
            code = _run(context, "model", "add", "demo")
            if code:
                return code
        if config := config_of(context):
            os.environ[VARIABLE] = str(config.path.absolute())
        with leave_on_signals(), _running(home, folder, None if no_node else name, port) as (parts, page):
            click.echo(f"in a browser: {page}   (stop with Ctrl-C)")
            click.echo("another device: 'linguabus invite NAME --phone', in another terminal, prints its line")
            _watch(settings, parts)
    click.echo("stopped; the fleet stays: 'linguabus up' goes on with it")
    return 0


def _require_free(port: int) -> None:
    """Raise `AddressInUse` where the page can't be."""
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError as error:
        why = os.strerror(error.errno or 0)
        raise AddressInUse(f"the page can't be on port {port}: {why}; another one: linguabus up --port 0") from None


def _run(context: click.Context, *words: str) -> int:
    """Run another command of ours here, with what the file and the environment say of it; its exit code."""
    root = context.find_root()
    assert isinstance(root.command, click.Group)
    other = root.command.get_command(root, words[0])
    assert other is not None
    with other.make_context(words[0], list(words[1:]), parent=root) as inner:
        code = other.invoke(inner)
    return code if isinstance(code, int) else 0


@contextlib.contextmanager
def _running(home: Path, folder: Path, name: str | None, port: int) -> Iterator[tuple[Parts, str]]:
    """All programs, and the page's address; ``name``: of this machine's node, if it is to be one.

    Raises:
        PartFailed: one of them ended.
        AlreadyMember: another device has this name.
    """
    parts = Parts(folder)
    ours = ["-m", "orchestrator.cli", "--home", str(home)]
    try:
        orchestrator = parts.start("orchestrator", [*ours, "serve", "--with-broker"])
        parts.wait_for(orchestrator, _SERVES, parts.check)
        if name is not None:
            _join(home, name)
            parts.start("node", ["-m", "edge_node", "--home", str(home / "node"), "--drain-timeout", "0"])
        page = parts.start("page", [*ours, "api", "--port", str(port)])
        yield parts, parts.wait_for(page, PAGE, parts.check)[1]
    finally:
        parts.end(_STOP_S)


def _join(home: Path, name: str) -> None:
    """Make this machine a node of its own fleet, unless it is one."""
    from broker.joining import join
    from orchestrator.commands.join import await_broker
    from orchestrator.identity.fleet_folder import FleetFolder
    from orchestrator.identity.inviting import Wanted, invite
    from orchestrator.service.http_server import interface_addresses

    path = home / "node" / FILE
    if Credential.load(path) is None:
        made = invite(FleetFolder.of(home), Wanted(name=name), interface_addresses())
        await_broker(join(made.invitation, path))


def _watch(settings: Settings, parts: Parts) -> None:
    """Say how the fleet comes to serve, and return at Ctrl-C or SIGTERM; ends with an error when a program does."""
    over = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: over.set())
    with connect(settings) as client:
        said = ""
        while not over.wait(_CHECK_S):
            parts.check()
            if said != "serving" and (news := _news(client)) not in ("", said):
                said = news
                click.echo(f"  {said}")


def _news(client: Client) -> str:
    with contextlib.suppress(NoOrchestrator):
        return status_text(client.status(timeout_s=_STATUS_S))
    return ""
