"""A phone in a network with its fleet's host: the phone is a network namespace, the host this machine. Linux and root.

Either may get another address, or the phone may be out of reach, and nobody is told.
"""

from __future__ import annotations

import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


class PhoneNetwork:
    """A cable between two network interfaces, and a file of names that the phone reads."""

    def __init__(self, folder: Path) -> None:
        self._name = f"lb{secrets.token_hex(3)}"
        self._here, self._there = f"{self._name}h", f"{self._name}p"
        self._subnet = f"10.213.{secrets.randbelow(250) + 1}"
        self._hosts = Path("/etc/netns") / self._name / "hosts"
        self.host = self.phone = ""
        self.python = folder / "python-on-the-phone"
        """Runs Python there."""

    def make(self) -> None:
        """Lay the cable."""
        _ip("netns", "add", self._name)
        _ip("link", "add", self._here, "type", "veth", "peer", "name", self._there, "netns", self._name)
        for place, interface in ((), self._here), (("-n", self._name), self._there):
            _ip(*place, "link", "set", interface, "up")
        _ip("-n", self._name, "link", "set", "lo", "up")
        self._hosts.parent.mkdir(parents=True)
        self._hosts.write_text("127.0.0.1 localhost\n")
        self.python.write_text(f'#!/bin/sh\nexec ip netns exec {self._name} {sys.executable} "$@"\n')
        self.python.chmod(0o700)

    def end(self) -> None:
        """Take it away."""
        subprocess.run(["ip", "netns", "del", self._name], check=False)
        shutil.rmtree(self._hosts.parent, ignore_errors=True)

    def place_host(self, number: int, name: str) -> str:
        """Give the host another address, which the phone's file of names has for ``name``; returns it."""
        if self.host:
            _ip("addr", "del", f"{self.host}/24", "dev", self._here)
        self.host = f"{self._subnet}.{number}"
        _ip("addr", "add", f"{self.host}/24", "dev", self._here)
        self._hosts.write_text(f"127.0.0.1 localhost\n{self.host} {name}\n")
        return self.host

    def place_phone(self, number: int) -> None:
        """Give the phone another address."""
        there = ("-n", self._name)
        if self.phone:
            _ip(*there, "addr", "del", f"{self.phone}/24", "dev", self._there)
        self.phone = f"{self._subnet}.{number}"
        _ip(*there, "addr", "add", f"{self.phone}/24", "dev", self._there)

    def carry_phone(self, *, home: bool) -> None:
        """Take the phone out of the house, or back."""
        _ip("-n", self._name, "link", "set", self._there, "up" if home else "down")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@contextmanager
def phone_network(folder: Path) -> Iterator[PhoneNetwork]:
    """A network; the test is skipped where none can be made."""
    network = PhoneNetwork(folder)
    try:
        network.make()
    except (OSError, subprocess.CalledProcessError) as error:
        network.end()
        pytest.skip(f"making a network takes Linux, iproute2 and root: {error}")
    try:
        yield network
    finally:
        network.end()
