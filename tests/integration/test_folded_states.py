"""Blocks that fold all positions into a state: the text is that of one session on every way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from broker.local_broker import LocalBroker
from edge_node.errors import SegmentUnusable
from edge_node.requests.checkpoints import Checkpoints
from edge_node.runtime.segment import Segment
from edge_node.work import StateCopies
from orchestrator.model.errors import UnsupportedModel
from orchestrator.model.model import Model
from orchestrator.model.store import ModelStore
from orchestrator.model.verify import Chain
from orchestrator.planning.moves import kv_migration
from schemas.messages import Sampling
from tests.support.in_process import converting_here
from tests.support.moves import PLANS, moving
from tests.support.nodes import NodeProcess, running_nodes
from tests.support.segments import open_segment
from tests.support.texts_on_nodes import (
    NAMES,
    OTHER,
    PROMPT,
    expect_a_replay_after_a_loss,
    expect_the_text_of_one_session,
)
from tests.support.tiny_models import make_checkpoint

SAMPLINGS = [Sampling(), Sampling(temperature=3.0, seed=1), Sampling(repetition_penalty=1.3)]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    """With a Qwen3.5 of three delta rules and one attention; it repeats itself, but not for long."""
    folder = tmp_path_factory.mktemp("qwen3_5")
    store = ModelStore(folder / "home")
    with converting_here():
        checkpoint = make_checkpoint("qwen3_5", folder / "qwen3_5", seed=1, spread=0.07)
        store.add(str(checkpoint), name="qwen3_5", precision="fp32", profile="exact")
    return store


@pytest.fixture(scope="module")
def model(store: ModelStore) -> Model:
    return store.open("qwen3_5")


@pytest.fixture
def segment(model: Model) -> Segment:
    """All of it, with room for three texts."""
    return open_segment(model, 0, model.manifest.num_units, slots=3)


def feed(
    segment: Segment, slot: int, position: int, ids: Sequence[int], copies: StateCopies | None = None
) -> NDArray[np.float32]:
    """Logits (ids, vocabulary) of tokens from a position on."""
    segment.ids_input(len(ids))[:] = ids
    return np.array(segment.run(slot, (position,), len(ids), logits=len(ids), copies=copies).output)


def expected(model: Model, ids: Sequence[int]) -> NDArray[np.float32]:
    """The same by one session, in one run."""
    return Chain(model).run(ids, range(len(ids)))


@pytest.mark.parametrize("lengths", [(8, 5), (1, 1, 11), (1,) * 13])
def test_runs_of_any_length_go_on_from_each_other(model: Model, segment: Segment, lengths: tuple[int, ...]) -> None:
    feed(segment, 1, 0, PROMPT[:16])  # what stood in the slot before must not show
    rows, position = [], 0
    for length in lengths:
        rows.append(feed(segment, 1, position, OTHER[position : position + length]))
        position += length
    np.testing.assert_allclose(np.concatenate(rows), expected(model, OTHER), atol=1e-4)


def test_a_text_goes_back_to_where_it_has_a_state_and_nowhere_else(model: Model, segment: Segment) -> None:
    states = Checkpoints()
    feed(segment, 0, 0, OTHER[:9], states.run(0, 9, 0))
    feed(segment, 0, 9, PROMPT[:4], states.run(9, 13, 0))  # guesses that turn out to be wrong
    got = feed(segment, 0, 9, OTHER[9:], states.run(9, 13, 0))
    np.testing.assert_allclose(got, expected(model, OTHER)[9:], atol=1e-4)
    with pytest.raises(
        SegmentUnusable, match=r"begin at position 11, and past_key_values\.0\.conv_state is that at 13"
    ):
        feed(segment, 0, 11, OTHER[11:], StateCopies(states.copy_at(13), 0))


def test_known_answers_and_neighbours_leave_a_text_alone(model: Model, segment: Segment) -> None:
    states = Checkpoints()
    feed(segment, 1, 0, OTHER[:9], states.run(0, 9, 0))
    segment.warm_up()
    for slot in (0, 2):
        feed(segment, slot, 0, PROMPT[:16])
    got = feed(segment, 1, 9, OTHER[9:], states.run(9, 13, 0))
    np.testing.assert_allclose(got, expected(model, OTHER)[9:], atol=1e-4)


def test_requests_are_not_computed_in_one_run(segment: Segment) -> None:
    segment.ids_input(2)[:] = OTHER[:2]
    with pytest.raises(SegmentUnusable, match="several requests can't be computed in one run"):
        segment.run(0, (0, 0), 1)


def test_a_prefix_is_copied_with_its_state(model: Model, segment: Segment) -> None:
    feed(segment, 0, 0, PROMPT[:8], StateCopies(None, 1))
    segment.copy_prefix(0, 2, 8, (1, 0))
    text = [*PROMPT[:8], *OTHER[:3]]
    got = feed(segment, 2, 8, OTHER[:3], StateCopies(0, 1))
    np.testing.assert_allclose(got, expected(model, text)[8:], atol=1e-4)


def test_steady_is_refused(store: ModelStore, model: Model) -> None:
    with pytest.raises(UnsupportedModel, match="into which dummies would go, too: take --profile exact"):
        model.segment(0, 2, "steady")
    with pytest.raises(UnsupportedModel, match="take --profile exact"):
        store.add(str(store.home.parent / "qwen3_5"), precision="fp32", profile="steady")


@pytest.fixture
def nodes(mosquitto: LocalBroker, tmp_path: Path) -> Iterator[dict[str, NodeProcess]]:
    """Slow ones: answers last longer than moves."""
    with running_nodes(NAMES, mosquitto.url, tmp_path, "--emulate-speed", "0.05") as running:
        yield running


def test_three_nodes_give_the_text_of_one_session(
    mosquitto: LocalBroker, nodes: dict[str, NodeProcess], model: Model
) -> None:
    expect_the_text_of_one_session(mosquitto.url, nodes, model)


def test_the_orchestrator_moves_answers_with_their_states(
    store: ModelStore, mosquitto: LocalBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Measured, planned, guessed and moved as a service does."""
    monkeypatch.setattr(kv_migration, "HOLD_S", -100.0)  # copies what could as well be computed again
    with moving(store, mosquitto, tmp_path, "abc", "--emulate-speed", "0.03", model="qwen3_5") as (fleet, _):
        fleet.apply(PLANS[0])
        undisturbed = fleet.read(SAMPLINGS, 80)
        moved = fleet.read_while_moving(SAMPLINGS, 80, 4)
        moves = fleet.moves()
    assert [ids for ids, _ in moved] == [ids for ids, _ in undisturbed]
    assert moves.last
    assert (moves.failed, moves.last.mode) == (0, "copy")
    assert moves.done >= 2


def test_an_answer_is_replayed_after_a_loss(
    mosquitto: LocalBroker, nodes: dict[str, NodeProcess], model: Model
) -> None:
    expect_a_replay_after_a_loss(mosquitto.url, nodes, model)
