"""Errors of planning. An infeasible problem is not one of them: it is a value, `solution.Infeasible`."""

from schemas.errors import LinguabusError


class PlanningError(LinguabusError):
    """A problem, fleet file or plan does not make sense; the message says what to change."""


class BadConstraint(PlanningError):
    """Constraints that can't be understood, or that the model does not have."""


class SolverFailed(PlanningError):
    """A MILP solver does not run, runs for ever, or gives no answer. Others, and the planner's own methods, do."""


def remembered(error: PlanningError) -> str:
    """The text of an error; where a constraint is its cause, as one that nobody has just given."""
    forget = "this constraint is remembered: linguabus plan apply without it forgets it"
    return f"{error}; {forget}" if isinstance(error, BadConstraint) else str(error)
