"""A model's chat template: a conversation becomes text of which is known what the template wrote.

Templates are foreign code. Each is rendered in a process of its own (`orchestrator.model.template_sandbox`), which is
started when first needed, kept, killed when it takes too long, and then started again for the next conversation.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from broker.child_process import our_environment
from orchestrator.model.errors import BrokenTemplate, MissingDependency

START_S = 20.0
RENDER_S = 5.0
"""By the wall clock; the process itself gets 2 s of computing."""
_LENGTH = struct.Struct("<I")
_OWN, _UNKNOWN = 0, 2
_ADVICE = "use another model, or ask with --raw"
_WHOLE = "the model's chat template"


@dataclass(frozen=True)
class RenderedChat:
    """A rendered conversation; ``own`` are ranges that the template wrote, ``unknown`` those of unknown origin."""

    text: str
    own: tuple[tuple[int, int], ...]
    unknown: tuple[tuple[int, int], ...]


class ChatTemplate:
    """A chat template: the Jinja source, and the process that runs it. For one thread at a time; others wait."""

    def __init__(self, source: str, tokens: Mapping[str, str]) -> None:
        """Keep a template and the variables that it is rendered with, by name, such as ``bos_token``."""
        self.source = source
        self._tokens = dict(tokens)
        self._lock = threading.Lock()
        self._fault: dict[str, Any] | None = None
        """What is wrong with the template whatever the conversation."""
        self._process: _Process | None = None
        self._stop: Callable[[], object] = lambda: None
        """Ends the process; so does the end of this object."""

    def render(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = (), *, opaque: bool = False
    ) -> RenderedChat:
        """Render the conversation, with the tools that may be called, up to where the answer begins.

        ``opaque`` hides from the template what people wrote, all but its spaces: the template can't look into such
        text, and whatever it does to it, the result tells which is which.

        Raises:
            BrokenTemplate: the template refuses the conversation, fails, or wants too much time or memory.
            MissingDependency: Jinja is not installed.
        """
        request = {"messages": list(messages), "tools": list(tools), "tokens": self._tokens, "opaque": opaque}
        with self._lock:
            if self._fault:
                raise _error(self._fault)
            if self._process is None or self._process.is_dead:
                self._start()
            answer = self._ask(request, RENDER_S)
        runs = answer["origins"]
        own, unknown = (
            tuple((start, stop) for start, stop, origin in runs if origin == wanted) for wanted in (_OWN, _UNKNOWN)
        )
        return RenderedChat(answer["text"], own, unknown)

    def _start(self) -> None:
        self._stop()
        self._process = _Process()
        self._stop = weakref.finalize(self, self._process.stop)
        self._ask(self.source, START_S)

    def _ask(self, request: Any, timeout_s: float) -> dict[str, Any]:
        assert self._process
        try:
            answer = self._process.ask(request, timeout_s)
        except _Dead as dead:
            answer = {"problem": "dead", "reason": str(dead)}
        if "problem" not in answer:
            return answer
        if request is self.source and answer["problem"] == "failed":
            self._fault = answer
        if request is self.source or answer["problem"] in ("dead", "memory"):
            self._stop()
            self._process = None
        raise _error(answer)


class _Dead(Exception):
    """There is no answer; the text is what the template did, as the end of a sentence."""


class _Process:
    """A process that runs a template, over a pair of sockets."""

    def __init__(self) -> None:
        if importlib.util.find_spec("jinja2") is None:
            raise MissingDependency("a chat template can't be read", "orchestrator")
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "orchestrator.model.template_sandbox"],
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=subprocess.DEVNULL,
                env=our_environment(),
                start_new_session=True,  # Ctrl-C is for us
            )

    def ask(self, request: Any, timeout_s: float) -> dict[str, Any]:
        """Send a request and wait for the answer; raises `_Dead`."""
        deadline_s = time.monotonic() + timeout_s
        payload = json.dumps(request).encode()
        try:
            self._socket.settimeout(timeout_s)
            self._socket.sendall(_LENGTH.pack(len(payload)) + payload)
            length = _LENGTH.unpack(self._receive(_LENGTH.size, deadline_s))[0]
            answer: dict[str, Any] = json.loads(self._receive(length, deadline_s))
        except TimeoutError:
            raise _Dead(f"takes longer than {timeout_s:g} s") from None
        except OSError:
            raise _Dead(self._ending()) from None
        return answer

    def _receive(self, size: int, deadline_s: float) -> bytes:
        data = bytearray()
        while len(data) < size:
            self._socket.settimeout(max(deadline_s - time.monotonic(), 1e-3))
            piece = self._socket.recv(size - len(data))
            if not piece:
                raise ConnectionError
            data += piece
        return bytes(data)

    def _ending(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            if self._process.wait(1.0) in (-signal.SIGXCPU, -signal.SIGKILL):
                return "takes too long"
        return "ended the process that runs it"

    @property
    def is_dead(self) -> bool:
        """Has the process ended since the last answer?"""
        return self._process.poll() is not None

    def stop(self) -> None:
        """Kill the process, if it still runs."""
        self._process.kill()
        self._process.wait()
        self._socket.close()


def _error(answer: Mapping[str, str]) -> BrokenTemplate:
    reason = " ".join("".join(c if c.isprintable() else " " for c in answer["reason"]).split())[:300]
    match answer["problem"]:
        case "dead":
            return BrokenTemplate(f"{_WHOLE} {reason}", advice=_ADVICE)
        case "refused":
            return BrokenTemplate(f"{_WHOLE} refuses this conversation", reason)
        case "size":
            return BrokenTemplate(f"{_WHOLE} makes too long a prompt", advice=_ADVICE)
        case "memory":
            return BrokenTemplate(f"{_WHOLE} needs too much memory", advice=_ADVICE)
    return BrokenTemplate(f"{_WHOLE} fails", reason, _ADVICE)
