"""Topics and patterns as MQTT 3.1.1 has them (section 4.7)."""

from __future__ import annotations

from broker.errors import BadTopic

MAX_TOPIC_BYTES = 65_535


def check_topic(topic: str) -> None:
    """Raise BadTopic unless `topic` may be published on."""
    if not topic or len(topic.encode()) > MAX_TOPIC_BYTES:
        raise BadTopic(topic[:80], "empty or longer than 65,535 bytes")
    if "+" in topic or "#" in topic or "\0" in topic:
        raise BadTopic(topic, "a topic to publish on has no +, # or NUL")


def check_pattern(pattern: str) -> None:
    """Raise BadTopic unless `pattern` may be subscribed to."""
    if not pattern or len(pattern.encode()) > MAX_TOPIC_BYTES or "\0" in pattern:
        raise BadTopic(pattern[:80], "empty, longer than 65,535 bytes or with NUL")
    levels = pattern.split("/")
    if any(("+" in level or "#" in level) and len(level) > 1 for level in levels):
        raise BadTopic(pattern, "+ and # must fill a whole level")
    if "#" in levels[:-1]:
        raise BadTopic(pattern, "# must be the last level")


def matches(pattern: str, topic: str) -> bool:
    """True if a subscription to `pattern` gets messages on `topic`.

    `#` also matches its parent level; a leading wildcard does not match topics that begin with `$`.
    """
    if pattern == topic:
        return True
    if topic.startswith("$") and pattern[0] in "+#":
        return False
    wanted, levels = pattern.split("/"), topic.split("/")
    for index, level in enumerate(wanted):
        if level == "#":
            return True
        if index >= len(levels) or level not in ("+", levels[index]):
            return False
    return len(wanted) == len(levels)
