"""Layers move between real nodes in mid-answer, over a real broker, and nobody can tell from the text."""

from pathlib import Path

import pytest

from broker.local_broker import LocalBroker
from orchestrator.model.store import ModelStore
from orchestrator.planning.moves import kv_migration
from schemas.messages import Sampling
from tests.support.moves import PLANS, moving
from tests.support.nodes import running_nodes

SAMPLINGS = [Sampling(), Sampling(temperature=3.0, seed=1), Sampling(repetition_penalty=1.3, frequency_penalty=0.5)]
PROMPT_TOKENS = 6
TOKENS = 80


@pytest.mark.parametrize("mode", ["copy", "prefill"])
def test_the_text_is_that_of_an_undisturbed_run(
    tiny_store: ModelStore, mosquitto: LocalBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    monkeypatch.setattr(kv_migration, "HOLD_S", -100.0 if mode == "copy" else 100.0)
    with moving(tiny_store, mosquitto, tmp_path, "abc", "--emulate-speed", "0.03") as (fleet, _):
        fleet.apply(PLANS[0])
        undisturbed = fleet.read(SAMPLINGS, TOKENS)
        fleet.logprobs = 3
        moved = fleet.read_while_moving(SAMPLINGS, TOKENS, 4)
        moves = fleet.moves()
    assert [ids for ids, _ in moved] == [ids for ids, _ in undisturbed]
    for told, (ids, _), sampling in zip(fleet.told, moved, SAMPLINGS, strict=True):
        assert len(told) == len(ids)
        for one, token in zip(told, ids, strict=True):
            assert one.logprob is not None, "told through every move"
            assert len(one.top) == 3
            if sampling == Sampling():
                assert (one.top[0].token_id, one.top[0].logprob) == (token, one.logprob), "the likeliest"
    assert moves.done >= 2
    assert moves.last
    assert (moves.failed, moves.last.mode) == (0, mode)
    computed = max(stage.positions for _, stages in moved for stage in stages)
    if mode == "copy":
        most = PROMPT_TOKENS + TOKENS + 2 * moves.done
        assert computed <= most, "a token or two that were not heard yet, per move"
    else:
        assert moves.last.copied_bytes == 0


def test_a_node_that_joins_in_mid_answer_takes_layers_over(
    tiny_store: ModelStore, mosquitto: LocalBroker, tmp_path: Path
) -> None:
    with (
        moving(tiny_store, mosquitto, tmp_path, "a", "--emulate-speed", "0.01") as (fleet, _),
        running_nodes(["b"], mosquitto.url, tmp_path, "--drain-timeout", "0"),
    ):
        ((joined, stages),) = fleet.read([Sampling()], 230)
        assert {stage.node for stage in stages} == {"b"}
        ((undisturbed, _),) = fleet.read([Sampling()], 230)
        assert fleet.moves().done >= 1
    assert joined == undisturbed
