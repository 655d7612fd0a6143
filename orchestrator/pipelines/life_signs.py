"""What requests need of nodes, and what tokens say of them (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from orchestrator.pipelines.pipeline import Pipeline
from orchestrator.pipelines.token_rate import RateMeter


def needed(pipelines: Iterable[Pipeline]) -> frozenset[str]:
    """Names of the nodes whose rings have requests open."""
    rings = (one.active.plan.nodes for one in pipelines if one.active and one.requests.open_count)
    return frozenset(node for ring in rings for node in ring)


def at_work(pipelines: Iterable[Pipeline], rates: Mapping[str, RateMeter]) -> list[tuple[tuple[str, ...], float]]:
    """The nodes of each ring that gives tokens, and when the newest came: all had a part in it."""
    rings = ((one.active.plan.nodes, rates.get(one.name)) for one in pipelines if one.active)
    return [(tuple(nodes), rate.newest_s) for nodes, rate in rings if rate]
