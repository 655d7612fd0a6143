"""Whose request it is, as a browser says."""

from __future__ import annotations

import pytest

from orchestrator.gateway.same_origin import is_foreign

HOST = {"host": "127.0.0.1:8480"}


@pytest.mark.parametrize(
    ("headers", "foreign"),
    [
        ({}, False),
        ({"origin": "http://127.0.0.1:8480"}, False),
        ({"origin": "http://127.0.0.1:8481"}, True),
        ({"origin": "https://evil.example"}, True),
        ({"origin": "null"}, True),
        ({"origin": "https://evil.example", "authorization": "Bearer none"}, False),
        ({"sec-fetch-site": "same-origin", "origin": "http://127.0.0.1:8480"}, False),
        ({"sec-fetch-site": "none"}, False),
        ({"sec-fetch-site": "same-site", "origin": "http://127.0.0.1:8481"}, True),
        ({"sec-fetch-site": "cross-site"}, True),
    ],
)
def test_foreign_requests(headers: dict[str, str], foreign: bool) -> None:
    assert is_foreign(HOST | headers) is foreign
