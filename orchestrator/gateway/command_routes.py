"""What changes the fleet: drains, labels, plans and models, as the operator's commands do it over MQTT."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends

from orchestrator.client.control_calls import REPLAN_TIMEOUT_S, SOLVE_TIMEOUT_S
from orchestrator.gateway.access import commander
from orchestrator.gateway.gateway import Gateway
from orchestrator.gateway.operator_answers import as_json
from orchestrator.gateway.same_origin import json_body
from schemas.contract import load
from schemas.messages import (
    ApplyConstraints,
    ApplyReply,
    DrainNode,
    DrainReply,
    PlanConstraints,
    Rebalance,
    RebalanceReply,
    RenameNode,
    RenameReply,
    Replan,
    ReplanReply,
    UseModel,
    UseModelReply,
)

_Object = Annotated[dict[str, Any], Body()]
_Nothing = Annotated[dict[str, Any], Body(default_factory=dict)]


def command_routes(gateway: Gateway) -> APIRouter:
    """The routes of a gateway, for who may command."""
    router = APIRouter(prefix="/api/fleet", tags=["Fleet"], dependencies=[Depends(commander), Depends(json_body)])
    client = gateway.client

    @router.post("/drain")
    async def drain(wanted: _Object) -> dict[str, Any]:
        """Empty a node, or with ``undo`` let it have layers again; asked again it says how far that is."""
        return as_json(await client.command(load(DrainNode, wanted), DrainReply))

    @router.post("/rename")
    async def rename(wanted: _Object) -> dict[str, Any]:
        """Call a node something else where people see it; an empty ``label``: by its name."""
        return as_json(await client.command(load(RenameNode, wanted), RenameReply))

    @router.post("/apply")
    async def apply(constraints: _Object) -> dict[str, Any]:
        """Put the best plan under constraints in force, and remember them; answered once it is."""
        wanted = ApplyConstraints(constraints=load(PlanConstraints, constraints))
        return as_json(await client.command(wanted, ApplyReply, timeout_s=REPLAN_TIMEOUT_S))

    @router.post("/replan")
    async def replan(_nothing: _Nothing) -> dict[str, Any]:
        """Make the plan anew; answered once it is in force."""
        return as_json(await client.command(Replan(), ReplanReply, timeout_s=REPLAN_TIMEOUT_S))

    @router.post("/rebalance")
    async def rebalance(wanted: _Object) -> dict[str, Any]:
        """Compare the plans in force with the best ones and, unless ``dry_run``, move where that pays."""
        command = load(Rebalance, wanted)
        timeout_s = SOLVE_TIMEOUT_S if command.dry_run else REPLAN_TIMEOUT_S
        return as_json(await client.command(command, RebalanceReply, timeout_s=timeout_s))

    @router.post("/model")
    async def model(wanted: _Object) -> dict[str, Any]:
        """Serve another model, now and after a restart; answered once it is served."""
        return as_json(await client.command(load(UseModel, wanted), UseModelReply, timeout_s=REPLAN_TIMEOUT_S))

    return router
