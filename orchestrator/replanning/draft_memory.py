"""How much memory a draft model takes on the node of the last stage (pure).

It is a whole model in a session of its own: the code is there, what the heap keeps comes once more. It is loaded when
the stage is there, and has a slot for each of its requests.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from orchestrator.model.manifest import Manifest
from orchestrator.model.served_draft import draft_context
from orchestrator.planning.unit_run import UnitRun
from orchestrator.replanning.memory_model import (
    SECOND_SESSION_BYTES,
    SESSION_BYTES,
    PeakBytes,
    UnitSizes,
    common_bytes,
    transient_bytes,
    workspace_bytes,
)


@dataclass(frozen=True)
class DraftMemory:
    """What a draft model takes: resident, without its KV caches, which count by token and slot, and on disk."""

    peak: PeakBytes
    kv_bytes_per_token: int
    disk_bytes: int

    @classmethod
    def of(cls, manifest: Manifest, *, context_tokens: int, slots: int, chunk_tokens: int) -> DraftMemory:
        """Of a draft model beside a stage that serves so many texts of so many positions."""
        context_tokens = draft_context(manifest, context_tokens)
        sizes = UnitSizes.of(manifest, context_tokens=context_tokens, slots=slots)
        workspace = workspace_bytes(manifest, chunk_tokens=chunk_tokens, context_tokens=context_tokens, slots=slots)
        session = workspace - SESSION_BYTES + SECOND_SESSION_BYTES
        fixed = session + common_bytes(manifest) + transient_bytes(manifest, max(sizes.disk_bytes[1:-1]))
        return cls(
            PeakBytes(fixed + sum(peak.loading for peak in sizes.all), fixed + sum(peak.serving for peak in sizes.all)),
            manifest.kv_bytes_per_token,
            manifest.weight_bytes,
        )

    def beside(self, head: UnitRun) -> UnitRun:
        """A head with the draft model: loaded one after the other, then both there."""
        return replace(
            head,
            weight_bytes=head.weight_bytes + self.peak.serving,
            loading_bytes=max(head.loading_bytes, head.weight_bytes + self.peak.loading),
            kv_bytes_per_token=head.kv_bytes_per_token + self.kv_bytes_per_token,
            disk_bytes=head.stored_bytes + self.disk_bytes,
            without_draft=head,
        )
