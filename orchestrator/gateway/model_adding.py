"""A model on its way into the store: the command line adds it, in a process of its own, and its lines are told."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import sys
import tempfile
from collections import deque
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from orchestrator.gateway.errors import ApiError
from orchestrator.gateway.model_upload import check_name, receive
from orchestrator.model.errors import HERE_ALREADY
from orchestrator.model.lock import clear_left, owned_folder
from orchestrator.text.figures import progress_text

_SOURCE = re.compile(r"demo|[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
_LINES = 40
_LONGEST_LINE = 500
_END_S = 10.0


class ModelAdding:
    """One at a time: converting takes most of a machine. For one event loop."""

    def __init__(self, home: Path) -> None:
        """Remove what a gateway that was killed left of an upload."""
        self._home = home
        self._uploads, self._lock = home / "uploads", home / "uploads.lock"
        clear_left(self._uploads, self._lock)
        self._receiving: asyncio.Task[None] | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._source = ""
        self._lines: deque[str] = deque(maxlen=_LINES)
        self._code: int | None = None

    def state(self) -> dict[str, Any] | None:
        """The newest one; None before the first.

        Its source, what was said of it, whether it goes on, went well, and was here already.
        """
        if not self._source:
            return None
        goes_on = self._code is None
        ok = self._code == 0
        was_here = ok and any(HERE_ALREADY in line for line in self._lines)
        return {"source": self._source, "lines": list(self._lines), "goes_on": goes_on, "ok": ok, "was_here": was_here}

    async def begin(self, source: str) -> None:
        """Add a model by name; `state` tells how far it is. Files of the host are for its own command line.

        Raises:
            ApiError: it is no name, or another one is being added.
        """
        if not _SOURCE.fullmatch(source):
            told = 'write "demo" or a name such as HuggingFaceTB/SmolLM2-360M-Instruct; files are added on the'
            raise ApiError(422, f"{told} fleet's host, linguabus model add FILE", code="invalid_value", field="source")
        with self._turn(source):
            held = contextlib.ExitStack()
            folder = tempfile.TemporaryDirectory(prefix="linguabus-add-")  # in which no file has the name of a model
            await self._run(source, Path(held.enter_context(folder)), held)

    async def upload(self, name: str, size_bytes: int, pieces: AsyncIterator[bytes]) -> None:
        """Add a model from a file as it comes, which is on the disk until it is added or was not.

        Args:
            name: the file's, see `check_name`.

        Raises:
            ApiError: it can't be called so, another one is being added, this one is no model's file, or was cancelled.
            NoRoom: the disk is too full.
            ClientDisconnect: not all of it came.
        """
        check_name(name)
        with self._turn(name):
            held = contextlib.ExitStack()
            folder = owned_folder(self._uploads, "upload-", self._lock)
            try:
                path = await asyncio.to_thread(held.enter_context, folder) / name
                await self._receive(path, size_bytes, pieces)
            except BaseException:
                await asyncio.to_thread(held.close)
                raise
            await self._run(name, path.parent, held)

    @contextlib.contextmanager
    def _turn(self, source: str) -> Iterator[None]:
        """Begin with a source; an error ends it.

        Raises:
            ApiError: another one is being added.
        """
        if self._source and self._code is None:
            raise ApiError(409, f"{self._source} is being added: wait, or cancel it", code="busy")
        self._source, self._code = source, None
        self._process = self._reading = None
        self._lines.clear()
        try:
            yield
        except BaseException as error:
            self._code = 1
            told = str(error) or "it broke off"
            self._lines.append(f"Error: {told}"[:_LONGEST_LINE])
            raise

    async def _receive(self, path: Path, size_bytes: int, pieces: AsyncIterator[bytes]) -> None:
        def tell(done_bytes: int) -> None:
            self._lines.clear()
            self._lines.append(f"receiving the file: {progress_text(done_bytes, size_bytes)}")

        self._receiving = asyncio.create_task(receive(path, size_bytes, pieces, tell))
        try:
            await asyncio.wait({self._receiving})
        finally:
            self._receiving.cancel()
        if self._receiving.cancelled():
            raise ApiError(409, f"{path.name} was cancelled", code="cancelled")
        self._receiving.result()

    async def _run(self, source: str, folder: Path, held: contextlib.ExitStack) -> None:
        """Add ``source``, as it is named in ``folder``; ``held`` is closed at the end."""
        command = [sys.executable, "-m", "orchestrator.cli", "--home", str(self._home.resolve()), "model", "add"]
        try:
            self._process = await asyncio.create_subprocess_exec(
                *command, source, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT, cwd=folder,
            )  # fmt: skip
        except OSError as error:
            held.close()
            raise ApiError(500, f"no model can be added: {error.strerror}", code="failed") from error
        self._reading = asyncio.create_task(self._read(self._process, held))

    async def _read(self, process: asyncio.subprocess.Process, held: contextlib.ExitStack) -> None:
        assert process.stdout
        try:
            while line := await process.stdout.readline():
                if text := line.decode("utf-8", "replace").strip():
                    self._lines.append(text[:_LONGEST_LINE])
            code = await process.wait()
        finally:
            await asyncio.to_thread(held.close)
        self._code = code

    async def cancel(self) -> None:
        """End it; nothing of it stays. Idempotent."""
        if self._receiving and not self._receiving.done():
            self._receiving.cancel()
            await asyncio.wait({self._receiving})
            return
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
