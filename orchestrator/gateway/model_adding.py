"""A model on its way into the store: the command line adds it, in a process of its own, and its lines are told."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import sys
import tempfile
from collections import deque
from pathlib import Path
from typing import Any

from orchestrator.gateway.errors import ApiError

_SOURCE = re.compile(r"demo|[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
_LINES = 40
_LONGEST_LINE = 500
_END_S = 10.0


class ModelAdding:
    """One at a time: converting takes most of a machine. For one event loop."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._source = ""
        self._lines: deque[str] = deque(maxlen=_LINES)
        self._code: int | None = None

    def state(self) -> dict[str, Any] | None:
        """The newest one: its source, what was said of it, whether it goes on or went well; None before the first."""
        if not self._source:
            return None
        goes_on = self._code is None
        return {"source": self._source, "lines": list(self._lines), "goes_on": goes_on, "ok": self._code == 0}

    async def begin(self, source: str) -> None:
        """Add a model by name; `state` tells how far it is. Files of the host are for its own command line.

        Raises:
            ApiError: it is no name, or another one is being added.
        """
        if not _SOURCE.fullmatch(source):
            told = 'source: write "demo" or a name such as HuggingFaceTB/SmolLM2-360M-Instruct; files are added on the'
            raise ApiError(422, f"{told} fleet's host, linguabus model add FILE", code="invalid_value", field="source")
        if self._source and self._code is None:
            raise ApiError(409, f"{self._source} is being added: wait, or cancel it", code="busy")
        self._source, self._code = source, None
        self._lines.clear()
        command = [sys.executable, "-m", "orchestrator.cli", "--home", str(self._home.resolve()), "model", "add"]
        folder = tempfile.TemporaryDirectory(prefix="linguabus-add-")  # in which no file has the name of a model
        try:
            self._process = await asyncio.create_subprocess_exec(
                *command, source, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT, cwd=folder.name,
            )  # fmt: skip
        except OSError as error:
            folder.cleanup()
            self._code = 1
            raise ApiError(500, f"no model can be added: {error.strerror}", code="failed") from error
        self._reading = asyncio.create_task(self._read(self._process, folder))

    async def _read(self, process: asyncio.subprocess.Process, folder: tempfile.TemporaryDirectory[str]) -> None:
        assert process.stdout
        with folder:
            while line := await process.stdout.readline():
                if text := line.decode("utf-8", "replace").strip():
                    self._lines.append(text[:_LONGEST_LINE])
            self._code = await process.wait()

    async def cancel(self) -> None:
        """End it; nothing of it stays. Idempotent."""
        if self._process is None or self._reading is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGINT)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(self._reading), _END_S)
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._reading
