"""Chat templates rendered in a process of their own: ``python -m orchestrator.model.template_sandbox``.

A template comes with a model out of the network and is a program. It runs in Jinja's sandbox, in a process that has
limits on memory and computing time, can write no file, and is killed by the one who asked when it takes too long
(`orchestrator.model.chat_template`). Requests and answers are JSON with their length in front, on stdin and stdout; the
first request is the template, each one after it a conversation.
"""

from __future__ import annotations

import contextlib
import datetime
import itertools
import json
import re
import resource
import struct
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import jinja2
import jinja2.ext
from jinja2 import filters, nodes, pass_eval_context
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from orchestrator.model.template_text import OWN, TYPED, TextCompiler, joined, origins_of, own, typed

LENGTH = struct.Struct("<I")
MEMORY_BYTES = 512 << 20
"""Of address space, above what the process needs to start."""
CPU_S = 2
MAX_CHARACTERS = 4_000_000
ROLES = frozenset({"system", "user", "assistant", "tool", "developer", "function", "model"})
"""Templates make markers of these; any other role is something that somebody wrote."""
TYPES = frozenset({"function", "object", "array", "string", "number", "integer", "boolean", "null"})
"""What a call, a tool or a value of a JSON Schema is: templates look at these."""
WORDS = {"role": ROLES, "type": TYPES}
"""Words that are none of somebody's, by the member they stand in."""
_OPAQUE = (*range(0xF0000, 0xFFFFE), *range(0x100000, 0x10FFFE))
"""Code points for private use, which no template writes."""


class TooLarge(Exception):
    """The template writes more than ``MAX_CHARACTERS``."""


class Generation(jinja2.ext.Extension):
    """``{% generation %}`` marks what to train on; here its content is as any other."""

    tags = {"generation"}  # noqa: RUF012 - so declared by Jinja

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class PlainDict:
    """``dict`` for templates: makes dictionaries and has no other attribute of the type."""

    def __call__(self, *arguments: Any, **members: Any) -> dict[Any, Any]:
        return dict(*arguments, **members)


class PlainNamespace(Namespace):
    """``namespace`` for templates: no attribute of Python's own can be set."""

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise jinja2.TemplateRuntimeError(f"a namespace takes no attribute {name!r}")
        super().__setitem__(name, value)


class Sandbox(ImmutableSandboxedEnvironment):
    """What transformers gives chat templates, with literals that are told from what people wrote."""

    code_generator_class = TextCompiler
    concat = staticmethod(joined)
    own = staticmethod(own)
    joined = staticmethod(joined)

    def __init__(self) -> None:
        extensions = [Generation, jinja2.ext.loopcontrols]
        super().__init__(trim_blocks=True, lstrip_blocks=True, optimized=False, extensions=extensions)
        self.filters |= {"tojson": _to_json, "join": _join}
        self.globals |= {
            "dict": PlainDict(),
            "namespace": PlainNamespace,
            "raise_exception": _refuse,
            "strftime_now": lambda form: datetime.datetime.now().strftime(form),
        }


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(str(message))


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    text = json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    return typed(text)  # all of it: no template writes its markers as JSON, but people's text may be in it


@pass_eval_context
def _join(context: nodes.EvalContext, value: Any, d: str = "", attribute: str | int | None = None) -> str:
    return joined((filters.do_join(context, value, joined((d,)), attribute),))


def render(template: jinja2.Template, request: Mapping[str, Any]) -> dict[str, Any]:
    """The conversation as text, with (start, stop, origin) of its parts."""
    if request["opaque"]:
        return _render_opaque(template, request)
    text = _run(template, request, typed)
    return {"text": _scalar(text), "origins": _runs(origins_of(text))}


def _render_opaque(template: jinja2.Template, request: Mapping[str, Any]) -> dict[str, Any]:
    """Render like ``render``, but the template sees of what people wrote only where its spaces are."""
    cipher: dict[int, int] = {}

    def hide(text: str) -> str:
        for letter in set(text):
            if not letter.isspace() and ord(letter) not in cipher:
                cipher[ord(letter)] = _OPAQUE[len(cipher)]
        return text.translate(cipher)

    text = str(_run(template, request, hide))
    clear = {hidden: letter for letter, hidden in cipher.items()}
    origins = b"".join(TYPED if ord(letter) in clear else OWN for letter in text)
    return {"text": _scalar(text.translate(clear)), "origins": _runs(origins)}


