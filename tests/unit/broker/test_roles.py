"""Who may do what, as a table."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.roles import RIGHTS, acl_text, may, rights_table
from schemas import topics as t
from schemas.errors import TopicError
from schemas.messages import DrainNode, UseModel
from schemas.roles import ON_BROKER, Role

SECURITY = Path(__file__).parents[3] / "docs" / "security.md"


def test_only_the_orchestrator_plans_commands_and_answers() -> None:
    for topic in (t.PLAN, t.NODE_COMMAND, t.REQUEST_STREAM, t.CONTROL_REPLY, t.ORCHESTRATOR_STATUS, t.EVENT):
        assert [role for role in ON_BROKER if may(role, "write", topic, own=True)] == ["orchestrator"]


def test_nobody_but_the_orchestrator_does_anything_in_anothers_name() -> None:
    everybodys = (t.PLAN, t.EVENT, t.ORCHESTRATOR_STATUS, t.DOOR, t.HOME_FLEET, t.HOME_NODE, t.HOME_REPLY)
    for role in ON_BROKER[:-1]:
        for topic in t.TOPICS:
            is_homes = (role, topic) == ("home-assistant", t.HOME_COMMAND)
            assert may(role, "write", topic, own=False) is is_homes, (role, topic.pattern)
            assert not may(role, "read", topic, own=False) or topic in everybodys, (role, topic.pattern)


def test_a_home_may_drain_and_choose_the_model_and_nothing_else() -> None:
    written = [right.topic for right in RIGHTS["home-assistant"] if right.access != "read"]
    assert written == [t.HOME_COMMAND]
    assert set(t.HOME_COMMAND.messages) == {DrainNode, UseModel}


def test_discovery_is_announced_by_the_orchestrator_alone_and_not_where_nobody_wants_it() -> None:
    members: list[tuple[str, Role]] = [("me", role) for role in ON_BROKER]
    *others, home, orchestrator = acl_text(members, discovery="ha").split("\n\n")
    assert "topic readwrite ha/device/+/config" in orchestrator
    assert "topic read ha/device/+/config" in home
    assert [section for section in others if "ha/" in section] == []
    assert "device" not in acl_text(members)


def test_every_topic_is_somebodys() -> None:
    for topic in t.TOPICS:
        assert any(right.topic is topic for role in ON_BROKER[:-1] for right in RIGHTS[role]) or topic in (
            t.OPERATOR_WISHES,
        )


def test_a_name_that_is_none_gets_no_section() -> None:
    for name in ("a+", "#", "a/b", "", "x\ntopic readwrite #"):
        with pytest.raises(TopicError):
            acl_text([(name, "node")])


def test_the_table_in_the_documentation_is_this_one() -> None:
    assert rights_table() in SECURITY.read_text("utf-8"), "python -m broker.roles prints it"
