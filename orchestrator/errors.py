"""Errors of the orchestrator. ``str(error)`` is one line: what is wrong and what to do next."""

from __future__ import annotations

from pathlib import Path

from schemas.errors import LinguabusError
from schemas.system_limits import describe


class OrchestratorError(LinguabusError):
    """Base of what this package raises on purpose (models and planning have trees of their own)."""


class InsecureAddress(OrchestratorError):
    """Something would be reachable from other machines without encryption, and nobody asked for that."""


class BadSetting(OrchestratorError):
    """A setting is outside its limits."""


class NoHome(OrchestratorError):
    """Nobody said where files are to be kept, and the user has no home directory."""


class AddressInUse(OrchestratorError):
    """The blob server cannot listen where it should."""


class StateUnreadable(OrchestratorError):
    """The database is damaged, locked or written by a newer version."""


class StateNotWritable(StateUnreadable):
    """The database is whole as far as is known, and nothing can be written: its disk is full, or read-only."""


def unusable(path: Path, error: Exception, otherwise: str) -> StateUnreadable:
    """What is said of a database that can't be opened or written; ``otherwise``: what to do where the disk is well."""
    import sqlite3

    said, make_room = f"{path} cannot be used: {error}", f"make room in {path.parent}, or look whether its disk works"
    if isinstance(error, OSError):
        what = describe(OSError(error.errno, error.strerror, str(path)))
        return StateNotWritable(what if ";" in what else f"{what}; {make_room}")
    match getattr(error, "sqlite_errorcode", 0) & 0xFF:  # without what is more exact
        case sqlite3.SQLITE_FULL | sqlite3.SQLITE_IOERR:
            return StateNotWritable(f"{said}; {make_room}")
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM:
            return StateNotWritable(f"{said}; have {path.parent} writable, or give another folder with --home")
    return StateUnreadable(f"{said}; {otherwise}")


class Superseded(OrchestratorError):
    """Another orchestrator took the pipeline over."""


class PipelineTaken(OrchestratorError):
    """Another orchestrator serves the pipeline on this broker."""


class SupervisorFailed(OrchestratorError):
    """The system does not take a service, or gives it back."""
