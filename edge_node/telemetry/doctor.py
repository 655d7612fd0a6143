"""``python -m edge_node.telemetry.doctor``: what there is to say of this device, each finding a line of JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import click

from broker.address import BrokerAddress, as_address
from broker.credential import FILE, Credential
from broker.errors import BusError
from broker.link_check import check_link
from edge_node.telemetry.device_check import check_device
from schemas.finding import Finding


@click.command()
@click.option("--home", type=click.Path(path_type=Path, file_okay=False), required=True)
@click.option("--broker", metavar="URL", default=None)
@click.option("--name", default="node")
def main(home: Path, broker: str | None, name: str) -> None:
    """Look at this device as a node's: 'linguabus doctor' shows what comes."""
    for finding in findings(home, None if broker is None else as_address(broker), name):
        click.echo(json.dumps(asdict(finding)))


def findings(home: Path, broker: BrokerAddress | None, name: str) -> Iterator[Finding]:
    """The device, then its link: to the broker that was named, or to that of the fleet it has joined."""
    libraries = True
    for finding in check_device(home, member=broker is None):
        libraries = libraries and not (finding.check == "numpy" and finding.state == "failed")
        yield finding
    member = _member(home) if broker is None else None
    address = member.broker() if member else broker
    if address is None:
        return
    may_speak = True
    http_port = member.http_port if member else None
    for finding in check_link(address, http_port=http_port, role="node", file=home / FILE):
        may_speak = may_speak and not (finding.check != "orchestrator" and finding.state == "failed")
        yield finding
    if may_speak and libraries:
        from edge_node.telemetry.echo_check import check_echo

        yield from check_echo(address, member.name if member else name, member=member is not None)


def _member(home: Path) -> Credential | None:
    try:
        return Credential.load(home / FILE)
    except BusError:  # which has been said
        return None


if __name__ == "__main__":
    main()
