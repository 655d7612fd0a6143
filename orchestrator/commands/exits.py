"""Exit codes: 0 done, 1 something broke, 2 the user can put it right, 130 interrupted, 128 + N ended by signal N."""

from __future__ import annotations

from orchestrator.model.extras import advice
from schemas.errors import LinguabusError

FAILURE = 1
WRONG_INPUT = 2
INTERRUPTED = 130


def exit_code(error: LinguabusError) -> int:
    """The exit code for an error: 2, or 1 where no other input would have avoided it."""
    from broker.errors import BrokerDidNotStart, BrokerEnded
    from orchestrator.client import AnswerFailed, AnswerIncomplete, NodeStillHolds
    from orchestrator.errors import Superseded
    from orchestrator.model.errors import BlobCorrupt, ConversionFailed

    if isinstance(error, AnswerFailed):
        return FAILURE if error.code in ("busy", "failed") else WRONG_INPUT
    broke = (
        AnswerIncomplete
        | NodeStillHolds
        | BlobCorrupt
        | BrokerDidNotStart
        | BrokerEnded
        | ConversionFailed
        | Superseded
    )
    return FAILURE if isinstance(error, broke) else WRONG_INPUT


def missing_module(error: ModuleNotFoundError) -> str:
    """An error line with the one command that installs all missing packages that a command here may need."""
    return f"there is no Python module {error.name}: {advice(['orchestrator'])}"
