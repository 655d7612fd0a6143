"""Invitations, as people paste them."""

from __future__ import annotations

import contextlib
import shlex
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import BadInvitation
from schemas.invitation import Invitation
from schemas.roles import ON_BROKER

LINE = Invitation(
    name="kitchen-phone", role="node", addresses=("192.168.1.5", "fd00::1", "desk.local"), port=8765,
    fingerprint=bytes(range(32)), token=b"\xff" * 16,
)  # fmt: skip


def test_a_line_says_all() -> None:
    assert Invitation.parse(str(LINE)) == LINE
    assert Invitation.parse(f"  {LINE}\n") == LINE


def test_every_role_can_be_invited() -> None:
    for role in ON_BROKER:
        invited = replace(LINE, role=role)
        assert Invitation.parse(str(invited)) == invited


def test_a_line_is_one_word_to_a_shell() -> None:
    assert shlex.quote(str(LINE)).strip("'") == str(LINE)
    assert shlex.split(f"linguabus join {LINE}") == ["linguabus", "join", str(LINE)]
    assert not set(str(LINE)) & set(" #&;|<>$`\\\"'*?!(){}~\n")


def test_its_token_is_not_shown_by_accident() -> None:
    assert "token" not in repr(LINE)


@pytest.mark.parametrize(
    "text",
    [
        "", "hello", "linguabus://", str(LINE)[:-1], str(LINE) + "x", str(LINE).replace("node", "king"),
        str(LINE).replace("8765", "0"), str(LINE).replace("8765", "99999"), str(LINE).replace("@", "/"),
        str(LINE).replace("kitchen-phone", "a b"), str(LINE).replace("192.168.1.5", "192.168.1.5 -x"),
        str(LINE).replace("192.168.1.5", ""), "linguabus://" + "a" * 5000, str(LINE).replace("desk.local", "-oProxy"),
    ],
)  # fmt: skip
def test_other_lines_are_refused_without_being_repeated(text: str) -> None:
    with pytest.raises(BadInvitation) as caught:
        Invitation.parse(text)
    assert len(str(caught.value)) < 200


@given(st.text(max_size=300))
def test_no_text_does_anything_else(text: str) -> None:
    for one in (text, f"linguabus://{text}"):
        with contextlib.suppress(BadInvitation):
            Invitation.parse(one)
