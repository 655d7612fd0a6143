"""What one token costs the orchestrator: a bound on what it touches, so that nobody sweeps the house for it again."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

from orchestrator.effects import Publish, SaveTokens
from orchestrator.events import TokensHeard
from tests.support.orchestrating import World, letter, make_submit, token_frame
from tests.support.repository import ROOT

MOST_FILES = 8
MOST_CALLS = 80


def test_a_token_touches_few_files_in_few_calls() -> None:
    world = World().serve("a", "b", "c")
    request = world.ask(make_submit(max_tokens=50))
    world.generate(request, 1)
    last = world.nodes[world.plan.ring[-1].node]
    position = world.position(request)
    frame = token_frame(request, last.open[request].epoch, position, [letter(position)])
    calls: list[str] = []

    def count(frame: FrameType, event: str, _: Any) -> None:
        if event == "call":
            calls.append(frame.f_code.co_filename)

    event = TokensHeard("main", last.name, frame)
    sys.setprofile(count)
    try:
        effects = world.core.handle(event, world.now_s)
        world.core.next_deadline_s()
    finally:
        sys.setprofile(None)
    assert [type(effect) for effect in effects] == [SaveTokens, Publish], "the piece of text"
    own = {name for name in calls if name.startswith(str(ROOT)) and "/tests/" not in name}
    assert len(calls) <= MOST_CALLS, len(calls)
    assert len(own) <= MOST_FILES, sorted(own)
