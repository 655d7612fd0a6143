"""What the last stages of a pipeline are told of answers that are bound to a form (pure)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from orchestrator.effects import Effect, command
from orchestrator.events import TokensHeard
from orchestrator.requests.session import Phase, Session
from orchestrator.requests.session_table import SessionTable
from orchestrator.requests.told_masks import ToldMasks
from schemas.messages import Epoch, MasksWanted

_STAGES = 8
"""Whose knowledge is remembered: the newest."""


class FormDesk:
    """Tells last stages which tokens may come next."""

    def __init__(self) -> None:
        self._told: OrderedDict[tuple[str, Epoch], ToldMasks] = OrderedDict()

    def opened(self, session: Session) -> list[Effect]:
        """Tell the last stage of a ring that the request was opened on."""
        if session.answer is None or session.answer.form is None:
            return []
        session.answer.form.reopened()
        return self._tell(session)

    def go_on(self, session: Session, heard: TokensHeard) -> list[Effect]:
        """Tell the last stage what may come behind the tokens that it has sent, along its guess, unless it knows."""
        assert session.answer
        is_newest = heard.frame.position + heard.frame.count == session.answer.next_position
        guess = heard.guess if is_newest and session.answer.knows(heard.guess) else ()
        return self._tell(session, guess=guess)

    def wanted(self, sessions: SessionTable, node: str, wanted: MasksWanted) -> list[Effect]:
        """Tell a last stage all that it has forgotten."""
        session = sessions.get(wanted.request)
        if session is None or session.phase is not Phase.OPEN or session.placement is None or session.answer is None:
            return []
        placement = session.placement
        since = wanted.position - session.answer.prompt_tokens
        if node != placement.ring[-1] or wanted.epoch != placement.epoch or since > len(session.answer.tokens):
            return []
        self._told.pop((node, placement.epoch), None)
        return self._tell(session, since=since)

    def _tell(self, session: Session, *, guess: Sequence[int] = (), since: int | None = None) -> list[Effect]:
        answer, placement = session.answer, session.placement
        if answer is None or placement is None or answer.form is None or answer.form.failure or answer.finish:
            return []
        node = placement.ring[-1]
        known = self._of(node, placement.epoch, answer.form.vocab_size)
        message = answer.form.tell(
            session.request, placement.epoch, prompt_tokens=answer.prompt_tokens, tokens=answer.tokens, guess=guess,
            known=known, since=since,
        )  # fmt: skip
        return [command(node, message)] if message else []

    def _of(self, node: str, epoch: Epoch, vocab_size: int) -> ToldMasks:
        found = self._told.get((node, epoch))
        if found is None:
            found = self._told[node, epoch] = ToldMasks(vocab_size)
            if len(self._told) > _STAGES:
                self._told.popitem(last=False)
        return found
