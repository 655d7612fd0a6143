"""A program that ends is started again, with growing pauses, and given up when it ends again and again."""

from __future__ import annotations

import os
import queue
import signal
import threading

import psutil

from broker.bus import Connected
from broker.kept_broker import KeptBroker
from broker.local_broker import LocalBroker
from broker.mqtt import MqttBus
from broker.restarts import MOST_ENDS, WINDOW_S, Restarts
from tests.support.polling import DEADLINE_S, collect


def test_pauses_grow_until_it_is_given_up() -> None:
    restarts = Restarts()
    assert [restarts.pause_s(now_s) for now_s in (0.0, 10.0, 59.0)] == [1.0, 2.0, None]


def test_ends_of_long_ago_do_not_count() -> None:
    restarts = Restarts()
    assert [restarts.pause_s(number * WINDOW_S) for number in range(2 * MOST_ENDS)] == [1.0] * (2 * MOST_ENDS)


def test_a_broker_that_was_killed_comes_back_at_its_port_and_so_do_its_clients() -> None:
    said: queue.Queue[str] = queue.Queue()
    with LocalBroker() as broker, KeptBroker(broker, say=said.put, on_given_up=lambda: None) as kept:
        with MqttBus(broker.url, client_id="x") as bus:
            bus.connect()
            url, pid = broker.url, broker.pid
            os.kill(pid, signal.SIGKILL)
            collect(bus, lambda events: any(isinstance(event, Connected) and event.reconnect for event in events))
        line = said.get(timeout=DEADLINE_S)
        assert line.startswith("the broker was killed")
        assert line.endswith("; started again")
        assert broker.url == url
        assert not kept.failure
        again = psutil.Process(broker.pid)
    assert not again.is_running()
    assert not psutil.pid_exists(pid)


def test_a_broker_that_ends_again_and_again_is_given_up() -> None:
    over = threading.Event()
    said: queue.Queue[str] = queue.Queue()
    with LocalBroker() as broker, KeptBroker(broker, say=said.put, on_given_up=over.set) as kept:
        for _ in range(MOST_ENDS - 1):
            os.kill(broker.pid, signal.SIGKILL)
            said.get(timeout=DEADLINE_S)
        os.kill(broker.pid, signal.SIGKILL)
        assert over.wait(DEADLINE_S)
    assert "not started again after 3 ends" in kept.failure


def test_nothing_is_started_once_it_is_over() -> None:
    with LocalBroker() as broker:
        with KeptBroker(broker, say=print, on_given_up=lambda: None):
            os.kill(broker.pid, signal.SIGKILL)
        assert not broker.running
