"""Blocks that keep a convolution's inputs in place of keys and values: the text is that of one session on every way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from broker.local_broker import LocalBroker
from edge_node.runtime.fast_decode_runner import FastDecodeRunner
from edge_node.runtime.segment import Segment
from edge_node.work import Draw
from orchestrator.model.model import Model
from orchestrator.model.store import ModelStore
from orchestrator.model.verify import Chain
from schemas.messages import Sampling
from tests.support.in_process import converting_here
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


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """An LFM2 of two convolutions and two attentions, in turn; it repeats itself, but not for long."""
    folder = tmp_path_factory.mktemp("lfm2")
    store = ModelStore(folder / "home")
    with converting_here():
        checkpoint = make_checkpoint("lfm2", folder / "lfm2", spread=0.09)
        store.add(str(checkpoint), name="lfm2", precision="fp32", profile="exact")
    return store.open("lfm2")


@pytest.fixture
def segment(model: Model) -> Segment:
    """All of it, with room for three texts."""
    return open_segment(model, 0, model.manifest.num_units, slots=3)


def feed(segment: Segment, slot: int, position: int, ids: Sequence[int]) -> NDArray[np.float32]:
    """Logits (ids, vocabulary) of tokens from a position on."""
    segment.ids_input(len(ids))[:] = ids
    return np.array(segment.run(slot, (position,), len(ids), logits=len(ids)).output)


def expected(model: Model, ids: Sequence[int]) -> NDArray[np.float32]:
    """The same by one session that grows its cache, in one run."""
    return Chain(model).run(ids, range(len(ids)))


@pytest.mark.parametrize("lengths", [(8, 5), (1, 1, 11), (1,) * 13])
def test_runs_of_any_length_go_on_from_each_other(model: Model, segment: Segment, lengths: tuple[int, ...]) -> None:
    feed(segment, 1, 0, PROMPT[:16])  # what stood in the slot before must not show
    rows, position = [], 0
    for length in lengths:
        rows.append(feed(segment, 1, position, OTHER[position : position + length]))
        position += length
    np.testing.assert_allclose(np.concatenate(rows), expected(model, OTHER), atol=1e-4)


def test_a_text_goes_back_to_any_position(model: Model, segment: Segment) -> None:
    feed(segment, 0, 0, OTHER)
    for position in (9, 2, 1, 0):
        feed(segment, 0, position, PROMPT[:4])  # guesses that turn out to be wrong
        got = feed(segment, 0, position, OTHER[position:])
        np.testing.assert_allclose(got, expected(model, OTHER)[position:], atol=1e-4)


def test_texts_of_different_lengths_share_a_run(model: Model, segment: Segment) -> None:
    """With an idle one between them, whose next row a run may write over and over."""
    texts = (PROMPT[:9], OTHER, PROMPT[3:14])
    for slot, text in enumerate(texts):
        feed(segment, slot, 0, text[:-2])
    for step in (-2, -1):
        segment.ids_input(3)[:] = [texts[0][step], 0, texts[2][step]]
        positions = (len(texts[0]) + step, len(OTHER) - 2, len(texts[2]) + step)
        together = np.array(segment.run(0, positions, 1).output)
        for slot in (0, 2):
            np.testing.assert_allclose(together[slot], expected(model, texts[slot])[step], atol=1e-4)
    got = feed(segment, 1, len(OTHER) - 2, OTHER[-2:])
    np.testing.assert_allclose(got, expected(model, OTHER)[-2:], atol=1e-4)


def test_a_prefix_is_copied_up_to_any_position(model: Model, segment: Segment) -> None:
    feed(segment, 0, 0, PROMPT[:16])
    for count in (1, 2, 11):
        segment.copy_prefix(0, 2, count)
        text = [*PROMPT[:count], *OTHER[:3]]
        np.testing.assert_allclose(feed(segment, 2, count, text[count:]), expected(model, text)[count:], atol=1e-4)


def test_decode_steps_take_the_short_way(model: Model, segment: Segment) -> None:
    draw = Draw(Sampling(), 0, ())
    token = int(feed(segment, 1, 0, OTHER)[-1].argmax())
    got, runner = [token], FastDecodeRunner(segment, 1)
    for position in range(len(OTHER), len(OTHER) + 40):
        step: Any = SimpleNamespace(position=position, given=got[-1], copies=None, draw=lambda: draw)
        got.append(int(runner.step(step)[0]))
    assert segment.ready is not None
    assert got == Chain(model).greedy(OTHER, 41)


@pytest.fixture
def nodes(mosquitto: LocalBroker, tmp_path: Path) -> Iterator[dict[str, NodeProcess]]:
    """Slow ones: answers last longer than moves."""
    with running_nodes(NAMES, mosquitto.url, tmp_path, "--emulate-speed", "0.05") as running:
        yield running


def test_three_nodes_give_the_text_of_one_session(
    mosquitto: LocalBroker, nodes: dict[str, NodeProcess], model: Model
) -> None:
    expect_the_text_of_one_session(mosquitto.url, nodes, model)


def test_an_answer_is_replayed_after_a_loss(
    mosquitto: LocalBroker, nodes: dict[str, NodeProcess], model: Model
) -> None:
    expect_a_replay_after_a_loss(mosquitto.url, nodes, model)
