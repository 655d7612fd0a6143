"""The planner's input besides a model: settings, and what nodes measured of themselves (pure)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from orchestrator.deployment.message_fit import message_fit
from orchestrator.deployment.plan import ServingSettings
from orchestrator.effects import Effect
from orchestrator.fleet.health import Condition
from orchestrator.fleet.profiles import Profiles
from orchestrator.model.served import ServedModel
from orchestrator.planning.problem import Problem, Stage
from orchestrator.replanning.problem_builder import build_problem, context_of
from orchestrator.timing import DEFAULT_SLOTS, LEAST_CONTEXT_TOKENS
from schemas.limits import MAX_PAYLOAD_BYTES
from schemas.messages import NodeBirth, NodeProfile, Plan, PlanConstraints


class Conditions(Protocol):
    """A source of how nodes are."""

    def conditions(self) -> dict[str, Condition]:
        """What a plan should know of each node's battery and heat, by name."""


class PlannerInput:
    """Makes questions for the planner, for the plans of a pipeline and for dividing the fleet."""

    def __init__(
        self, settings: ServingSettings, fleet: Conditions, profiles: Profiles, blob_urls: tuple[str, ...]
    ) -> None:
        """Keep what questions are made of. ``blob_urls``: where nodes fetch what they measure themselves with."""
        self._settings = settings
        self._fleet = fleet
        self._profiles = profiles
        self._blob_urls = blob_urls

    def measure(self, births: Sequence[NodeBirth], model: ServedModel, now_s: float) -> list[Effect]:
        """Have every node measure itself whose figures are not known."""
        return self._profiles.ask(births, model, self._blob_urls, self._settings.wire_of(model), now_s)

    def measured(self, birth: NodeBirth, profile: NodeProfile, now_s: float) -> list[Effect]:
        """Take in a node's figures, or why it has none."""
        return self._profiles.answer(birth, profile, now_s)

    def awaited_until_s(self, births: Sequence[NodeBirth], model: ServedModel, now_s: float) -> float:
        """Until when a plan of these nodes should wait for figures; in the past when all have answered."""
        return self._profiles.awaited_until_s(births, model.manifest, now_s)

    def problem(
        self,
        model: ServedModel,
        births: Sequence[NodeBirth],
        constraints: PlanConstraints,
        last_stages: Sequence[Stage] = (),
    ) -> Problem:
        """The question: the settings unless the constraints say otherwise, the last plan's stages as the incumbent;
        chunks and context no longer than the broker's messages allow.

        Raises:
            PlanningError, BadConstraint: as `build_problem` and `message_fit`.
        """
        settings, manifest = self._settings, model.manifest
        here = {birth.node for birth in births}
        asked_tokens = constraints.context_tokens or settings.context_tokens
        max_message_bytes = min((birth.max_message_bytes for birth in births), default=MAX_PAYLOAD_BYTES)
        fit = message_fit(
            manifest,
            wire_dtype=settings.wire_of(model),
            chunk_tokens=settings.chunk_tokens,
            context_tokens=context_of(manifest, asked_tokens),
            max_message_bytes=max_message_bytes,
        )
        problem = build_problem(
            manifest,
            births,
            context_tokens=fit.context_tokens,
            slots=settings.slots or DEFAULT_SLOTS,
            wire_dtype=settings.wire_of(model),
            chunk_tokens=fit.chunk_tokens,
            max_message_bytes=max_message_bytes,
            profiles=self._profiles.of(births, manifest),
            incumbent=tuple(stage for stage in last_stages if stage.node in here),
            constraints=constraints,
            conditions=self._fleet.conditions(),
            memory_margin=settings.memory_margin,
            draft=model.draft.manifest if model.draft else None,
        )
        return replace(
            problem,
            least_context_tokens=LEAST_CONTEXT_TOKENS if asked_tokens is None else None,
            least_slots=1 if settings.slots is None else None,
        )

    def given(self, model: ServedModel, births: Sequence[NodeBirth], plan: Plan) -> Problem:
        """The question whose answer a plan is that was left in force, on the nodes of its ring.

        Raises:
            PlanningError, BadConstraint: as `build_problem`.
        """
        return build_problem(
            model.manifest,
            births,
            context_tokens=plan.context_tokens,
            slots=plan.slots,
            wire_dtype=plan.wire_dtype,
            chunk_tokens=plan.chunk_tokens,
            max_message_bytes=plan.max_message_bytes,
            profiles=self._profiles.of(births, model.manifest),
            constraints=PlanConstraints(),
            conditions=self._fleet.conditions(),
            memory_margin=self._settings.memory_margin,
            draft=model.draft.manifest if model.draft and model.draft.name == plan.draft else None,
        )
