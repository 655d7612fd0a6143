"""Who may do what, as a table."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.roles import RIGHTS, acl_text, may, rights_table
from schemas import topics as t
from schemas.errors import TopicError
from schemas.roles import ON_BROKER

SECURITY = Path(__file__).parents[3] / "docs" / "security.md"


def test_only_the_orchestrator_plans_commands_and_answers() -> None:
    for topic in (t.PLAN, t.NODE_COMMAND, t.REQUEST_STREAM, t.CONTROL_REPLY, t.ORCHESTRATOR_STATUS, t.EVENT):
        assert [role for role in ON_BROKER if may(role, "write", topic, own=True)] == ["orchestrator"]


def test_nobody_but_the_orchestrator_does_anything_in_anothers_name() -> None:
    for role in ON_BROKER[:-1]:
        for topic in t.TOPICS:
            assert not may(role, "write", topic, own=False), (role, topic.pattern)
            assert not may(role, "read", topic, own=False) or topic in (t.PLAN, t.EVENT), (role, topic.pattern)


def test_every_topic_is_somebodys() -> None:
    for topic in t.TOPICS:
        assert any(right.topic is topic for role in ON_BROKER[:-1] for right in RIGHTS[role]) or topic in (
            t.ORCHESTRATOR_STATUS,
            t.OPERATOR_WISHES,
        )


def test_a_name_that_is_none_gets_no_section() -> None:
    for name in ("a+", "#", "a/b", "", "x\ntopic readwrite #"):
        with pytest.raises(TopicError):
            acl_text([(name, "node")])


def test_the_table_in_the_documentation_is_this_one() -> None:
    assert rights_table() in SECURITY.read_text("utf-8"), "python -m broker.roles prints it"
