"""``linguabus doctor``: looks at this machine in each of its roles, and says what to do about what is wrong."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import click

from broker.credential import FILE, Credential
from broker.errors import CredentialUnusable
from orchestrator.commands.exits import FAILURE
from orchestrator.commands.output import print_json
from orchestrator.commands.settings import Settings, bus_options, pass_settings
from schemas.finding import Finding, failed, ok
from schemas.roles import with_article

ROLES = ("host", "node", "client")
_WORDS = {"ok": ("ok", "green"), "warning": ("warning", "yellow"), "failed": ("FAILED", "red")}


@click.command("doctor", epilog="Example: linguabus doctor --report report.yaml")
@click.option(
    "--as",
    "roles",
    type=click.Choice(ROLES),
    multiple=True,
    help="Look as: host, the machine that serves; node, a device that lends itself; client, one that asks. [default:"
    " what this machine is]",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option(
    "--report",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write what was found, and facts about this device, to a file that can be sent to others: without keys, names"
    " and addresses.",
)
@bus_options
@pass_settings
@click.pass_context
def command(
    context: click.Context, settings: Settings, roles: tuple[str, ...], as_json: bool, report: Path | None
) -> None:
    """Look at everything that linguabus needs here, and say what to do about what is wrong.

    Exit code 1 where something does not work; 0 where all is well or may be.
    """
    found: list[tuple[str, Finding]] = []
    for role in roles or _roles_of(settings):
        if not as_json:
            click.secho(f"as a {role}", bold=True)
        for finding in _findings(role, settings):
            found.append((role, finding))
            if not as_json:
                _show(finding)
    bad = sum(finding.state == "failed" for _, finding in found)
    doubtful = sum(finding.state == "warning" for _, finding in found)
    if as_json:
        findings = [{"role": role, **asdict(finding)} for role, finding in found]
        print_json({"findings": findings, "failed": bad, "warnings": doubtful})
    else:
        click.echo(f"{len(found) - bad - doubtful} ok, {doubtful} warnings, {bad} failed")
    if report:
        from orchestrator.commands.doctor_report import write_report

        write_report(report, found, settings.home)
        click.echo(f"written to {report}: read it, answer its questions at the end, and send it", err=as_json)
    context.exit(FAILURE if bad else 0)


def _roles_of(settings: Settings) -> Sequence[str]:
    home = settings.home
    found = [
        role
        for role, is_one in (
            ("host", (home / "fleet").exists()),
            ("node", (home / "node" / FILE).exists()),
            ("client", (home / FILE).exists() and not (home / "fleet").exists()),
        )
        if is_one
    ]
    if settings.broker_is_named:
        return ["client"]
    return found or ["host" if importlib.util.find_spec("pyomo") else "node"]


def _findings(role: str, settings: Settings) -> Iterator[Finding]:
    if role == "node":
        yield from _look_at_node(settings)
        return
    host = ""
    if role == "host":
        from orchestrator.commands.doctor_host import check_host
        from orchestrator.identity.fleet_folder import FleetFolder
        from orchestrator.service.http_server import interface_addresses

        yield from check_host(settings.home, interface_addresses())
        if FleetFolder.exists(settings.home):
            host = FleetFolder.of(settings.home).own_addresses()[0]
    elif not settings.broker_is_named:
        yield _check_credential(settings.home / FILE)
    from broker.link_check import check_link

    try:
        address = settings.address
        member = None if settings.broker_is_named else Credential.load(settings.home / FILE)
    except CredentialUnusable as error:
        if role == "host":
            yield failed(
                "credential", str(error), "the commands here ask as somebody: linguabus invite NAME --operator"
            )
        return
    if member or settings.broker_is_named:
        yield from check_link(
            address,
            http_port=member.http_port if member else None,
            http_host=host,
            role=member.role if member else "client",
            file=settings.home / FILE,
        )


def _check_credential(path: Path) -> Finding:
    try:
        credential = Credential.load(path)
    except CredentialUnusable as error:
        return failed("credential", str(error), "on the fleet's host: linguabus invite NAME --client")
    if credential is None:
        remedy = "on the fleet's host: linguabus invite NAME --client; here: paste its line"
        return failed("credential", "this machine has joined no fleet", remedy)
    if path.stat().st_mode & 0o077:
        return failed("credential", f"others on this machine can read {path}", f"chmod 600 {path}")
    return ok("credential", f"{with_article(credential.role)} by the name of {credential.name}")


def _look_at_node(settings: Settings) -> Iterator[Finding]:
    """What the node's own program finds, as it comes."""
    command = [sys.executable, "-m", "edge_node.telemetry.doctor", "--home", str(settings.home / "node")]
    if settings.broker_is_named:
        command += ["--broker", settings.broker]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    try:
        for line in process.stdout:
            yield Finding(**json.loads(line))
    finally:
        process.stdout.close()
        if process.poll() is None:
            process.terminate()
        process.wait()
    if process.returncode:
        said = f"python -m edge_node.telemetry.doctor ended with {process.returncode}"
        yield failed("node", said, "pip install 'linguabus[edge]'")


def _show(finding: Finding) -> None:
    word, colour = _WORDS[finding.state]
    click.echo(f"  {click.style(f'{word:7}', fg=colour)}  {finding.check:14}  {finding.said}")
    if finding.remedy:
        click.echo(f"{'':27}-> {finding.remedy}")
