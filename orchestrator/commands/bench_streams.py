"""Several streams of answers at the same time, each with a connection and a thread of its own: for `bench`."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from orchestrator.client import Answer, Client
from orchestrator.commands.bench_report import Measured
from schemas.messages import Sampling

_LEAVE_S = 2.0
"""How long what is open may take to be cancelled on the way out."""


def measure(
    client: Client, prompt: str, max_tokens: int, seed: int, watch: Callable[[Answer], None] | None = None
) -> Measured:
    """Ask, and note when each piece came; ``watch`` gets the answer before it begins.

    Raises:
        AnswerFailed, AnswerIncomplete
    """
    submitted_s = time.monotonic()
    answer = client.ask(prompt=prompt, max_tokens=max_tokens, sampling=Sampling(seed=seed), stats=True)
    if watch is not None:
        watch(answer)
    first_s: float | None = None
    first_tokens = last_tokens = 0
    last_s = submitted_s
    for _ in answer:
        last_s, last_tokens = time.monotonic(), len(answer.token_ids)
        if first_s is None:
            first_s, first_tokens = last_s, last_tokens
    ended_s = time.monotonic()
    if first_s is None:
        first_s = last_s = ended_s
    assert answer.end is not None
    return Measured(submitted_s, first_s, last_s, ended_s, first_tokens, last_tokens, answer.end)


class Streams:
    """Runs lists of prompts side by side. `stop` ends them from any thread or signal handler."""

    def __init__(self, connect: Callable[[], AbstractContextManager[Client]], *, seed: int) -> None:
        """``connect`` makes a stream's client; it is called in the stream's thread."""
        self.stopped = False
        self._connect = connect
        self._seed = seed
        self._open: dict[int, Answer] = {}
        """By stream."""
        self._news: queue.SimpleQueue[Measured | Exception | None] = queue.SimpleQueue()
        """Answers, what went wrong, and None for the end of a stream."""

    def stop(self) -> None:
        """Ask nothing more and cancel what is open."""
        self.stopped = True
        for answer in list(self._open.values()):
            answer.cancel()

    def run(
        self, prompts: Sequence[Sequence[str]], max_tokens: int, warm_up: int, progress: Callable[[int], None]
    ) -> list[Measured]:
        """Ask every stream's prompts, one stream per list, and return all answers but the streams' first ``warm_up``.

        The streams wait for each other after the warm-up. ``progress`` gets the number of answers so far. After `stop`
        the list is not complete.

        Raises:
            BadBrokerUrl, BrokerUnreachable, BrokerRefused
            AnswerFailed, AnswerIncomplete: of the stream where it happened first; the others are cancelled.
        """
        start = threading.Barrier(len(prompts))
        threads: list[threading.Thread] = []
        try:
            for stream, mine in enumerate(prompts):
                arguments = (stream, mine, max_tokens, warm_up, start)
                # A second Ctrl-C leaves without waiting for them.
                thread = threading.Thread(target=self._run_stream, args=arguments, name=f"stream {stream}", daemon=True)
                thread.start()
                threads.append(thread)
            return self._collect(len(threads), progress)
        except SystemExit:  # a signal: what is open is cancelled first
            self.stop()
            ends_s = time.monotonic() + _LEAVE_S
            for thread in threads:
                thread.join(max(0.0, ends_s - time.monotonic()))
            raise

    def _collect(self, running: int, progress: Callable[[int], None]) -> list[Measured]:
        """Take in what the streams report, until the last of them has ended."""
        answers: list[Measured] = []
        errors: list[Exception] = []
        while running:
            try:
                # Not for ever: a signal just before the wait would have its handler run only after it.
                news = self._news.get(timeout=0.2)
            except queue.Empty:
                continue
            if news is None:
                running -= 1
            elif isinstance(news, Measured):
                answers.append(news)
                progress(len(answers))
            else:
                errors.append(news)
                self.stop()
        if errors:
            raise errors[0]
        return answers

    def _run_stream(
        self, stream: int, prompts: Sequence[str], max_tokens: int, warm_up: int, start: threading.Barrier
    ) -> None:
        def watch(answer: Answer) -> None:
            self._open[stream] = answer
            if self.stopped:  # since the loop looked
                answer.cancel()

        try:
            with self._connect() as client:
                for index, prompt in enumerate(prompts):
                    if index == warm_up:
                        start.wait()
                    if self.stopped:
                        start.abort()
                        break
                    answer = measure(client, prompt, max_tokens, self._seed, watch)
                    if index >= warm_up and answer.end.finish_reason != "cancelled":
                        self._news.put(answer)
                self._open.pop(stream, None)
        except threading.BrokenBarrierError:
            pass  # whoever broke it says why
        except Exception as error:
            start.abort()
            self._news.put(error)
        finally:
            self._news.put(None)
