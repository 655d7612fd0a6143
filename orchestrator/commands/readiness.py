"""Waiting for a plan that is on its way, before a question is asked."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

import click

from broker.option_types import FiniteRange
from orchestrator.client import Client, ClientError
from orchestrator.text.figures import progress_text
from schemas.messages import StatusReply

_F = TypeVar("_F", bound=Callable[..., Any])
_ASK_AGAIN_S = 0.5
_TELL_AFTER_S = 1.0
"""Most plans take less: nothing is said of those."""


class NoPlanInTime(ClientError):
    """The plan that was on its way is not in force yet."""

    def __init__(self, waited_s: float, missing: str) -> None:
        super().__init__(f"no plan after {waited_s:g} s: {missing} (to wait longer: --wait SECONDS)")


def wait_option(function: _F) -> _F:
    """Add ``--wait``, which `await_plan` takes."""
    option = click.option(
        "--wait",
        "wait_s",
        type=FiniteRange(0, 86_400),
        default=120.0,
        show_default=True,
        metavar="SECONDS",
        help="While a plan is being made, wait for it so long.",
    )
    return option(function)


def await_plan(client: Client, timeout_s: float) -> None:
    """Wait until a plan is in force, or none is on its way: a question is refused then, and its client told why.

    What is waited for is said once, on stderr, unless the wait is over in a moment.

    Raises:
        NoPlanInTime: it takes longer; the message says what is missing.
        NoOrchestrator: nobody is there.
    """
    begun_s = time.monotonic()
    told = False
    while missing := _missing(client.status()):
        waited_s = time.monotonic() - begun_s
        if waited_s >= timeout_s:
            raise NoPlanInTime(timeout_s, missing)
        if waited_s >= _TELL_AFTER_S and not told:
            click.echo(f"waiting for a plan: {missing}", err=True)
            told = True
        time.sleep(min(_ASK_AGAIN_S, timeout_s - waited_s))


def _missing(status: StatusReply) -> str:
    """The reason why a plan on its way is not in force yet; empty if there is a plan, or none to come."""
    if status.epoch or status.reason:
        return ""
    fetching = [
        f"{node} has {progress_text(part.done_bytes, part.total_bytes)}"
        for node, part in sorted(status.progress.items())
        if part.done_bytes < part.total_bytes
    ]
    state = f"nodes so far: {status.nodes}" if status.state == "waiting" else status.state
    last = f"last failure: {status.last_failure}" if status.last_failure else ""
    return ", ".join(filter(None, (state, *fetching, last)))
