"""What a request has cost on one stage."""

from __future__ import annotations

from dataclasses import dataclass

from schemas.messages import StageTiming


@dataclass(slots=True)
class RequestStats:
    """Figures of one request; they go along when the request moves to another stage of its node."""

    prefill_s: float = 0.0
    decode_s: float = 0.0
    decode_steps: int = 0
    busy_s: float = 0.0
    positions: int = 0
    frames_out: int = 0
    bytes_out: int = 0
    decode_bytes_out: int = 0
    frames_dropped: int = 0

    def computed(self, positions: int, compute_s: float, rows: int, *, decode: bool) -> None:
        """Count a run of ``rows`` rows, one of them the request's: it waited for the whole run, and used its share."""
        self.positions += positions
        self.busy_s += compute_s / rows
        if decode:
            self.decode_s += compute_s
            self.decode_steps += 1
        else:
            self.prefill_s += compute_s

    def sent(self, size_bytes: int, *, decode: bool) -> None:
        """Count a frame that was sent."""
        self.frames_out += 1
        self.bytes_out += size_bytes
        if decode:
            self.decode_bytes_out += size_bytes

    def stepped(self, compute_s: float, size_bytes: int) -> None:
        """Count a decode step that was alone in its run, and its frame: ``computed`` and ``sent`` in one call."""
        self.positions += 1
        self.busy_s += compute_s
        self.decode_s += compute_s
        self.decode_steps += 1
        self.frames_out += 1
        self.bytes_out += size_bytes
        self.decode_bytes_out += size_bytes

    def timing(self, node: str, stage: int) -> StageTiming:
        """The figures as a message."""
        return StageTiming(
            node=node,
            stage=stage,
            prefill_s=self.prefill_s,
            decode_s=self.decode_s,
            decode_steps=self.decode_steps,
            busy_s=self.busy_s,
            positions=self.positions,
            frames_out=self.frames_out,
            bytes_out=self.bytes_out,
            decode_bytes_out=self.decode_bytes_out,
            frames_dropped=self.frames_dropped,
        )
