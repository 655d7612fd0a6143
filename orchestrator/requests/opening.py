"""Opening a request on the stages of a ring, and asking them again (pure)."""

from __future__ import annotations

from orchestrator.deployment.plan import DeployedPlan
from orchestrator.effects import Effect, Note, SaveOpened, command
from orchestrator.requests.placement import Placement
from orchestrator.requests.session import Session
from schemas.messages import ResendTokens


def open_on(
    session: Session,
    plan: DeployedPlan,
    *,
    draft_tokens: int,
    prefix: tuple[str, int] | None = None,
    moved_tokens: int = 0,
) -> list[Effect]:
    """Let a plan's ring serve a request; arguments as in `Placement.on`."""
    answer = session.answer
    assert answer
    placement = Placement.on(plan, answer, draft_tokens=draft_tokens, prefix=prefix, moved_tokens=moved_tokens)
    session.open(placement)
    again = f", goes on after {len(answer.tokens)} tokens" if answer.tokens else ""
    again += f" with {moved_tokens} KV rows" if moved_tokens else ""
    text = f"{session.request} opened in epoch {plan.epoch}: prompt of {answer.prompt_tokens} tokens{again}"
    saved = SaveOpened(session.request, answer.prompt.model, answer.prompt.ids, str(plan.epoch))
    return [saved, Note(text), session.status(), *_open_stages(session, plan.pipeline)]


def ask_again(session: Session, pipeline: str, now_s: float) -> list[Effect]:
    """Ask the last stage for tokens that may have been missed."""
    assert session.answer
    assert session.placement
    session.resend.asked(now_s)
    # Nothing has come yet: a stage that was away may have missed the request. The others ignore the repetition.
    effects = _open_stages(session, pipeline) if session.in_prefill else []
    last = session.placement.ring[-1]
    ask = ResendTokens(request=session.request, position=session.answer.next_position)
    return [*effects, command(last, ask), *(command(last, message) for message in session.form_messages())]


def _open_stages(session: Session, pipeline: str) -> list[Effect]:
    return [command(node, message) for node, message in session.open_messages(pipeline=pipeline)]
