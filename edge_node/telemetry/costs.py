"""What lending a device costs its owner, and what came of it: bytes over its link, tokens of answers."""

from __future__ import annotations

from dataclasses import dataclass

from broker.bus import BusStats
from edge_node.core import NodeCore
from edge_node.storage.blob_store import BlobStore


@dataclass(frozen=True, slots=True)
class Costs:
    """Since the node started."""

    sent_bytes: int
    received_bytes: int
    """Over the connection to the broker, all headers included, and of blobs."""
    tokens: int
    """Of answers that the node had a part in."""


def costs_of(core: NodeCore, store: BlobStore, stats: BusStats) -> Costs:
    """What this node has cost by now."""
    return Costs(stats.wire_out, stats.wire_in + store.fetched_bytes, core.tokens)
