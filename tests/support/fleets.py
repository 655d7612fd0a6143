"""Fleets with round figures, for tests of words and of time."""

from __future__ import annotations

from orchestrator.planning.problem import Device, Problem
from orchestrator.planning.unit_run import UnitRun

MB = 10**6


def device(name: str, block_ms: float, memory_mb: int, hop_ms: float = 1.0, storage_mb: int | None = None) -> Device:
    """A device whose head takes as long as two blocks; prompts go four times as fast per token."""
    block_s = block_ms / 1e3
    decode_s = (0.0, block_s, 2 * block_s)
    return Device(
        name=name,
        memory_bytes=memory_mb * MB,
        decode_s=decode_s,
        prefill_s=tuple(figure / 4 for figure in decode_s),
        hop_s=hop_ms / 1e3,
        storage_bytes=None if storage_mb is None else storage_mb * MB,
    )


def fleet(*devices: Device, blocks: int = 10) -> Problem:
    """10 blocks of 100 MB between ends of 100 MB: 1.2 GB in all."""
    runs = (
        UnitRun("embed", 0, 1, 100 * MB),
        UnitRun("block", 1, blocks, 100 * MB, flops_per_token=1e8),
        UnitRun("head", blocks + 1, 1, 100 * MB, flops_per_token=2e8),
    )
    return Problem(runs, devices, context_tokens=100, prompt_tokens=64, prefill_chunk_tokens=64)
