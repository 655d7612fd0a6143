"""A draft model on real nodes: the text is that of a run without, in fewer rounds, wherever the last stage goes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from broker.local_broker import LocalBroker
from edge_node.runtime.draft_model import DraftModel
from edge_node.work import DraftWork, Draw
from orchestrator.model.model import Model
from orchestrator.model.verify import Chain
from schemas.messages import BlobRef, Epoch, Sampling
from tests.support.live_move import move
from tests.support.mqtt_proxy import MqttProxy
from tests.support.nodes import running_nodes
from tests.support.ring import Ring
from tests.support.segments import open_segment

NAMES = ("alfa", "bravo", "charlie")
CUTS = (0, 2, 4, 6)
PLAN = {"context_tokens": 256, "chunk_tokens": 8}
PROMPT = list(range(7, 40))
LINK_S = 0.01


@pytest.fixture
def far_apart(mosquitto: LocalBroker, tmp_path: Path, tiny_model: Model) -> Iterator[tuple[Ring, dict[str, Path]]]:
    """Nodes whose messages take a while, so that it pays to guess."""
    with MqttProxy(mosquitto.url) as proxy:
        proxy.up.delay_s = proxy.down.delay_s = LINK_S
        with (
            running_nodes(NAMES, proxy.url, tmp_path) as nodes,
            Ring(mosquitto.url, tiny_model) as ring,
        ):
            yield ring, {name: node.home for name, node in nodes.items()}


def test_the_text_is_the_same_in_fewer_rounds(far_apart: tuple[Ring, dict[str, Path]], tiny_model: Model) -> None:
    ring, homes = far_apart
    ring.deploy(homes, CUTS, **PLAN, draft=tiny_model)  # a model that is its own draft is right
    expected = Chain(tiny_model).greedy(PROMPT, 60)
    answer = ring.ask(PROMPT, 60, draft_tokens=6)
    assert answer.ids == expected
    assert answer.timings[1].decode_steps < 30
    sampling = Sampling(temperature=0.9, seed=5)
    drawn = ring.ask(PROMPT, 60, draft_tokens=6, sampling=sampling)
    assert drawn.ids == ring.ask(PROMPT, 60, sampling=sampling).ids
    assert drawn.ids != expected
    assert drawn.timings[1].decode_steps < 30


def test_it_goes_where_the_last_stage_goes(far_apart: tuple[Ring, dict[str, Path]], tiny_model: Model) -> None:
    ring, homes = far_apart
    ring.deploy(homes, CUTS, **PLAN)
    expected = Chain(tiny_model).greedy(PROMPT, 150)
    answer = ring.open(PROMPT, 150, draft_tokens=2)
    for count, order in ((5, ("bravo", "charlie", "alfa")), (15, ("bravo", "alfa", "charlie"))):
        ring.wait("tokens", lambda: len(answer.ids) >= count)  # noqa: B023
        move(ring, homes, order, CUTS, **PLAN, draft=tiny_model)
    assert not answer.finish, "the answer was over before the moves"
    ring.finish(answer)
    assert answer.ids == expected
    assert answer.timings[1].decode_steps < 130


def test_one_that_cannot_be_opened_is_left_out(
    far_apart: tuple[Ring, dict[str, Path]], tiny_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring, homes = far_apart
    junk = b"no graph"
    graph = BlobRef(sha256=hashlib.sha256(junk).hexdigest(), size_bytes=len(junk))
    folder = homes["charlie"] / "blobs"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / graph.sha256).write_bytes(junk)
    told = replace(Ring.told(tiny_model, 256), graph=graph)
    monkeypatch.setattr(Ring, "told", staticmethod(lambda draft, context_tokens: told))
    ring.deploy(homes, CUTS, **PLAN, draft=tiny_model)
    failures = {ready.node: ready.draft_failure for ready in ring.ready.values()}
    assert failures.pop("charlie")
    assert not any(failures.values())
    assert ring.ask(PROMPT, 20, draft_tokens=6).ids == Chain(tiny_model).greedy(PROMPT, 20)


def test_what_two_texts_have_in_common_is_computed_once(tiny_model: Model) -> None:
    segment = open_segment(tiny_model, 0, tiny_model.manifest.num_units, context_tokens=128, chunk_tokens=8)
    draft = DraftModel(segment)
    expected = Chain(tiny_model).greedy(PROMPT, 6)

    def guess(text: list[int]) -> tuple[int, int]:
        """The guess, and the number of positions that were computed for it."""
        work = DraftWork(("main", Epoch(generation=1, counter=1), 2), 0, text, Draw(Sampling(), len(text), ()))
        positions = 0
        while True:
            drafted = draft.run(work, vocab_size=tiny_model.manifest.vocab_size)
            assert not drafted.failure
            positions += drafted.count
            if drafted.token is not None:
                return drafted.token, positions

    assert guess(PROMPT) == (expected[0], len(PROMPT))
    assert guess([*PROMPT, expected[0]]) == (expected[1], 1)
    guess([*PROMPT, expected[0], 3, 4])
    assert guess([*PROMPT, *expected[:3]]) == (expected[3], 2), "what was guessed wrongly is computed anew"
    assert guess(PROMPT) == (expected[0], 1)
    draft.forget((0,))
    assert guess(PROMPT) == (expected[0], len(PROMPT))


def test_padding_of_its_vocabulary_is_never_guessed(tiny_model: Model) -> None:
    segment = open_segment(tiny_model, 0, tiny_model.manifest.num_units, context_tokens=128, chunk_tokens=8)
    work = DraftWork(("main", Epoch(generation=1, counter=1), 2), 0, PROMPT[:4], Draw(Sampling(), 4, ()))
    best = DraftModel(segment).run(work, vocab_size=tiny_model.manifest.vocab_size).token
    assert best
    within = DraftModel(segment).run(work, vocab_size=best).token
    assert within is not None
    assert within < best
