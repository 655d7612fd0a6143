"""A ring of processes joined by pipes: what a split costs where there is no bus.

Its stages are computed as nodes compute them, one thread each, and the token goes from the last to the first as in a
ring of nodes. There is no broker, no MQTT, no frame and no bookkeeping: a hidden state goes on as its bytes. What this
ring lacks of an unsplit session is the price of several processes, which no bus gives back.
"""

from __future__ import annotations

import multiprocessing
import signal
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection

from rings import CHUNK_TOKENS, open_segment
from smollm2 import open_smollm2

from edge_node.requests.ring_driver import chunk_lengths
from edge_node.runtime.fast_decode_runner import FastDecodeRunner
from edge_node.work import Draw
from schemas.codec import WIRE_DTYPES
from schemas.messages import Sampling
from tests.support.ring import even_cuts

_HEAD = struct.Struct("<iii")
"""Of a message: the first position, how many positions, how many tokens are wanted behind them."""
_TOKEN = struct.Struct("<i")
_WIRE = "fp16"
_READY_S, _ANSWER_S, _END_S = 60.0, 10.0, 10.0


@dataclass
class _Step:
    """A decode step, as `FastDecodeRunner` wants it."""

    position: int = 0
    given: int | bytes = 0
    copies: None = None

    def draw(self) -> Draw:
        return Draw(Sampling(), self.position + 1, ())


def _stage(profile: str, index: int, stages: int, before: Connection, behind: Connection, asker: Connection) -> None:
    """One process: computes what comes from before until it is ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who asked ends it
    model = open_smollm2(profile)
    segment = open_segment(model, even_cuts(model.manifest.num_units, stages), index, wire=_WIRE)
    segment.warm_up()
    runner, step, is_first, is_last = FastDecodeRunner(segment, 0), _Step(), index == 0, index == stages - 1
    asker.send_bytes(b"")  # ready
    while True:
        data = before.recv_bytes()
        head, body = data[: _HEAD.size], data[_HEAD.size :]
        position, count, wanted = _HEAD.unpack(head)
        if count == 1:
            step.position, step.given = position, _TOKEN.unpack(body)[0] if is_first else body
            result, _ = runner.step(step)
        else:
            if is_first:
                segment.ids_input(count)[...] = struct.unpack(f"<{count}i", body)
            else:
                segment.take_in(body, WIRE_DTYPES[_WIRE], count)
            output = segment.run(0, [position], count, logits=1).output
            result = int(output[0].argmax()) if is_last else segment.give_out(count)
        if not is_last:
            behind.send_bytes(head + result)
            continue
        token = _TOKEN.pack(result)
        if wanted > 1:
            behind.send_bytes(_HEAD.pack(position + count, 1, wanted - 1) + token)
        asker.send_bytes(token)


class PipedRing:
    """A model split evenly over processes; a context manager, at whose end they end."""

    def __init__(self, profile: str, stages: int) -> None:
        """``profile``: of SmolLM2.

        Raises:
            TimeoutError: a process does not become ready.
        """
        context = multiprocessing.get_context("spawn")
        pipes = [context.Pipe(duplex=False) for _ in range(stages)]
        told, asker = context.Pipe(duplex=False)
        self._first, self._told = pipes[0][1], told
        self._processes = [
            context.Process(
                target=_stage,
                args=(profile, index, stages, pipes[index][0], pipes[(index + 1) % stages][1], asker),
                daemon=True,
            )
            for index in range(stages)
        ]
        for process in self._processes:
            process.start()
        try:
            for _ in self._processes:
                self._next(_READY_S)
        except BaseException:
            self._end()
            raise

    def __enter__(self) -> PipedRing:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def _end(self) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.join(_END_S)

    def greedy(self, prompt_ids: Sequence[int], tokens: int) -> tuple[list[int], float]:
        """Greedy continuation of a prompt, and the decode speed in tokens per second.

        Raises:
            TimeoutError: a process gives nothing any more.
        """
        begin = 0
        for length in chunk_lengths(len(prompt_ids), CHUNK_TOKENS):
            chunk, stop = prompt_ids[begin : begin + length], begin + length
            wanted = tokens if stop == len(prompt_ids) else 1
            self._first.send_bytes(_HEAD.pack(begin, length, wanted) + struct.pack(f"<{length}i", *chunk))
            generated = [self._token()]
            begin = stop
        started = time.perf_counter()
        generated += [self._token() for _ in range(tokens - 1)]
        return generated, (tokens - 1) / (time.perf_counter() - started)

    def _token(self) -> int:
        return _TOKEN.unpack(self._next(_ANSWER_S))[0]

    def _next(self, limit_s: float) -> bytes:
        if not self._told.poll(limit_s):
            raise TimeoutError(f"a process of the ring of pipes said nothing for {limit_s:g} s")
        return self._told.recv_bytes()
