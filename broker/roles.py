"""Who may publish and read what: one fixed role per kind of participant, in the terms of the topic table (pure).

A name in a topic says who speaks and who reads, so a role never changes with a plan. `acl_text` writes the roles as a
Mosquitto ``acl_file``; docs/security.md has them as a table, which `python -m broker.roles` prints.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from schemas import topics as t
from schemas.roles import ON_BROKER, Role
from schemas.topics import PREFIX, TOPICS, Topic

Access = Literal["read", "write"]


@dataclass(frozen=True)
class Right:
    """``me`` is the placeholder that must be the participant's own name; all others may be anything."""

    access: Literal["read", "write", "readwrite"]
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
    Right("read", t.RESPONSE, "client"),
    Right("read", t.ORCHESTRATOR_STATUS),
)
OPERATOR = (
    *CLIENT,
    Right("write", t.CONTROL_SUBMIT, "client"),
    Right("read", t.CONTROL_REPLY, "client"),
    Right("read", t.DOOR),
    Right("read", t.EVENT),
)
HOME_ASSISTANT = (
    Right("read", t.ORCHESTRATOR_STATUS),
    Right("read", t.DOOR),
    Right("read", t.HOME_FLEET),
    Right("read", t.HOME_NODE),
    Right("write", t.HOME_COMMAND),
    Right("read", t.HOME_REPLY),
)

RIGHTS: Mapping[Role, tuple[Right, ...]] = {
    "node": NODE,
    "client": CLIENT,
    "operator": OPERATOR,
    "home-assistant": HOME_ASSISTANT,
    "orchestrator": tuple(Right("readwrite", topic) for topic in TOPICS),
}

DISCOVERY: Mapping[Role, str] = {
    "orchestrator": "topic readwrite {prefix}/device/+/config\ntopic read {prefix}/status\n",
    "home-assistant": "topic read {prefix}/device/+/config\ntopic write {prefix}/status\n",
}
"""What is not of the table: the two topics of Home Assistant's discovery. It says on the second that it is there."""


def acl_text(members: Iterable[tuple[str, Role]], *, discovery: str = "") -> str:
    """An ``acl_file`` for user names and their roles; who is not named may do nothing.

    ``discovery``: Home Assistant's prefix of topics, of the fleet that announces itself there.

    Raises:
        TopicError: a name that can't be part of a topic.
    """
    return "\n\n".join(_section(name, role, discovery) for name, role in members) + "\n"


def _section(name: str, role: Role, discovery: str) -> str:
    is_orchestrator = role == "orchestrator"
    lines = [f"topic readwrite {PREFIX}/#"] if is_orchestrator else [right.line(name) for right in RIGHTS[role]]
    if discovery:
        lines += DISCOVERY.get(role, "").format(prefix=discovery).splitlines()
    return "\n".join([f"user {name}", *lines])


def may(role: Role, access: Access, topic: Topic, *, own: bool) -> bool:
    """May a participant of this role do this with a topic?

    Args:
        own: the topic has its own name where the role's right has ``me``; else somebody else's.
    """
    rights = [right for right in RIGHTS[role] if right.topic is topic and access in right.access]
    return any(own or not right.me for right in rights)


def rights_table() -> str:
    """Every topic and what each role may do with it, as a table in Markdown."""
    lines = ["| topic | " + " | ".join(ON_BROKER) + " |", "|---" * (len(ON_BROKER) + 1) + "|"]
    for topic in TOPICS:
        cells = [_cell(role, topic) for role in ON_BROKER]
        lines.append(f"| `{topic.pattern}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(role: Role, topic: Topic) -> str:
    said = []
    for right in RIGHTS[role]:
        if right.topic is topic:
            what = {"read": "reads", "write": "publishes", "readwrite": "both"}[right.access]
            said.append(f"{what}, {{{right.me}}} is its own name" if right.me else what)
    return "; ".join(said) or "-"


if __name__ == "__main__":
    print(rights_table())  # noqa: T201
