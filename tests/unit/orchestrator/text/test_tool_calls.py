"""Tool calls in an answer's text: every model's way of writing them, in any pieces; what is no call stays text."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from orchestrator.text.tool_calls import FoundCall, ToolCallReader, tool_format
from schemas.messages import ToolFormat

FORMS: tuple[ToolFormat, ...] = ("tagged", "bracketed", "bare")
HAMMER = FoundCall("hammer", '{"on": "nail", "times": 3}')
SAW = FoundCall("saw", '{"what": {"a": [1, "}]"]}}')
H = '{"name": "hammer", "arguments": {"on": "nail", "times": 3}}'
S = '{"name": "saw", "arguments": {"what": {"a": [1, "}]"]}}}'


def read(form: ToolFormat, *pieces: str, names: tuple[str, ...] = ("hammer", "saw")) -> list[str | FoundCall]:
    """What comes of an answer in these pieces, neighbouring content joined."""
    reader = ToolCallReader(form, names)
    joined: list[str | FoundCall] = []
    for one in [found for piece in pieces for found in reader.push(piece)] + reader.finish():
        if isinstance(one, str) and joined and isinstance(joined[-1], str):
            joined[-1] += one
        else:
            joined.append(one)
    return joined


@pytest.mark.parametrize(
    ("form", "text", "expected"),
    [
        ("tagged", f"<tool_call>\n{H}\n</tool_call>", [HAMMER]),
        ("tagged", f"I see.\n<tool_call>{H}</tool_call>\n<tool_call>\n{S}\n</tool_call>", ["I see.\n", HAMMER, SAW]),
        ("tagged", f"<tool_call>[{H}, {S}]</tool_call>", [HAMMER, SAW]),
        ("tagged", f"<tool_call>{H}", [HAMMER]),
        ("tagged", f"<tool_call>{H}</tool_call> Done.", [HAMMER, "Done."]),
        ("tagged", '<tool_call>{"name": "saw"}</tool_call>', [FoundCall("saw", "{}")]),
        ("tagged", '<tool_call>{"name": "saw", "arguments": "{}"}</tool_call>', [FoundCall("saw", "{}")]),
        ("bracketed", f"[TOOL_CALLS][{H}, {S}]", [HAMMER, SAW]),
        ("bracketed", f"[TOOL_CALLS] [{H}]", [HAMMER]),
        ("bracketed", f" [{H}]", [HAMMER]),
        ("bare", H.replace("arguments", "parameters"), [HAMMER]),
        ("bare", f"<|python_tag|>{H}", [HAMMER]),
        ("bare", f"{H}; {S}", [HAMMER, SAW]),
        ("bare", f"{H}<|eom_id|>", [HAMMER]),
    ],
)
def test_calls_as_models_write_them(form: ToolFormat, text: str, expected: list[str | FoundCall]) -> None:
    assert read(form, text) == expected
    assert read(form, *text) == expected, "letter by letter"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "text",
    [
        "Just words, {braces} and [TOOLS].",
        "<tool_call>hammer()</tool_call>",
        '<tool_call>{"name": "hammer", "arguments": {"on": "nail"</tool_call>',
        '<tool_call>{"name": "axe", "arguments": {}}</tool_call>',
        '<tool_call>{"name": "hammer", "arguments": 3}</tool_call>',
        '<tool_call>{"name": "hammer", "arguments": {"times": NaN}}</tool_call>',
        '<tool_call>{"name": "hammer", "arguments": {"times": "\\ud800"}}</tool_call>',
        "<tool_call>[]</tool_call>",
        "<tool_call>" + "[" * 100_000,
        "<tool_call>" + "[" * 2_000 + "]" * 2_000,
        "<tool_call",
        "[TOOL_CALLS]hammer",
        '[{"name": "axe", "arguments": {}}]',
        '{"name": "hammer"}',
        '{"question": 1}',
        "[1, 2, 3]",
        " { not JSON",
        "] }",
    ],
)
def test_what_is_no_valid_call_stays_text(form: ToolFormat, text: str) -> None:
    assert read(form, text) == [text]


@pytest.mark.parametrize(
    ("form", "text"),
    [("tagged", f"[{H}]"), ("bracketed", f"<tool_call>{H}</tool_call>"), ("bare", f"[TOOL_CALLS][{H}]")],
)
def test_a_call_in_the_way_of_another_model_is_text(form: ToolFormat, text: str) -> None:
    assert read(form, text) == [text]


@given(
    form=st.sampled_from(FORMS),
    parts=st.lists(
        st.sampled_from(["<tool_call>", "</tool_call>", "[TOOL_CALLS]", "<|python_tag|>", H, S, "[", "]", "{", "}", '"',
                         ";", " ", "\n", "word", "<", "\\", "<tool_"]), max_size=10,
    ),
    cuts=st.lists(st.integers(0, 300), max_size=8),
)  # fmt: skip
@example(form="tagged", parts=["word", "<tool_call>", H, "</tool_call>", "<", " "], cuts=[])
def test_pieces_do_not_matter(form: ToolFormat, parts: list[str], cuts: list[int]) -> None:
    text = "".join(parts)
    places = sorted({0, len(text), *(min(cut, len(text)) for cut in cuts)})
    whole = read(form, text)
    assert read(form, *(text[begin:end] for begin, end in itertools.pairwise(places))) == whole
    if not any(isinstance(one, FoundCall) for one in whole):
        assert whole == ([text] if text else [])


def test_content_comes_at_once_and_a_call_with_its_last_brace() -> None:
    reader = ToolCallReader("tagged")
    assert reader.push("I look <") == ["I look "]
    assert reader.push("b> it up. <tool_") == ["<b> it up. "]
    assert reader.push("call>" + H[:-1]) == []
    assert reader.push(H[-1:]) == [HAMMER]
    assert json.loads(HAMMER.arguments) == {"on": "nail", "times": 3}


@pytest.mark.parametrize(
    ("template", "form"),
    [
        (None, None),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", None),
        ("{# tools #}the tools <tool_call>{{ messages[0].content }}", None),
        ("{%- if tools %}{{ '<tool_call>' }}{% endif %}", "tagged"),
        ("{% if tools is not none %}[AVAILABLE_TOOLS]{% endif %}[TOOL_CALLS]", "bracketed"),
        ("{%- if tools is defined %}Environment: ipython{% endif %}", "bare"),
        ("{% for tool in tools %}{{ tool }}{% endfor %}", None),
    ],
)
def test_the_way_is_read_off_the_template(template: str | None, form: ToolFormat | None) -> None:
    assert tool_format(template) == form
