"""``linguabus up``: a fleet on this machine in one command, with what it needs to answer in a browser."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import click

from broker.config_file import VARIABLE, config_of
from broker.credential import FILE, Credential
from broker.free_ports import free_port
from broker.option_types import MemberName, WholeRange
from orchestrator.client import Client, NoOrchestrator
from orchestrator.commands.api import DEFAULT_PORT
from orchestrator.commands.connection import connect
from orchestrator.commands.interrupts import leave_on_signals
from orchestrator.commands.output import warn_of_few_files
from orchestrator.commands.parts import PAGE, Parts, log_of
from orchestrator.commands.settings import Settings, pass_settings
from orchestrator.errors import AddressInUse
from orchestrator.text.status_text import status_text
from schemas import names

_SERVES = re.compile(r"^orchestrator: pipeline", re.MULTILINE)
_LENDS = re.compile(r"^node \S+ at ", re.MULTILINE)
_STOP_S = 6.0
"""For all programs together: each ends within five seconds."""
_CHECK_S = 0.5
_STATUS_S = 1.0


@click.command("up", epilog="Example: linguabus up")
@click.option("--name", type=MemberName(), metavar="NAME", help="Of this machine's node. [default: the host's name]")
@click.option("--no-node", is_flag=True, help="No node on this machine: other devices have to lend themselves.")
@click.option(
    "--port",
    type=WholeRange(0, 65535),
    default=DEFAULT_PORT,
    show_default=True,
    help="The page's, for this machine alone; 0: a free one.",
)
@pass_settings
@click.pass_context
def command(context: click.Context, settings: Settings, name: str | None, no_node: bool, port: int) -> int:
    """A fleet on this machine, in one command: broker, orchestrator, a node and the page, until Ctrl-C.

    What is there already is taken: a fleet that 'linguabus init' has made, the active model, this machine as a node.
    What is missing is made first; the model is then the demo's. The fleet stays, and so do those who have joined it:
    the next time all goes on. A part that ends is started again, unless that was its third end within a minute.
    Options of 'serve', 'api' and 'node' are in the configuration file.
    """
    from orchestrator.identity.fleet_broker import fleet_mosquitto
    from orchestrator.identity.fleet_folder import FleetFolder
    from orchestrator.identity.fleet_ports import taken_port
    from orchestrator.model.lock import exclusive, is_held
    from orchestrator.model.store import ModelStore

    if settings.broker_is_named:
        raise click.UsageError("the fleet has a broker of its own: leave --broker and LINGUABUS_BROKER out")
    fleet_mosquitto()  # refused now, not when a model has been fetched
    home = settings.home.absolute()
    warn_of_few_files()
    folder = home / "up"
    if is_held(folder / "lock"):
        raise click.UsageError(f"'linguabus up' runs on {home} already{_page_of(folder)}")
    _require_free(port)
    with exclusive(folder / "lock"):
        log_of(folder, "page").unlink(missing_ok=True)  # of an earlier time, at another address perhaps
        if not FleetFolder.exists(home):
            _run(context, "init")
        if taken := taken_port(FleetFolder.of(home).settings, with_server=True):
            raise AddressInUse(taken)  # now, not when a model has been fetched
        if ModelStore(settings.models_dir).active is None:
            code = _run(context, "model", "add", "demo")
            if code:
                return code
        if config := config_of(context):
            os.environ[VARIABLE] = str(config.path.absolute())
        with (
            leave_on_signals(),
            _running(home, folder, None if no_node else name or _own_name(), port or free_port()) as (parts, page),
        ):
            click.echo(f"in a browser: {page}   (stop with Ctrl-C)")
            click.echo("another device: 'linguabus invite NAME --phone', in another terminal, prints its line")
            _watch(settings, parts, awaits_node=not no_node)
    click.echo("stopped; the fleet stays: 'linguabus up' goes on with it")
    return 0


def _own_name() -> str:
    return names.name_from(socket.gethostname()) or "host"


def _page_of(folder: Path) -> str:
    """Where the page of who runs there is, to be said behind that; nothing as long as it is not there yet."""
    with contextlib.suppress(FileNotFoundError):
        if found := PAGE.search(log_of(folder, "page").read_text("utf-8", "replace")):
            return f"; in a browser: {found[1]}"
    return ""


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
        PartFailed: one of them did not start, or ended too often.
        AlreadyMember: another device has this name.
    """
    parts = Parts(folder)
    tend = functools.partial(_tend, parts)
    ours = ["-m", "orchestrator.cli", "--home", str(home)]
    try:
        orchestrator = parts.start("orchestrator", [*ours, "serve", "--with-broker"], _SERVES)
        parts.wait_for(orchestrator, _SERVES, tend)
        if name is not None:
            _join(home, name)
            parts.start("node", ["-m", "edge_node", "--home", str(home / "node"), "--drain-timeout", "0"], _LENDS)
        page = parts.start("page", [*ours, "api", "--port", str(port)], PAGE)
        yield parts, parts.wait_for(page, PAGE, tend)[1]
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


def _tend(parts: Parts) -> None:
    """Start those again that have ended, and say so; raises `PartFailed`."""
    for line in parts.tend(time.monotonic()):
        click.echo(f"  {line}")


def _watch(settings: Settings, parts: Parts, *, awaits_node: bool) -> None:
    """Say how the fleet comes to serve, and return at Ctrl-C or SIGTERM; raises `PartFailed`."""
    over = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: over.set())
    with connect(settings) as client:
        said = ""
        while not over.wait(_CHECK_S):
            _tend(parts)
            if said != "serving" and (news := _news(client, awaits_node)) not in ("", said):
                said = news
                click.echo(f"  {said}")


def _news(client: Client, awaits_node: bool) -> str:
    with contextlib.suppress(NoOrchestrator):
        status = client.status(timeout_s=_STATUS_S)
        if status.nodes or not awaits_node:  # that there are none is no news to who sees this machine's start
            return status_text(status)
    return ""
