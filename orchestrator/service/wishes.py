"""What operators want, as one orchestrator tells another: constraints, drained nodes, the model."""

from __future__ import annotations

import logging

from orchestrator.model.errors import ModelError
from orchestrator.model.store import ModelStore
from orchestrator.service.database import Database
from schemas.errors import MemberError
from schemas.messages import OperatorWishes, PlanConstraints

logger = logging.getLogger(__name__)


def wishes_of(state: Database, store: ModelStore, pipeline: str) -> OperatorWishes:
    """What is remembered of operators' wishes."""
    try:
        constraints = state.constraints(pipeline)
    except MemberError:  # another version's, which are not respected here either
        constraints = PlanConstraints()
    drained = tuple(sorted(state.drained()))
    return OperatorWishes(pipeline=pipeline, constraints=constraints, drained=drained, model=store.active)


def take_over(wishes: OperatorWishes, state: Database, store: ModelStore) -> None:
    """Remember another orchestrator's wishes as one's own; a model that is not in the store is told of."""
    state.save_constraints(wishes.pipeline, wishes.constraints)
    drained, wanted = state.drained(), frozenset(wishes.drained)
    for node in drained ^ wanted:
        state.save_drained(node, node in wanted)
    if wishes.model is None or wishes.model == store.active:
        return
    try:
        store.use(wishes.model)
    except ModelError:
        logger.warning(
            "model %s is served and not in this store, so it can't be served from here: bring it over with linguabus"
            " model export and model add",
            wishes.model,
        )
