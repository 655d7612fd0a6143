"""llama.cpp's own way of sharing a model: RPC servers on loopback, and the process that uses them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from llama_build import SERVER, built_folder

from broker.free_ports import free_ports

_HOST = "127.0.0.1"
_START_S = 30.0


class LlamaRing:
    """What `llama_worker.Llama` does, in a process of its own."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self._process, self._log = process, log

    def ask(self, what: str, prompt_ids: Sequence[int], *argument: Any) -> Any:
        """Call a method of `llama_worker.Llama` there.

        Raises:
            RuntimeError: it ended.
        """
        assert self._process.stdin
        self._process.stdin.write(json.dumps([what, list(prompt_ids), *argument]) + "\n")
        self._process.stdin.flush()
        return self.answer()

    def answer(self) -> Any:
        """What it says next; raises as ``ask``."""
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            said = self._log.read_text("utf-8", "replace").strip().splitlines()
            raise RuntimeError(f"llama.cpp ended: {said[-1] if said else 'it said nothing'}")
        return json.loads(line)


@contextmanager
def llama_ring(gguf: Path, servers: int, folder: Path, context_tokens: int) -> Iterator[LlamaRing]:
    """``servers`` RPC servers of one thread with the layers of a file divided evenly; logs are in ``folder``."""
    built = built_folder()
    with ExitStack() as stack:
        ports = free_ports(servers)
        for port in ports:
            command = [str(built / "bin" / SERVER), "-H", _HOST, "-p", str(port), "-t", "1"]
            log = stack.enter_context((folder / f"llama-server-{port}.log").open("w"))
            _ended_at_exit(stack, subprocess.Popen(command, stdout=log, stderr=log))
        for port in ports:
            _wait_for(port)
        log_path = folder / "llama.log"
        code = "import llama_worker; llama_worker.serve()"
        endpoints = [f"{_HOST}:{port}" for port in ports]
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(built), str(gguf), str(context_tokens), *endpoints],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stack.enter_context(log_path.open("w")),
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        )
        _ended_at_exit(stack, process)
        ring = LlamaRing(process, log_path)
        ring.answer()
        yield ring


def _ended_at_exit(stack: ExitStack, process: subprocess.Popen[Any]) -> None:
    def end() -> None:
        process.kill()
        process.communicate()

    stack.callback(end)


def _wait_for(port: int) -> None:
    deadline_s = time.monotonic() + _START_S
    while True:
        try:
            socket.create_connection((_HOST, port), 1.0).close()
        except OSError as error:
            if time.monotonic() > deadline_s:
                raise RuntimeError(f"llama.cpp's server does not listen on port {port}") from error
            time.sleep(0.05)
        else:
            return
