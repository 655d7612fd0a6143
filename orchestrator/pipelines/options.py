"""Options that all pipelines of a service are made with."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class PipelineOptions:
    """What all pipelines are made with. ``wanted``: how many a person asks for; None: as many as give most."""

    generation: int
    min_nodes: int
    max_queued: int
    blob_urls: tuple[str, ...]
    wanted: int | None = None
    balance: bool = True
    """Move layers when nodes become slower or quicker."""
