"""The decisions as operators are told of them."""

from __future__ import annotations

import math

from orchestrator.balancing.decision_log import Decision, DecisionLog, Verdict
from schemas.messages import DecisionsReply, PipelineDecisions, decode, encode


def test_a_move_that_open_requests_forbid_has_no_cost_and_can_be_told() -> None:
    log = DecisionLog()
    log.add(Decision(verdict=Verdict.STAY, reason="open requests can't be moved", cost_s=math.inf), 1.0)
    log.add(Decision(verdict=Verdict.STAY, reason="it does not pay", cost_s=2.5), 2.0)
    views = log.view(3.0)
    assert [view.cost_s for view in views] == [None, 2.5]
    assert [entry["cost_s"] for entry in log.as_dicts()] == [None, 2.5]
    reply = DecisionsReply(pipelines=(PipelineDecisions(pipeline="main", epoch=None, stays="", decisions=views),))
    assert decode(encode(reply), DecisionsReply) == reply
