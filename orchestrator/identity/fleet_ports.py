"""Whether a fleet's ports can be listened on, and what to do where one can't."""

from __future__ import annotations

import os
import socket

from orchestrator.identity.fleet_folder import LOOPBACK, FleetSettings


def taken_port(settings: FleetSettings, *, with_server: bool = False) -> str:
    """Which port of the broker can't be had, and what to do; empty if none. ``with_server``: or the orchestrator's."""
    ports = [(settings.broker_port, settings.listen, "--broker-port"), (settings.host_port, LOOPBACK[0], "--host-port")]
    if settings.websocket_port:
        ports.append((settings.websocket_port, settings.listen, "--websocket-port"))
    if with_server:
        ports.append((settings.http_port, settings.listen, "--http-port"))
    for port, address, option in ports:
        if why := _why_not(address, port):
            # Who has joined knows the others.
            until = "" if option == "--host-port" else ", as long as no device has joined,"
            return (
                f"port {port}: {why}: end what has it ('linguabus doctor' names it), or{until} take another one with"
                f" 'linguabus init --update {option} PORT'"
            )
    return ""


def _why_not(address: str, port: int) -> str:
    """Why nobody can listen there now; empty if somebody can."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        socket.create_server((address, port), family=family).close()
    except OSError as error:
        return os.strerror(error.errno or 0)
    return ""
