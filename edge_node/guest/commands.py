"""``linguabus-node status|pause|resume|leave``: what the owner of a device says to the node on it."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

import click

from broker.credential import FILE, Credential
from broker.errors import CredentialUnusable, LeavingFailed
from broker.leaving import leave as leave_fleet
from broker.time_span import seconds_of
from edge_node.guest.departure import Departure
from edge_node.guest.home_option import home_option
from edge_node.guest.pause import Pause, PauseFile
from edge_node.guest.presence import end_node, state_of
from edge_node.guest.state import NodeState
from schemas.span_text import rough_span
from schemas.system_limits import describe

NOT_RUNNING, NO_BROKER = 3, 4
"""Exit codes of ``status``."""
_MB = 10**6
_END_S = 3700.0
"""A node may take an hour to hand its layers over, if it was told so."""


def _name(home: Path) -> str:
    """The name with which a home has joined its fleet; empty where it has not."""
    try:
        member = Credential.load(home / FILE)
    except CredentialUnusable:
        return ""
    return member.name if member else ""


def _require_node(home: Path) -> None:
    """Refuse a directory in which no node has ever been: its owner means another one."""
    if not Departure(home).is_possible:
        there = f"; there is one in {home / 'node'}" if (home / "node" / FILE).exists() else ""
        raise click.UsageError(f"there is no node in {home}{there}: give its --home")


def _write(home: Path, pause: Pause | None) -> None:
    try:
        if pause:
            PauseFile(home).write(pause)
        else:
            PauseFile(home).remove()
    except OSError as error:
        raise click.UsageError(f"--home {home} can't be used: {describe(error)}") from None


@click.command("status", epilog="Example: linguabus-node status --json")
@home_option("The node's directory.")
@click.option("--json", "as_json", is_flag=True, help="Print all that is known as one JSON object.")
def status(home: Path, as_json: bool) -> None:
    """Say how the node on this device is: what it serves, or why not, and what it has cost.

    Exit code 0: it runs, and has a broker; 3: it does not run; 4: it runs, and its broker, or it
    itself, does not answer.
    """
    state = state_of(home, _name(home))
    click.echo(json.dumps(asdict(state), indent=1) if as_json else describe_state(state))
    if state.state == "not running":
        sys.exit(NOT_RUNNING)
    if state.no_broker_s is not None or state.state == "unknown":
        sys.exit(NO_BROKER)


def describe_state(state: NodeState) -> str:
    """What ``status`` prints for people."""
    lines = [f"{state.node or 'the node'} is {state.line}"]
    if state.uptime_s is not None:
        lines.append(f"up for {rough_span(state.uptime_s)}, {state.tokens or 0:,} tokens served")
    if state.rss_bytes is not None and state.limit_bytes is not None:
        lines.append(f"memory {state.rss_bytes / _MB:.0f} of {state.limit_bytes / _MB:.0f} MB")
    if state.bytes_in is not None and state.bytes_out is not None:
        lines.append(f"messages {state.bytes_in / _MB:.1f} MB received, {state.bytes_out / _MB:.1f} MB sent")
    if state.battery_percent is not None:
        lines.append(f"battery {state.battery_percent:.0f} %, {'' if state.charging else 'not '}on a charger")
    return "\n".join(lines)


def _span(context: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    return None if value is None else seconds_of(context, parameter, value)


@click.command("pause", epilog="Example: linguabus-node pause --for 2h")
@home_option("The node's directory.")
@click.option("--for", "for_s", callback=_span, metavar="TIME", help="End the pause after such as 30m, 2h or 1d.")
def pause(home: Path, for_s: float | None) -> None:
    """Let the node on this device rest: others take its layers over, and it takes none until 'resume'.

    What nobody can take over it lets go after its --drain-timeout; answers that need it wait. The pause holds over
    restarts of the node and of the device.
    """
    _require_node(home)
    wanted = Pause(None if for_s is None else time.time() + for_s)
    _write(home, wanted)
    _tell(state_of(home, _name(home), "look"), wanted.reason)


@click.command("resume", epilog="Example: linguabus-node resume")
@home_option("The node's directory.")
def resume(home: Path) -> None:
    """End the pause of the node on this device: it takes layers again."""
    _require_node(home)
    _write(home, None)
    _tell(state_of(home, _name(home), "look"), "it may work again")


def _tell(state: NodeState, done: str) -> None:
    name = state.node or "the node"
    if state.state == "not running":
        click.echo(f"{name}: {done}; it is not running now")
    elif state.state == "unknown":
        click.echo(f"{name}: {done}; it sees that as soon as it can (it does not answer now)")
    else:
        click.echo(f"{name} is {state.line}")


@click.command("leave", epilog="Example: linguabus-node leave --forget-weights")
@home_option("The node's directory.")
@click.option("--forget-weights", is_flag=True, help="Remove the model parts from this device, too.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def leave(home: Path, forget_weights: bool, yes: bool) -> None:
    """Leave the fleet: the node hands its layers over and ends, its membership ends, and its key is removed.

    An invitation lets the device join again, under the same name if you like.
    """
    _require_node(home)
    departure = Departure(home)
    try:
        member = departure.member()
    except CredentialUnusable as error:
        raise click.UsageError(f"{error}; or remove it, and 'linguabus revoke NAME' on the fleet's host") from None
    name = member.name if member else "the node"
    if not yes:
        click.confirm(f"{name} leaves its fleet, and needs an invitation to come back. Go on?", abort=True)
    try:
        departure.begin()
        ended = end_node(home, timeout_s=_END_S, waits=lambda: click.echo(f"{name} hands its layers over and ends"))
        if not ended:
            raise click.ClickException(f"{name} does not end: stop it, then 'linguabus-node leave' again")
        failure = None
        if member:
            try:
                was_member = leave_fleet(member)
                click.echo(f"{name} is no member any more" if was_member else f"{name} was no member any more")
            except LeavingFailed as error:
                failure = error
        freed_bytes = departure.finish(forget_weights=forget_weights)
    except OSError as error:
        raise click.UsageError(f"--home {home} can't be used: {describe(error)}") from None
    if not member:
        click.echo("it belonged to no fleet")
    if forget_weights:
        click.echo(f"{freed_bytes / _MB:.0f} MB of model parts are removed")
    if failure:
        raise click.ClickException(str(failure))


COMMANDS = (status, pause, resume, leave)
