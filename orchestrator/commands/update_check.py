"""``linguabus update-check``: is there a newer one? Nothing in linguabus asks that by itself."""

from __future__ import annotations

import json
import subprocess
import sys

import click

from broker.option_types import FiniteRange
from orchestrator.commands.output import print_json
from schemas import PACKAGE_VERSION

_PACKAGE = "linguabus"


@click.command("update-check", epilog="Example: linguabus update-check --json")
@click.option("--json", "as_json", is_flag=True, help="Print everything as one JSON object.")
@click.option(
    "--timeout",
    "timeout_s",
    type=FiniteRange(1, 600),
    default=15.0,
    show_default=True,
    metavar="SECONDS",
    help="How long the index may take to answer.",
)
def command(as_json: bool, timeout_s: float) -> None:
    """Ask the package index that pip is set up with whether there is a newer linguabus.

    Only this command asks, and only when it is run: the index learns this machine's address, the package's name, and
    the versions of pip and Python that pip tells it. Nothing is installed.
    """
    click.echo(f"asking the package index of this Python's pip for {_PACKAGE}", err=True)
    newest = _newest(timeout_s)
    if as_json:
        print_json({"installed": PACKAGE_VERSION, "newest": newest, "is_newest": newest == PACKAGE_VERSION})
    elif newest == PACKAGE_VERSION:
        click.echo(f"linguabus {PACKAGE_VERSION} is the newest")
    else:
        click.echo(f"the index has linguabus {newest}, and this is {PACKAGE_VERSION}")
        click.echo("next: read its changelog, then on the host: pip install --upgrade linguabus; nodes follow")


def _newest(timeout_s: float) -> str:
    """The version that pip would install here, whatever is here.

    Raises:
        click.ClickException: the index does not answer, or has none.
    """
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "--quiet", "--retries=0"]
    options = ["--dry-run", "--ignore-installed", "--no-deps", "--only-binary=:all:", "--report=-"]
    try:
        done = subprocess.run(
            [*pip, f"--timeout={timeout_s}", "install", *options, _PACKAGE],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s + 60, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise click.ClickException("the package index does not answer: try again later") from None
    if done.returncode:
        raise click.ClickException(_why(done.stderr))
    (found,) = json.loads(done.stdout)["install"]
    return str(found["metadata"]["version"])


def _why(said: str) -> str:
    if "No module named pip" in said:
        return "there is no pip beside this Python: ask whatever has installed linguabus for updates"
    if "connection" in said.lower() or "timed out" in said.lower():
        return "the package index can't be reached: is this machine online?"
    last = (said.strip().splitlines() or ["pip failed"])[-1].removeprefix("ERROR: ")
    return f"the package index has no linguabus for this Python: {last}"
