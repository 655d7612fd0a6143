"""A secret is found in whatever form it got out."""

from __future__ import annotations

import base64
import urllib.parse

import pytest

from tests.support.secret_hunt import secrets_in

SECRET = b"a secret: k\xffy/+ of some length"


@pytest.mark.parametrize(
    "shown",
    [
        SECRET,
        SECRET.hex().encode(),
        urllib.parse.quote(SECRET, safe="").encode(),
        *(base64.b64encode(b"phone:x"[:lead] + SECRET + b" and more") for lead in range(7)),
        base64.urlsafe_b64encode(SECRET).rstrip(b"="),
        base64.urlsafe_b64encode(b"12" + SECRET).rstrip(b"="),
    ],
)
def test_a_secret_is_found_in_what_was_made_of_it(shown: bytes) -> None:
    secrets = {"key": SECRET, "other": b"another secret of some length"}
    assert secrets_in(b"log: " + shown + b"\n", secrets) == ["key"]
    assert secrets_in(b"log: " + shown[:3] + b"\n", secrets) == []