def _runs(origins: bytes) -> list[tuple[int, int, int]]:
    runs, start = [], 0
    for origin, run in itertools.groupby(origins):
        stop = start + sum(1 for _ in run)
        runs.append((start, stop, origin))
        start = stop
    return runs


def _run(template: jinja2.Template, request: Mapping[str, Any], mark: Callable[[str], str]) -> str:
    variables = {name: own(token) for name, token in request["tokens"].items()}
    messages = [_marked(message, mark) for message in request["messages"]]
    tools = [_marked(tool, mark) for tool in request["tools"]] or None
    context = template.new_context(
        {"messages": messages, "tools": tools, "documents": None, "add_generation_prompt": True, **variables}
    )
    parts: list[str] = []
    length = 0
    for part in template.root_render_func(context):
        parts.append(part)
        length += len(part)
        if length > MAX_CHARACTERS:
            raise TooLarge
    return joined(parts)


def _marked(value: Any, mark: Callable[[str], str], key: str = "") -> Any:
    if isinstance(value, str):
        return own(value) if value in WORDS.get(key, ()) else mark(value)
    if isinstance(value, dict):
        # Templates ask for members by names; what is none is something that somebody wrote.
        return {n if n.isidentifier() else mark(n): _marked(member, mark, n) for n, member in value.items()}
    if isinstance(value, list):
        return [_marked(item, mark) for item in value]
    return value


def _scalar(text: str) -> str:
    """The text with U+FFFD for surrogates, which a template's literals can have and UTF-8 can't."""
    return re.sub("[\ud800-\udfff]", "\N{REPLACEMENT CHARACTER}", text)


def answer(template: jinja2.Template, request: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to a request: the result of ``render``, or a ``problem`` and its ``reason``."""
    allow_cpu()
    try:
        return render(template, request)
    except Exception as error:
        return problem(error)


def problem(error: Exception) -> dict[str, str]:
    """An error in the form in which ``orchestrator.model.chat_template`` is told of it."""
    match error:
        case TooLarge():
            return {"problem": "size", "reason": ""}
        case MemoryError():
            return {"problem": "memory", "reason": ""}
        case _ if type(error) is jinja2.TemplateError:
            return {"problem": "refused", "reason": _scalar(str(error))}
    return {"problem": "failed", "reason": _scalar(f"{type(error).__name__}: {error}")}


def allow_cpu() -> None:
    """Let this process compute for ``CPU_S`` from now on (up to a second more: the system counts whole ones)."""
    used_s = int(time.process_time())
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CPU, (used_s + CPU_S + 1, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def limit() -> None:
    """Take away what a template has no use for, as far as this system lets us."""
    limits = {"AS": _address_space_bytes() + MEMORY_BYTES, "FSIZE": 0, "CORE": 0}
    for name, value in limits.items():
        with contextlib.suppress(ValueError, OSError, AttributeError):
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))


def _address_space_bytes() -> int:
    """The address space that this process has now; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text("ascii").split()[0]) * resource.getpagesize()
    except OSError:
        return 0


def read(stream: BinaryIO) -> Any:
    """Read the next request; None at the end."""
    head = stream.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    return json.loads(stream.read(LENGTH.unpack(head)[0]))


def write(stream: BinaryIO, value: Any) -> None:
    """Write an answer."""
    payload = json.dumps(value).encode()
    stream.write(LENGTH.pack(len(payload)) + payload)
    stream.flush()


def main() -> None:
    """Serve until stdin ends."""
    limit()
    stdin, stdout = sys.stdin.buffer, sys.stdout.buffer
    source = read(stdin)
    allow_cpu()
    try:
        template = Sandbox().from_string(source)
    except Exception as error:
        write(stdout, problem(error))
        return
    write(stdout, {})
    while (request := read(stdin)) is not None:
        write(stdout, answer(template, request))


if __name__ == "__main__":
    main()
