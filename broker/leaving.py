"""A member leaves its fleet: it tells the fleet's host so, with its own key. Standard library only."""

from __future__ import annotations

import http.client

from broker.connection_words import why
from broker.credential import Credential
from broker.errors import LeavingFailed
from broker.https import ask
from broker.tls import client_context

PATH = "/v1/leave"


def leave(member: Credential) -> bool:
    """End a membership on the fleet's host; false if it was none any more.

    Raises:
        LeavingFailed: the host can't be reached, or does not let it go.
    """
    problem = ""
    for address in member.addresses:
        try:
            status, _, _ = ask(
                address, member.http_port, client_context(member.authority), "POST", PATH, b"",
                {"authorization": member.broker().authorization},
            )  # fmt: skip
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = why(error) if isinstance(error, OSError | UnicodeError) else "it does not speak HTTP"
            problem = problem or f"{address} port {member.http_port}: {reason}"
            continue
        if status in (http.client.OK, http.client.UNAUTHORIZED):
            return status == http.client.OK
        problem = f"{address} answers with HTTP status {status}"
    raise LeavingFailed(member.name, problem)
