"""What changes in a picture, told as merge patches."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.gateway.fleet_picture import Picture, changes

VALUES = st.recursive(
    st.one_of(st.booleans(), st.integers(0, 3), st.text("ab", max_size=2), st.lists(st.integers(0, 2), max_size=2)),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=12,
)
PICTURES = st.dictionaries(st.sampled_from("abc"), VALUES, max_size=3)


def merged(target: Any, patch: Any) -> Any:
    """RFC 7386, as a reader applies it."""
    if not isinstance(patch, dict):
        return patch
    made = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            made.pop(name, None)
        else:
            made[name] = merged(made.get(name), value)
    return made


@given(PICTURES, PICTURES)
def test_a_patch_makes_the_next_picture(before: Picture, after: Picture) -> None:
    kept = copy.deepcopy((before, after))
    assert merged(before, changes(before, after)) == after
    assert (before, after) == kept


@given(PICTURES)
def test_what_is_unchanged_is_not_told(picture: Picture) -> None:
    assert changes(picture, copy.deepcopy(picture)) == {}


def test_only_what_has_changed_is_told() -> None:
    before = {"nodes": {"a": {"state": "online", "cpu": 5}, "b": {"state": "online"}}}
    after = {"nodes": {"a": {"state": "online", "cpu": 10}}}
    assert changes(before, after) == {"nodes": {"a": {"cpu": 10}, "b": None}}
