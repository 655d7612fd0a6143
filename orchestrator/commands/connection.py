"""The way from a command to a running orchestrator."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from orchestrator.client import Client
from orchestrator.commands.settings import Settings
from orchestrator.errors import InsecureAddress

_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def connect(settings: Settings) -> Iterator[Client]:
    """A client on the settings' broker; SIGTERM and SIGHUP end the context, and what was asked in it.

    Raises:
        InsecureAddress: prompts and answers would cross the network unencrypted, and nobody allowed that.
        BadBrokerUrl, BrokerUnreachable, BrokerRefused
    """
    from broker.address import parse_broker_url
    from broker.security import is_exposed

    address = parse_broker_url(settings.broker)
    if is_exposed(address) and not settings.insecure:
        raise InsecureAddress(f"what you ask {address.host} would not be encrypted: use mqtts://, or add --insecure")
    with Client.connect(settings.broker) as client, leave_on_signals():
        yield client


@contextlib.contextmanager
def leave_on_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP raise SystemExit, so that contexts end as they should; a second one ends the process.

    A signal that is ignored (nohup) or that somebody else handles is left alone, and so are all in other threads.
    """
    handled: list[signal.Signals] = []
    if threading.current_thread() is threading.main_thread():
        handled = [number for number in _SIGNALS if signal.getsignal(number) is signal.SIG_DFL]

    def leave(number: int, _frame: FrameType | None) -> None:
        for other in handled:
            signal.signal(other, signal.SIG_DFL)
        raise SystemExit(128 + number)

    for number in handled:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number in handled:
            signal.signal(number, signal.SIG_DFL)
