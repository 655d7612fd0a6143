"""Known answers of a model, and segments that are held against them."""

from __future__ import annotations

from edge_node.runtime.known_answers import SelfCheck
from edge_node.runtime.segment import Segment
from orchestrator.model.known_answers import KnownAnswers
from orchestrator.model.model import Model


def known_answers(model: Model) -> KnownAnswers:
    return KnownAnswers(model, lambda: None)


def check(model: Model, segment: Segment, start: int, stop: int) -> SelfCheck:
    return SelfCheck(segment, model.blobs_folder / known_answers(model).of(start, stop).sha256)
