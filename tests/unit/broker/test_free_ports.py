"""Ports that nobody listens on."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from broker import free_ports as module
from broker.free_ports import free_port, free_ports

HOST = "127.0.0.1"


def test_they_are_different_and_can_be_had() -> None:
    ports = free_ports(20)
    with ExitStack() as held:
        for port in ports:
            held.enter_context(socket.create_server((HOST, port)))
    assert len(set(ports)) == 20


def test_none_is_what_the_system_gives_to_outgoing_connections() -> None:
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text("utf-8").split()[0])
    assert max(free_ports(50)) < lowest


def test_one_that_is_taken_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server((HOST, free_port())) as taken:
        port = taken.getsockname()[1]
        other = free_port()
        monkeypatch.setattr(module.random, "sample", lambda *_: [port, other])
        assert free_port() == other
        monkeypatch.setattr(module.random, "sample", lambda *_: [port])
        with pytest.raises(OSError, match="in use"):
            free_port()
