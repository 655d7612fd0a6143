"""Chat templates are foreign code: what they may do, and that no more of them is lost than one conversation."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator

import psutil
import pytest
from jinja2 import TemplateRuntimeError, UndefinedError
from jinja2.sandbox import SecurityError

from orchestrator.model import template_sandbox
from orchestrator.model.chat_template import ChatTemplate
from orchestrator.model.errors import BrokenTemplate

HELLO = [{"role": "user", "content": "hello"}]
HANG = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"


def render(source: str, content: str = "hello") -> str:
    return ChatTemplate(source, {}).render([{"role": "user", "content": content}]).text


def render_here(source: str) -> str:
    """Rendered in this process: for templates that do no harm."""
    request = {"messages": HELLO, "tools": [], "tokens": {"bos_token": "<s>"}, "opaque": False}
    text: str = template_sandbox.render(template_sandbox.Sandbox().from_string(source), request)["text"]
    return text


@pytest.fixture
def children() -> Iterator[set[int]]:
    """Processes of this one that were there before; no other is there afterwards."""
    gc.collect()
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    yield before
    gc.collect()
    assert {child.pid for child in psutil.Process().children(recursive=True)} <= before


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{% generation %}{{ messages[0].content }}{% endgeneration %}.", "hello."),
        ("{% for i in [1, 2, 3] %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "1"),
        ("{{ bos_token }}{{ messages[0]['content'] | upper }}", "<s>HELLO"),
        ("{{ messages | tojson }}", '[{"role": "user", "content": "hello"}]'),
        ("{{ {'a': '<ü>'} | tojson(indent=1) }}", '{\n "a": "<ü>"\n}'),
        ("{{ tools is none }} {{ documents is none }} {{ add_generation_prompt }}", "True True True"),
        ("{% set ns = namespace(n=0) %}{% for i in range(3) %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}", "3"),
        ("{{ dict(a=1)['a'] }}{{ ['x', 'y'] | join('-') }}{{ 'a' ~ 1 ~ none }}", "1x-ya1None"),
        ("{{ strftime_now('%Y') | length }}", "4"),
        ("{% macro m(x) %}<{{ x }}>{% endmacro %}{% set t %} {{ m('a') }} {% endset %}{{ t | trim }}", "<a>"),
        ("{{ '\ud800' }}", "\N{REPLACEMENT CHARACTER}"),
    ],
)
def test_templates_have_what_transformers_gives_them(source: str, text: str) -> None:
    assert render_here(source) == text


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("{{ 'x' + 1 }}", "fails: TypeError: .*--raw"),
        ("{{ messages[7].content }}", "fails: UndefinedError: .*--raw"),
        ("{% for %}", "fails: TemplateSyntaxError: .*--raw"),
        ("{{ 1 // 0 }}", "fails: ZeroDivisionError"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "fails: RecursionError"),
        ("{% for i in range(100001) %}{% endfor %}", "fails: OverflowError: Range too big"),
        ("{% include '/etc/passwd' %}", "fails"),
        ("{{ raise_exception('roles\n must \x00alternate') }}", "refuses this conversation: roles must alternate$"),
        ("{{ 'a' * 3000000000 }}", "needs too much memory"),
        ("{{ '%300000000d' % 1 }}", "needs too much memory"),
        ("{{ messages[0].content | center(900000000) }}", "needs too much memory"),
        ("{% for i in range(99999) %}{{ 'a' * 99 }}{% endfor %}", "makes too long a prompt"),
    ],
)
def test_what_goes_wrong_is_one_line(source: str, says: str) -> None:
    with pytest.raises(BrokenTemplate, match=f"^the model's chat template {says}") as broken:
        render(source)
    assert str(broken.value).isprintable()


@pytest.mark.parametrize(
    "reach",
    [
        "''.__class__.__mro__",
        "messages[0].content.split.__globals__",
        "messages[0].content._origins",
        "cycler.__init__.__globals__",
        "namespace.__init__.__globals__",
        "dict.mro()",
        "dict.fromkeys([])",
        "raise_exception.__globals__",
        "messages.append(1)",
    ],
)
def test_templates_cannot_reach_into_python(reach: str) -> None:
    with pytest.raises((SecurityError, UndefinedError)):
        render_here("{{ (" + reach + ").x.y }}")


def test_a_namespace_takes_no_attribute_of_pythons() -> None:
    with pytest.raises(TemplateRuntimeError, match="takes no attribute '__class__'"):
        render_here("{% set ns = namespace() %}{% set ns.__class__ = 1 %}")


def test_summaries_have_nothing_of_a_prompt() -> None:
    for source in ("{{ messages[0].content | int(default=none) + 1 }}", "{{ raise_exception(messages[0].content) }}",
                   "{{ {}[messages[0].content] + 1 }}"):  # fmt: skip
        with pytest.raises(BrokenTemplate) as broken:
            render(source, "my secret")
        assert "secret" not in broken.value.summary
        assert str(broken.value).startswith(broken.value.summary)


def test_a_template_that_hangs_is_killed_and_others_go_on(children: set[int]) -> None:
    source = "{% if messages[0].content == 'hang' %}" + HANG + "{% endif %}{{ messages[0].content }}"
    template = ChatTemplate(source, {})
    assert template.render(HELLO).text == "hello"
    (process,) = (c for c in psutil.Process().children(recursive=True) if c.pid not in children)
    with pytest.raises(BrokenTemplate, match=r"takes (too long|longer than)"):
        template.render([{"role": "user", "content": "hang"}])
    assert not process.is_running()
    assert template.render(HELLO).text == "hello"


def test_a_process_that_is_killed_from_outside_is_started_again(children: set[int]) -> None:
    template = ChatTemplate("{{ messages[0].content }}", {})
    assert template.render(HELLO).text == "hello"
    (process,) = (c for c in psutil.Process().children(recursive=True) if c.pid not in children)
    os.kill(process.pid, signal.SIGKILL)
    psutil.wait_procs([process], 20)
    assert template.render(HELLO).text == "hello"


def test_a_template_that_never_compiles_costs_one_process(children: set[int]) -> None:
    template = ChatTemplate("{% for %}", {})
    for _ in range(2):
        with pytest.raises(BrokenTemplate, match="TemplateSyntaxError"):
            template.render(HELLO)
        assert {child.pid for child in psutil.Process().children(recursive=True)} <= children


def test_large_conversations_pass() -> None:
    content = "🙂\x00" * 300_000
    assert render("{{ messages[0].content }}", content) == content
