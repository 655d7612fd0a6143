"""Errors about members. ``str(error)`` is one line: what is wrong and what to do next."""

from __future__ import annotations

from orchestrator.errors import OrchestratorError


class NoFleet(OrchestratorError):
    """There is no fleet in this home."""

    def __init__(self, home: str) -> None:
        super().__init__(f"there is no fleet in {home}: make one with 'linguabus init', on the machine that serves")


class FleetExists(OrchestratorError):
    """There is a fleet already."""

    def __init__(self, folder: str) -> None:
        super().__init__(f"there is a fleet in {folder} already: see 'linguabus members' and 'linguabus invite'")


class UnknownMember(OrchestratorError):
    """Nobody of that name is a member, or invited."""

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no member {name}: see 'linguabus members'")


class AlreadyMember(OrchestratorError):
    """Somebody of that name is a member."""

    def __init__(self, name: str, is_full: bool) -> None:
        self.there = "the fleet has as many members as it can" if is_full else f"{name} is a member already"
        self.is_full = is_full
        remedy = "revoke one first" if is_full else "choose another name, or add --again if it has lost its key"
        super().__init__(f"{self.there}: {remedy}")


class OwnMember(OrchestratorError):
    """A name of the fleet's host itself: nobody else's, and it stays as long as the fleet."""

    def __init__(self, name: str, is_of: str = "the orchestrator itself") -> None:
        super().__init__(f"{name} is the name of {is_of}: it is no device's")


class HostUnknown(OrchestratorError):
    """A fleet in containers does not know where devices find it."""

    def __init__(self) -> None:
        super().__init__(
            "containers don't know their host's address: run 'LINGUABUS_ADDRESS=192.168.1.5 docker compose up -d' with"
            " yours, or write it into .env"
        )


class NobodyInvited(OrchestratorError):
    """There is nobody to open the door for."""

    def __init__(self) -> None:
        super().__init__("nobody is invited: 'linguabus invite NAME' opens the door for one device")


class InvitationOver(OrchestratorError):
    """A token is good for nothing."""

    def __init__(self) -> None:
        super().__init__("this invitation is not good, or not any more: ask for a new one")


class NoSealedFile(OrchestratorError):
    """A file is no backup, or of another version."""


class NotOpened(OrchestratorError):
    """A passphrase does not open a backup."""

    def __init__(self) -> None:
        super().__init__("the passphrase is another one, or the file is damaged: try again, or take another copy of it")


class BackupFailed(OrchestratorError):
    """A fleet can't be written into a backup as a whole."""


class BackupUnusable(OrchestratorError):
    """A backup was opened, and what is in it can't be used."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"what is in this backup can't be used: {reason}; take another one, or upgrade linguabus")


class HomeTaken(OrchestratorError):
    """A fleet is to be restored where there is something already."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} is there already: choose another --home, or add --replace to lose it")


class OrchestratorRuns(OrchestratorError):
    """What is to be replaced is in use."""

    def __init__(self, home: str) -> None:
        super().__init__(f"an orchestrator is running on {home}: stop it first, then restore")


class DoorShut(InvitationOver):
    """A token is good, and the door is closed; it reads as if the token were not good."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
