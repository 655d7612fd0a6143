"""A device joins a fleet: it makes a key, and trades an invitation for a membership. Standard library only.

The fleet's server is known by the fingerprint in the invitation: its authority's certificate is asked for over a
connection that nobody vouches for, and is compared; the token goes over a second one, to a server that this authority
has signed for.
"""

from __future__ import annotations

import base64
import contextlib
import hmac
import http.client
import json
import ssl
from pathlib import Path

from broker.connection_words import why
from broker.credential import Credential
from broker.errors import JoiningFailed
from broker.https import ask
from broker.member_key import hash_of, is_key, new_key
from broker.private_file import write_private
from broker.tls import client_context, fingerprint, unverified_context
from schemas.invitation import Invitation

AUTHORITY_PATH, ENROL_PATH = "/v1/authority", "/v1/enrol"


def join(invitation: Invitation, path: Path) -> Credential:
    """Become a member, with the credential in the file ``path``.

    The key is there before the fleet hears of it: who was interrupted, or has missed the answer, joins by the same
    invitation.

    Raises:
        JoiningFailed: nobody answers, the server is not the fleet's, or the invitation is not good any more.
        CredentialUnusable: there is a file that is none.
        OSError: the credential can't be written.
    """
    authority, address = _authority(invitation)
    kept = path.with_name(f"{path.name}.joining")
    key, key_hash = _kept_key(kept)
    answer = _enrol(invitation, authority, address, key_hash)
    try:
        found = Credential.parse({**answer, "key": key, "authority": authority})
    except ValueError as error:
        raise JoiningFailed(f"the fleet's answer is none: {error}; are both of the same linguabus version?") from error
    if (found.name, found.role) != (invitation.name, invitation.role):
        raise JoiningFailed("the fleet's answer is about somebody else: ask for a new invitation")
    # The address that answered comes first, even if the fleet does not know it: it may be behind another one's.
    found = found.at(*dict.fromkeys((address, *found.addresses)))
    found.save(path)
    kept.unlink(missing_ok=True)
    return found


def _kept_key(path: Path) -> tuple[str, str]:
    """Key and hash of an earlier attempt, or new ones that the next attempt finds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(OSError, ValueError):
        key, key_hash = path.read_text("utf-8").split()
        if is_key(key, key_hash):
            return key, key_hash
    key = new_key()
    key_hash = hash_of(key)
    write_private(path, f"{key}\n{key_hash}\n")
    return key, key_hash


def _authority(invitation: Invitation) -> tuple[str, str]:
    """The authority's certificate, and the address that gave it."""
    anybody = unverified_context()  # what comes is compared, and nothing is told
    problem = ""
    for address in invitation.addresses:
        try:
            status, body, _ = ask(address, invitation.port, anybody, "GET", AUTHORITY_PATH)
        except (OSError, http.client.HTTPException, ValueError) as error:
            problem = problem or f"{address} port {invitation.port}: {_reason(error)}"
            continue
        try:
            is_it = hmac.compare_digest(fingerprint(body.decode("ascii")), invitation.fingerprint)
        except ValueError:
            is_it = False
        if status == 200 and is_it:
            return body.decode("ascii"), address
        problem = f"{address} port {invitation.port} is not the fleet that has invited: do not trust this network"
    raise JoiningFailed(f"{problem}; is 'linguabus serve' running there, and is this device in the same network?")


def _enrol(invitation: Invitation, authority: str, address: str, key_hash: str) -> dict[str, object]:
    asked = json.dumps({"token": base64.b64encode(invitation.token).decode(), "key_hash": key_hash})
    try:
        status, body, _ = ask(
            address, invitation.port, client_context(authority), "POST", ENROL_PATH, asked.encode(),
            {"content-type": "application/json"},
        )  # fmt: skip
        answer = json.loads(body)
    except ssl.SSLError as error:
        raise JoiningFailed(f"{address} can't prove that it is the fleet ({_reason(error)})") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise JoiningFailed(f"{address} broke off: {_reason(error)}; try again with the same invitation") from error
    if status != 200 or not isinstance(answer, dict):
        said = answer.get("error") if isinstance(answer, dict) else None
        line = said if isinstance(said, str) and said.isprintable() else f"the fleet answers with HTTP status {status}"
        raise JoiningFailed(line[:300])
    return answer


def _reason(error: Exception) -> str:
    if isinstance(error, OSError | UnicodeError):
        return why(error)
    return "it does not speak HTTP"  # what it said instead may be meant for the terminal
