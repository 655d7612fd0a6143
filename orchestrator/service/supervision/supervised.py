"""What is to run, and who keeps it running."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, get_args

from orchestrator.errors import SupervisorFailed

What = Literal["serve", "api", "node"]
WHATS: tuple[What, ...] = get_args(What)


@dataclass(frozen=True, kw_only=True)
class Supervised:
    """A command that is to run as long as the machine does.

    Attributes:
        what: the command's name.
        command: the whole line, words as the program is to get them.
        home: what it may write to. ``{what}.env`` in it has variables that its owner sets.
    """

    what: What
    command: tuple[str, ...]
    home: Path

    @property
    def variables(self) -> Path:
        """The file with variables of its owner's, which need not be there."""
        return self.home / f"{self.what}.env"


def name_of(what: What) -> str:
    """The name by which the system knows it."""
    return f"linguabus-{what}"


@dataclass(frozen=True)
class State:
    """How a service is: ``active`` as its supervisor says it, such as ``active`` or ``failed``."""

    name: str
    installed: bool
    starts_with_machine: bool
    active: str

    @property
    def runs(self) -> bool:
        """Is there a process?"""
        return self.active in ("active", "run")


class Supervisor(Protocol):
    """systemd, or Termux's services."""

    def files(self, service: Supervised) -> dict[Path, str]:
        """What is written for a service: texts, by where they are."""
        ...

    def install(self, service: Supervised, *, starts: bool, tell: Callable[[str], None]) -> None:
        """Write its files, have it start with the machine, and, if it ``starts``, now; ``tell`` people what matters.

        Raises:
            SupervisorFailed: it can't be done; nothing that was not there is left.
        """
        ...

    def remove(self, what: What) -> bool:
        """Stop it and remove its files; was there anything? Raises `SupervisorFailed`."""
        ...

    def state(self, what: What) -> State:
        """How it is; raises `SupervisorFailed`."""
        ...


def told(command: Sequence[str], *, timeout_s: float, check: bool = True) -> str:
    """What a supervisor's own program says.

    Raises:
        SupervisorFailed: it is not there, does not end, or, where that is checked, fails.
    """
    line = " ".join(command)
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except FileNotFoundError:
        raise SupervisorFailed(f"there is no {command[0]} here: 'linguabus service show' prints the unit") from None
    except subprocess.TimeoutExpired:
        raise SupervisorFailed(f"'{line}' has not ended for {timeout_s:.0f} s") from None
    if check and done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise SupervisorFailed(f"'{line}' failed: {said[-1] if said else done.returncode}")
    return done.stdout
