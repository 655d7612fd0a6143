"""Placement: where a request is served (pure)."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.deployment.plan import DeployedPlan
from orchestrator.model.manifest import Manifest
from orchestrator.requests.answer import Answer
from schemas.messages import Epoch, OpenRequest, SubmitRequest

_DRAFT_WINDOWS = 8


def most_windows(manifest: Manifest) -> int:
    """The most runs with guesses that may be on their way in one answer of a model.

    Where positions are folded into a state, a stage can go back to where the last run began, and no further.
    """
    return 1 if manifest.folds_positions else _DRAFT_WINDOWS


@dataclass(frozen=True, kw_only=True)
class Placement:
    """The ring that a request was opened on, and what its stages are to know of it."""

    epoch: Epoch
    ring: tuple[str, ...]
    """Nodes of the stages, in order."""
    eos_ids: tuple[int, ...]
    begun_at: int
    """Position of the first token that this ring makes."""
    draft_tokens: int = 0
    """Most tokens to guess in one run."""
    draft_windows: int = 1
    """Most runs with guesses on their way."""
    prefix: tuple[str, int] | None = None
    """The ended request whose KV rows this one goes on from, and how many."""
    moved_tokens: int = 0
    """Positions whose KV rows came along from the ring before."""

    @classmethod
    def on(
        cls,
        plan: DeployedPlan,
        answer: Answer,
        *,
        draft_tokens: int,
        prefix: tuple[str, int] | None,
        moved_tokens: int,
    ) -> Placement:
        """An answer goes on, or begins, in a plan; ``draft_tokens`` as in `RequestScheduler`."""
        return cls(
            epoch=plan.epoch,
            ring=plan.nodes,
            eos_ids=plan.model.manifest.eos_ids,
            begun_at=answer.next_position,
            draft_tokens=draft_tokens if len(plan.nodes) > 1 else 0,  # one stage alone saves no hop by it
            draft_windows=most_windows(plan.model.manifest),
            prefix=prefix,
            moved_tokens=moved_tokens,
        )

    def open_messages(self, submit: SubmitRequest, answer: Answer, *, pipeline: str) -> list[tuple[str, OpenRequest]]:
        """(node, command) to open the request, by stage: from the last to the second, then stage 0, which begins at
        once."""
        known = (*answer.prompt.ids, *answer.tokens)
        last = len(self.ring) - 1
        commands = []
        for stage in range(last, -1, -1):
            wants_ids = stage == 0 or (stage == last and (submit.sampling.looks_back or self.draft_tokens > 0))
            commands.append((
                self.ring[stage],
                OpenRequest(
                    pipeline=pipeline,
                    epoch=self.epoch,
                    stage=stage,
                    request=submit.request,
                    prompt_tokens=answer.prompt_tokens,
                    max_tokens=answer.max_tokens,
                    prompt_ids=known if wants_ids else None,
                    sampling=submit.sampling if stage == last else None,
                    eos_ids=self.eos_ids if stage == last else (),
                    draft_tokens=self.draft_tokens if stage in (0, last) else 0,
                    draft_windows=self.draft_windows if stage == last else 1,
                    logprobs=submit.logprobs if stage == last else None,
                    has_grammar=submit.grammar is not None and stage == last,
                    prefix_request=self.prefix[0] if self.prefix else None,
                    prefix_tokens=self.prefix[1] if self.prefix else 0,
                    moved_tokens=self.moved_tokens,
                ),
            ))  # fmt: skip
        return commands
