"""What operators want, as one orchestrator tells another: constraints, drained nodes, the model, labels."""

from __future__ import annotations

from contextlib import suppress

from orchestrator.model.errors import ModelError
from orchestrator.model.store import ModelStore
from orchestrator.service.database import Database
from schemas.errors import MemberError
from schemas.messages import OperatorWishes, PlanConstraints


def wishes_of(state: Database, store: ModelStore, pipeline: str) -> OperatorWishes:
    """What is remembered of operators' wishes."""
    try:
        constraints = state.constraints(pipeline)
    except MemberError:  # another version's, which are not respected here either
        constraints = PlanConstraints()
    drained = tuple(sorted(state.drained()))
    labels = tuple(state.labels().items())
    return OperatorWishes(
        pipeline=pipeline, constraints=constraints, drained=drained, model=store.active, labels=labels
    )


def take_over(wishes: OperatorWishes, state: Database, store: ModelStore) -> str | None:
    """Remember another orchestrator's wishes as one's own; the name of the model that it serves."""
    state.save_constraints(wishes.pipeline, wishes.constraints)
    drained, wanted = state.drained(), frozenset(wishes.drained)
    for node in drained ^ wanted:
        state.save_drained(node, node in wanted)
    known = state.labels()
    for node, label in {**dict.fromkeys(known, ""), **dict(wishes.labels)}.items():
        if label != known.get(node):
            state.save_label(node, label)
    if wishes.model is not None and wishes.model != store.active:
        with suppress(ModelError, OSError):
            store.use(wishes.model)
    return wishes.model
