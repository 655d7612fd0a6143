"""Errors of the orchestrator. ``str(error)`` is one line: what is wrong and what to do next."""

from schemas.errors import LinguabusError


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


class Superseded(OrchestratorError):
    """Another orchestrator took the pipeline over."""


class PipelineTaken(OrchestratorError):
    """Another orchestrator serves the pipeline on this broker."""


class SupervisorFailed(OrchestratorError):
    """The system does not take a service, or gives it back."""
