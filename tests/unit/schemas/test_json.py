"""The committed JSON Schemas: up to date, valid, described, and with the same limits as the loader."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import jsonschema
import pytest

from schemas import contract, messages, write_json_schemas
from schemas.contract import Entries, Items, Number, Text, about
from schemas.errors import MemberError, MessageError, UnknownMember

FILES = sorted(write_json_schemas.JSON_DIR.iterdir())


def test_files_are_what_the_dataclasses_say() -> None:
    committed = {path.name: path.read_text(encoding="utf-8") for path in FILES}
    assert committed == write_json_schemas.documents(), "run python -m schemas.write_json_schemas"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_schema_is_valid_and_closed(path: Any) -> None:
    schema = json.loads(path.read_text(encoding="utf-8"))
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    jsonschema.Draft202012Validator.check_schema(schema)
    for where in objects(schema):
        assert where["description"].strip(), where
        assert where["additionalProperties"] is False
        for name, member in where["properties"].items():
            assert member["description"].strip().endswith((".", "?")), name


def objects(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The schema's objects with named members."""
    yield schema
    yield from schema.get("$defs", {}).values()


def test_ids_are_distinct() -> None:
    ids = [json.loads(path.read_text(encoding="utf-8"))["$id"] for path in FILES]
    assert len(set(ids)) == len(ids) == len(messages.MESSAGES)


Key = Annotated[str, Text(pattern="^[a-z]+$", max_length=3)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """One member of each limited type."""

    text: Annotated[str, Text(max_length=3, min_length=1)] = about("Text.", default="a")
    pattern: Annotated[str, Text(pattern="^[a-z]+$", max_length=3)] = about("Text with a pattern.", default="a")
    integer: Annotated[int, Number(-2, 3)] = about("An integer.", default=0)
    number: Annotated[float, Number(-0.5, 1e18)] = about("A number.", default=0.0)
    array: Annotated[tuple[Annotated[int, Number(0, 9)], ...], Items(2, 1)] = about("An array.", default=(1,))
    above: Annotated[float, Number(0, 9, exclusive=True)] = about("A number above 0.", default=1.0)
    choice: Literal["a", 1, True] = about("A choice.", default="a")
    row: tuple[Annotated[int, Number(0, 9)], bool] = about("A row.", default=(0, True))
    mapping: Annotated[dict[Key, Annotated[int, Number(0, 9)]], Entries(2)] = about("A map.", default_factory=dict)


EDGES = [
    ("text", ["a", "abc", "éé🗼", "\n"], ["", "abcd", 1, None, ["a"]]),
    ("pattern", ["a", "abc"], ["", "A", "a\n", "abcd", "a b"]),
    ("integer", [-2, 3, 3.0, -0.0], [-3, 4, 2.5, True, "1", None, 1e300, 10**400]),
    ("number", [-0.5, 1e18, 0, 10**18], [-0.51, 2e18, True, "1", None, 10**400]),
    ("array", [[0], [0, 9]], [[], [1, 2, 3], [10], [[1]], {}, "12", None]),
    ("above", [9, 1e-300], [0, -0.0, -1, 9.1, True, None]),
    ("choice", ["a", 1, True], ["b", 2, False, "1", None, [], {}]),
    ("row", [[0, True], [9, False]], [[], [0], [0, True, 1], [10, True], [0, 1], [True, 0], {}, None, "ab"]),
    ("mapping", [{}, {"a": 0, "b": 9}], [{"a": 1, "b": 2, "c": 3}, {"A": 1}, {"a": 10}, {"a": None}, [], None, "a"]),
]


@pytest.mark.parametrize(("member", "allowed", "refused"), EDGES, ids=[edge[0] for edge in EDGES])
def test_limits_are_inclusive_and_alike(member: str, allowed: list[Any], refused: list[Any]) -> None:
    # The pattern with a trailing newline is the one case where jsonschema's Python flavour is laxer than ECMA.
    schema = jsonschema.Draft202012Validator(contract.json_schema(Limits, schema_id="urn:limits"))
    for value in allowed:
        assert schema.is_valid({member: value}), value
        assert getattr(contract.load(Limits, {member: value}), member) is not None
    for value in refused:
        assert not schema.is_valid({member: value}) or value == "a\n", value
        with pytest.raises(MessageError, match=rf"^{member}"):
            contract.load(Limits, {member: value})


def test_what_is_wrong_in_a_mapping_is_named_with_its_key() -> None:
    with pytest.raises(MessageError, match=r"^mapping\.ab: must be at most 9, 10 is outside 0 to 9$"):
        contract.load(Limits, {"mapping": {"ab": 10}})
    assert contract.dump(Limits(mapping={"ab": 3}))["mapping"] == {"ab": 3}


@pytest.mark.parametrize(
    ("member", "value", "said"),
    [
        ("number", float("nan"), "must be a number, not nan"),
        ("number", float("inf"), "must be at most 1e+18, inf is outside -0.5 to 1e+18"),
        ("integer", "much", "must be a number, not 'much'"),
        ("integer", 2.5, "must be a whole number of at least -2, not 2.5"),
        ("integer", [[]], "must be a number, not an array"),
        ("above", 0, "must be above 0, 0 is outside 0 to 9"),
        ("array", [], "must be a list with at least one entry, 0 is outside 1 to 2"),
        ("array", [1, 2, 3], "has 3 items, allowed are 1 to 2"),
        ("choice", 2, "must be one of a, 1, True"),
        ("row", [1], "must be a list of 2 values"),
        ("mapping", [], "must be a mapping of keys to values"),
    ],
)
def test_errors_say_what_would_be_right(member: str, value: object, said: str) -> None:
    with pytest.raises(MemberError) as caught:
        contract.load(Limits, {member: value})
    assert (caught.value.place, caught.value.problem) == (member, said)


def test_an_unknown_member_is_named_with_those_that_are_known() -> None:
    with pytest.raises(UnknownMember) as caught:
        contract.load(Limits, {"colour": "red"})
    assert (caught.value.place, caught.value.member) == ("", "colour")
    assert set(caught.value.known) == {field.name for field in dataclasses.fields(Limits)}


def test_only_types_of_the_contract_can_be_annotated() -> None:
    @dataclasses.dataclass
    class Unlimited:
        """A member without limits."""

        text: str = about("No limit.")

    @dataclasses.dataclass
    class Unknown:
        """A limit from elsewhere."""

        text: Annotated[str, "short"] = about("Which limit?")

    @dataclasses.dataclass
    class Endless:
        """A limit that is none."""

        number: Annotated[float, Number(0, float("inf"))] = about("No upper limit.")

    @dataclasses.dataclass
    class Unnamed:
        """A mapping whose keys may be anything, so that an error can't name them on one line."""

        text: Annotated[dict[Annotated[str, Text(max_length=3)], bool], Entries(2)] = about("Which keys?")

    globals().update(Unlimited=Unlimited, Unknown=Unknown, Endless=Endless, Unnamed=Unnamed)
    for cls in (Unlimited, Unknown, Unnamed):
        with pytest.raises(TypeError):
            contract.load(cls, {"text": ""})
    with pytest.raises(TypeError):
        contract.json_schema(Endless, schema_id="urn:endless")
