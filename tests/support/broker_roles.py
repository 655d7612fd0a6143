"""Who may publish and read what: one fixed role per kind of participant, in the terms of the topic table.

A name in a topic says who speaks and who reads, so a role never changes with a plan. `acl_text` writes the roles as a
Mosquitto ``acl_file``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from schemas import topics as t
from schemas.topics import PREFIX, Topic


@dataclass(frozen=True)
class Right:
    """``me`` is the placeholder that must be the participant's own name; all others may be anything."""

    access: str
    topic: Topic
    me: str = ""

    def line(self, name: str) -> str:
        """One line of an ``acl_file``."""
        own = {self.me: name} if self.me else {}
        return f"topic {self.access} {self.topic.filter(**own)}"


NODE = (
    Right("write", t.NODE_BIRTH, "node"),
    Right("write", t.NODE_STATUS, "node"),
    Right("write", t.NODE_HEARTBEAT, "node"),
    Right("readwrite", t.NODE_ECHO, "node"),
    Right("read", t.NODE_COMMAND, "node"),
    Right("write", t.NODE_REPLY, "node"),
    Right("read", t.PLAN),
    Right("write", t.SEGMENT, "sender"),
    Right("read", t.SEGMENT, "receiver"),
    Right("write", t.TOKEN, "sender"),
    Right("read", t.TOKEN, "receiver"),
)
CLIENT = (
    Right("write", t.REQUEST_SUBMIT, "client"),
    Right("write", t.REQUEST_CANCEL, "client"),
    Right("write", t.REQUEST_RENEW, "client"),
    Right("write", t.CLIENT_WILL, "client"),
    Right("read", t.REQUEST_STREAM, "client"),
)
OPERATOR = (
    *CLIENT,
    Right("write", t.CONTROL_SUBMIT, "client"),
    Right("read", t.CONTROL_REPLY, "client"),
    Right("read", t.EVENT),
)


def acl_text(
    *,
    nodes: Iterable[str] = (),
    clients: Iterable[str] = (),
    operators: Iterable[str] = (),
    orchestrators: Iterable[str] = (),
) -> str:
    """An ``acl_file`` for these user names; who is not named may do nothing.

    Raises:
        TopicError: a name that can't be part of a topic.
    """
    sections = []
    for names, role in ((nodes, NODE), (clients, CLIENT), (operators, OPERATOR)):
        sections += ["\n".join([f"user {name}", *(right.line(name) for right in role)]) for name in names]
    sections += [f"user {name}\ntopic readwrite {PREFIX}/#" for name in orchestrators]
    return "\n\n".join(sections) + "\n"
