"""``linguabus version``."""

from __future__ import annotations

import platform

import click

from schemas import PACKAGE_VERSION, PROTOCOL_VERSION


@click.command("version", epilog="Example: linguabus version")
def command() -> None:
    """Print the versions of linguabus, its protocol and Python."""
    click.echo(f"linguabus {PACKAGE_VERSION} (protocol {PROTOCOL_VERSION}, Python {platform.python_version()})")
