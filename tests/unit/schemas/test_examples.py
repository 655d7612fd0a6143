"""Every file in schemas/examples: our loader, the jsonschema library and the file's name agree about it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import schemas
from schemas import codec, errors, messages
from tests.support.json_schema import parse, validator

EXAMPLES = Path(schemas.__file__).parent / "examples"
GOOD = sorted((EXAMPLES / "good").glob("*.json"))
BAD = sorted((EXAMPLES / "bad").glob("*.json"))
GOOD_FRAMES = sorted((EXAMPLES / "good").glob("*.hex"))
BAD_FRAMES = sorted((EXAMPLES / "bad").glob("*.hex"))

# What the part of a bad example's name after "--" promises about the error; (.*) is the place it names.
WRONG = {
    r"missing-(type|v)": r"{place}: ",
    r"missing-(.+)": r"{place}: is missing",
    r"unknown-member-(.+)": r"{place}: '.+' is not a member of this message",
    r"unknown-member()": r"message: 'colour' is not a member of this message",
    r"wrong-type-message()-.+": r"message: must be ",
    r"wrong-type-name()": r"type: .+ is not expected here",
    r"wrong-type-(.+)": r"{place}: must be ",
    r"wrong-version()": r"v: this version reads 1, the message has ",
    r"out-of-limits-(.+)": r"{place}: (has \d+ |does not match |must be one of |.+ is outside )",
    r"unsendable()-.+": r".+: must be Unicode text",
    r"not-json()-.+": r"not JSON: ",
}
BEYOND_JSON_SCHEMA = ("unsendable",)
"""What our loader refuses though JSON Schema has no word for it."""


def stem(path: Path) -> str:
    return path.stem


def message_of(path: Path) -> str:
    return re.split("-", path.stem)[0]


def frame_bytes(path: Path) -> tuple[str, bytes]:
    """The comment in the first line, and the bytes that the other lines spell."""
    comment, *lines = path.read_text(encoding="ascii").splitlines()
    return comment.removeprefix("# "), bytes.fromhex("".join(lines))


@pytest.mark.parametrize("path", GOOD, ids=stem)
def test_good_message(path: Path) -> None:
    name = message_of(path)
    payload = path.read_bytes()
    assert [e.message for e in validator(name).iter_errors(parse(payload))] == []
    message = messages.decode(payload, messages.MESSAGES[name])
    assert messages.decode(messages.encode(message), messages.MESSAGES[name]) == message


@pytest.mark.parametrize("path", BAD, ids=stem)
def test_bad_message(path: Path) -> None:
    name, wrong = path.stem.split("--")
    payload = path.read_bytes()
    with pytest.raises(errors.MessageError) as caught:
        messages.decode(payload, messages.MESSAGES[name])
    expected, place = next((e, m[1]) for w, e in WRONG.items() if (m := re.fullmatch(w, wrong)))
    said = re.sub(r"\[\d+\]", "", str(caught.value))  # examples are named without indexes
    assert re.match(expected.replace("{place}", re.escape(place)), said), said

    if wrong.startswith("not-json"):
        with pytest.raises(ValueError, match=r"\w"):
            parse(payload)
    elif not wrong.startswith(BEYOND_JSON_SCHEMA):
        assert not validator(name).is_valid(parse(payload))


def test_every_message_has_good_and_bad_examples() -> None:
    always = ("missing", "unknown-member", "wrong-type-name", "wrong-type", "wrong-version")
    assert {message_of(path) for path in GOOD} == set(messages.MESSAGES)
    for name in messages.MESSAGES:
        wrongs = [path.stem.split("--")[1] for path in BAD if message_of(path) == name]
        kinds = (*always, "out-of-limits") if has_limits(name) else always
        assert [k for k in kinds if not any(w.startswith(k) for w in wrongs)] == [], name


def has_limits(name: str) -> bool:
    """Has the message a member that isn't a mere yes or no?"""
    members = validator(name).schema["properties"]
    return any(key not in ("type", "v") and member.get("type") != "boolean" for key, member in members.items())


def test_good_examples_together_use_every_member() -> None:
    for name in messages.MESSAGES:
        used = {member for path in GOOD if message_of(path) == name for member in parse(path.read_bytes())}
        assert used == set(validator(name).schema["properties"]), name


@pytest.mark.parametrize("path", GOOD_FRAMES, ids=stem)
def test_good_frame(path: Path) -> None:
    _, data = frame_bytes(path)
    frame = codec.decode_frame(data)
    assert frame.kind.name.lower() == path.stem.split(".")[1].split("-")[0]
    assert bytes(codec.encode_frame(frame)) == data


@pytest.mark.parametrize("path", BAD_FRAMES, ids=stem)
def test_bad_frame(path: Path) -> None:
    named_error, data = frame_bytes(path)
    with pytest.raises(errors.FrameError) as caught:
        codec.decode_frame(data)
    assert type(caught.value).__name__ == named_error


def test_frame_examples_cover_every_kind_and_error() -> None:
    frames = [codec.decode_frame(frame_bytes(path)[1]) for path in GOOD_FRAMES]
    assert {f.kind for f in frames} == set(codec.Kind)
    assert {f.dtype for f in frames} == set(codec.Dtype)
    assert {f.flags for f in frames} == {0, *map(int, codec.Flag)} - {int(codec.Flag.VERIFY)} | {
        int(codec.Flag.SAMPLE | codec.Flag.VERIFY)
    }
    named = {frame_bytes(path)[0] for path in BAD_FRAMES}
    assert named == {cls.__name__ for cls in errors.FrameError.__subclasses__()}
