"""Readers: clients in threads that keep asking, and remember what became of each answer."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from broker.address import BrokerAddress
from broker.errors import BusError
from orchestrator.client import Client, ClientError
from schemas.messages import Sampling
from tests.support.members import as_member

RETRY_S = 0.2


@dataclass(frozen=True)
class Question:
    """What is asked, and how the answer is to be drawn."""

    prompt: str
    max_tokens: int
    sampling: Sampling = Sampling()


@dataclass(frozen=True)
class Outcome:
    """What became of one question. ``error`` is empty where there is an answer."""

    question: int
    request: str
    text: str
    token_ids: tuple[int, ...]
    began_s: float
    ended_s: float
    error: str = ""

    @property
    def said(self) -> tuple[str, tuple[int, ...]]:
        """The answer: its text and its tokens."""
        return self.text, self.token_ids


def ask(client: Client, questions: Sequence[Question], index: int) -> Outcome:
    """Ask a question and read its answer to the end, whatever that is."""
    began_s, error = time.monotonic(), ""
    asked = questions[index]
    answer = client.ask(prompt=asked.prompt, max_tokens=asked.max_tokens, sampling=asked.sampling)
    try:
        for _ in answer:
            pass
    except (ClientError, BusError) as failure:
        error = f"{type(failure).__name__}: {failure}"
    return Outcome(index, answer.request, answer.text, tuple(answer.token_ids), began_s, time.monotonic(), error)


def read_through(
    addresses: Sequence[str], questions: Sequence[Question], fault: Callable[[], None], timeout_s: float = 60.0
) -> list[list[int]]:
    """Tokens of the answers, each question asked at its address; the fault comes when all answers have begun."""
    found: list[list[int]] = [[] for _ in questions]
    addresses = _as_readers(addresses)
    begun = threading.Barrier(len(questions) + 1)

    def read(number: int) -> None:
        asked = questions[number]
        with Client.connect(addresses[number]) as client:
            answer = client.ask(prompt=asked.prompt, max_tokens=asked.max_tokens, sampling=asked.sampling)
            pieces = iter(answer)
            next(pieces)
            begun.wait(60.0)
            for _ in pieces:
                pass
            found[number] = answer.token_ids

    readers = [threading.Thread(target=read, args=(number,)) for number in range(len(questions))]
    for reader in readers:
        reader.start()
    begun.wait(60.0)
    fault()
    for reader in readers:
        reader.join(timeout_s)
    return found


def _as_readers(addresses: Sequence[str]) -> list[str | BrokerAddress]:
    """Each is a member of its own, of a fleet."""
    return [as_member(address, f"reader-{number}", "client") for number, address in enumerate(addresses, 1)]


class Readers:
    """One reader for each address; each has one request open at all times until ``stop``."""

    def __init__(self, addresses: Sequence[str], questions: Sequence[Question], seed: int) -> None:
        self._questions = questions
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._outcomes: list[Outcome] = []
        self._begun = threading.Barrier(len(addresses) + 1)
        self._threads = [
            threading.Thread(
                target=self._read_on, args=(address, random.Random(f"{seed}-{number}")), name=f"reader {number}",
                daemon=True,
            )
            for number, address in enumerate(_as_readers(addresses), 1)
        ]  # fmt: skip

    def start(self) -> None:
        """Return when all readers are connected."""
        for thread in self._threads:
            thread.start()
        self._begun.wait(30)

    def stop(self, timeout_s: float) -> list[str]:
        """Let all readers finish what they read; the names of those that do not in time."""
        self._over.set()
        end_s = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, end_s - time.monotonic()))
        return [thread.name for thread in self._threads if thread.is_alive()]

    @property
    def outcomes(self) -> list[Outcome]:
        with self._lock:
            return list(self._outcomes)

    def _read_on(self, address: str | BrokerAddress, chance: random.Random) -> None:
        has_begun = False
        while not (has_begun and self._over.is_set()):
            try:
                with Client.connect(address) as client:
                    if not has_begun:
                        has_begun = True
                        self._begun.wait(30)
                    self._ask_on(client, chance)
            except BusError:  # the broker is away
                time.sleep(RETRY_S)

    def _ask_on(self, client: Client, chance: random.Random) -> None:
        while True:
            outcome = ask(client, self._questions, chance.randrange(len(self._questions)))
            with self._lock:
                self._outcomes.append(outcome)
            if self._over.is_set():
                return
            if outcome.error:
                time.sleep(RETRY_S)  # who is refused does not ask in a loop
