"""What a small fleet is made of: a letter-by-letter tokenizer, a tiny manifest, births, and nodes that follow a script.

The answer's token at position p is the letter ``p % 26``, so every text can be told from positions alone.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from orchestrator.model.kv_rounding import KvRounding, LayerScales
from orchestrator.model.manifest import FORMAT, Blob, BoundaryInfo, LayerCache, Manifest, SamplingDefaults, Unit
from orchestrator.replanning.problem_builder import build_problem
from schemas import PACKAGE_VERSION, PROTOCOL_VERSION
from schemas.codec import Dtype, Frame, Kind, decode_frame, encode_frame, request_number
from schemas.messages import (
    ChatMessage,
    CloseRequest,
    CopyKv,
    Epoch,
    FinishKv,
    Heartbeat,
    HeldRequest,
    HoldRequests,
    KeepRequests,
    KvCopied,
    LoadFailureCode,
    NodeBirth,
    NodeProfile,
    OpenRequest,
    Plan,
    PrepareSegment,
    ProbeNode,
    RequestClosed,
    RequestsHeld,
    SegmentFailed,
    SegmentReady,
    StageMetrics,
    StageTiming,
    SubmitRequest,
    ToolFormat,
)

MB = 1 << 20
EOS = 2


VOCABULARY = 0x110000


class Letters:
    """A tokenizer whose ids are code points."""

    def encode(self, text: str) -> list[int]:
        return [ord(letter) for letter in text]

    tool_format: ToolFormat | None = "tagged"

    def encode_chat(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = ()) -> list[int]:
        return self.encode("".join(turn["content"] for turn in messages))

    def check_template(self) -> str:
        return ""

    def token_text(self, token_id: int) -> str:
        return chr(token_id)

    def stream(self) -> LetterStream:
        return LetterStream()


class LetterStream:
    def push(self, token_id: int) -> str:
        return chr(token_id) if token_id < 0xD800 else "\ufffd"  # as a tokenizer does with what it does not know

    def finish(self) -> str:
        return ""


def slowly_encoded(_letters: Letters, text: str) -> list[int]:
    """What `Letters.encode` returns, as late as from a slow machine: a second for a million letters."""
    time.sleep(len(text) / 1e6)
    return [ord(letter) for letter in text]


def letter(position: int) -> int:
    """The token at a position."""
    return ord("a") + position % 26


def answer_text(prompt_tokens: int, count: int) -> str:
    """The text of the first ``count`` tokens after a prompt."""
    return "".join(chr(letter(prompt_tokens + i)) for i in range(count))


def make_manifest(
    name: str = "tiny", *, blocks: int = 4, block_bytes: int = 10 * MB, max_context: int = 256, tied: bool = False
) -> Manifest:
    """A model whose embedding and head are 20 MB each (or once, when tied) and whose blocks share a table of 1 MB."""
    last = blocks + 1
    head = "e" if tied else "d"
    blobs = [Blob("7" * 64, MB, tuple(range(1, last)))]
    blobs += (
        [Blob("e" * 64, 20 * MB, (0, last))]
        if tied
        else [Blob("e" * 64, 20 * MB, (0,)), Blob("d" * 64, 20 * MB, (last,))]
    )
    blobs += [Blob(f"{unit:064x}", block_bytes, (unit,)) for unit in range(1, last)]
    units = [Unit(0, "embed", None, ("e" * 64,), 20 * MB, 0, 0)]
    units += [
        Unit(u, "block", u - 1, (f"{u:064x}", "7" * 64), block_bytes + MB, 20_000_000, 1024) for u in range(1, last)
    ]
    units.append(Unit(last, "head", None, (head * 64,), 20 * MB, 34_000_000, 0))
    return Manifest(
        format=FORMAT, version="0", name=name, source="test", fingerprint="0", family="llama", precision="int4",
        asked="auto", carried=1.0, position_bytes=0, profile="fast",
        vocab_size=VOCABULARY, max_context=max_context, logits_dtype="float32", kv_dtype="float32",
        inputs=("input_ids", "attention_mask"),
        boundaries=tuple(BoundaryInfo(unit, 64, "float32", 1) for unit in range(1, last + 1)),
        layers=tuple(LayerCache(layer, 2, 16, 16, 0, "float32", None) for layer in range(blocks)),
        units=tuple(units), blobs=tuple(blobs), bos_id=None, eos_ids=(EOS,), sampling=SamplingDefaults(),
        has_chat_template=True,
    )  # fmt: skip


def int8_in(*layers: int, step: float = 1.0) -> KvRounding:
    """Keys and values of these blocks of `make_manifest` in int8, of the others in halves."""
    return KvRounding(tuple(LayerScales(layer, 2, *[(step,) * 32] * 3) for layer in layers))


def make_birth(node: str, *, incarnation: int = 1, memory_mb: int | None = None, **changes: Any) -> NodeBirth:
    """A node of this version. By default it has room for one end and a block of `make_manifest`, or three blocks, but
    not for both ends: three such nodes are needed, two are too few."""
    birth = NodeBirth(
        node=node,
        incarnation=incarnation,
        protocol=PROTOCOL_VERSION,
        package_version=PACKAGE_VERSION,
        memory_bytes=0,
        overhead_bytes=50 * MB,
        storage_bytes=10_000 * MB,
        threads=1,
        speed_flops=1e10,
        hop_s=0.0003,
    )
    memory_bytes = _third_of_a_model(birth) if memory_mb is None else memory_mb * MB
    return replace(birth, memory_bytes=memory_bytes, **changes)


def room_for(*, embed: int = 0, block: float = 0, head: int = 0) -> int:
    """MB for so many units of `make_manifest` on a node."""
    problem = build_problem(
        make_manifest(), [make_birth("any", memory_mb=0)], context_tokens=256, slots=2, wire_dtype="fp16",
        chunk_tokens=128,
    )  # fmt: skip
    sizes = [problem.unit_memory_bytes(run) for run in problem.runs]
    units = sum(size * count for size, count in zip(sizes, (embed, block, head), strict=True))
    second_stage = problem.both_ends_bytes if embed and head else 0
    return int((problem.fixed_bytes(problem.devices[0]) + units + second_stage) / MB) + 1


def _third_of_a_model(birth: NodeBirth) -> int:
    problem = build_problem(make_manifest(), [birth], context_tokens=256, slots=2, wire_dtype="fp16", chunk_tokens=128)
    _, block, head = (problem.unit_memory_bytes(run) for run in problem.runs)
    return problem.fixed_bytes(problem.devices[0]) + head + block + MB // 4


def make_heartbeat(node: str, incarnation: int = 1) -> Heartbeat:
    return Heartbeat(
        node=node,
        incarnation=incarnation,
        uptime_s=1,
        rss_bytes=MB,
        peak_rss_bytes=MB,
        available_bytes=1000 * MB,
        blob_bytes=0,
    )


def make_submit(number: int = 1, prompt: str = "hello", **changes: Any) -> SubmitRequest:
    submit = SubmitRequest(
        client="cli", request=f"{number:016x}", messages=(ChatMessage(role="user", content=prompt),), max_tokens=8,
        patience_s=0.0,
    )  # fmt: skip
    return replace(submit, **changes)


def token_frame(request: str, epoch: Epoch, position: int, ids: Sequence[int], flags: int = 0) -> Frame:
    """A TOKENS frame as it comes out of the codec."""
    frame = Frame(
        kind=Kind.TOKENS, request=request_number(request), epoch=epoch, attempt=0, position=position,
        count=len(ids), dtype=Dtype.INT32, flags=flags, payload=struct.pack(f"<{len(ids)}i", *ids),
    )  # fmt: skip
    return decode_frame(encode_frame(frame))


@dataclass
class ScriptedNode:
    """Answers commands as a node does, without computing anything."""

    birth: NodeBirth
    alive: bool = True
    cant_run: str = ""
    """What it says it lacks when it is to measure itself."""
    refuses: str = ""
    """Why it can't load segments; empty when it can."""
    refuses_as: LoadFailureCode = "internal"
    silent: bool = False
    """Does not answer a prepare command."""
    draft_failure: str = ""
    """Why it can't use a draft model."""
    prepared: dict[Epoch, dict[int, PrepareSegment]] = field(default_factory=dict)
    """By epoch and stage."""
    open: dict[str, OpenRequest] = field(default_factory=dict)
    """By request: the newest command, on a node with two stages stage 0's."""
    stages: dict[str, set[int]] = field(default_factory=dict)
    """By request: the stages it is open on."""
    deaf: set[type] = field(default_factory=set)
    """Commands of a move that it does not answer."""
    tokens: dict[str, int] = field(default_factory=dict)
    """By request: prompt and answer as far as stage 0 knows them."""

    @property
    def name(self) -> str:
        return self.birth.node

    def react(self, command: Any) -> list[Any]:
        """Replies to a command."""
        match command:
            case ProbeNode():
                return [
                    NodeProfile(
                        node=self.name,
                        incarnation=self.birth.incarnation,
                        fingerprint=command.fingerprint,
                        failure=self.cant_run or "it follows a script",
                        code="unusable" if self.cant_run else "internal",
                    )
                ]
            case PrepareSegment() if self.refuses:
                failed = SegmentFailed(
                    node=self.name, incarnation=self.birth.incarnation, pipeline=command.pipeline,
                    epoch=command.epoch, code=self.refuses_as, reason=self.refuses,
                )  # fmt: skip
                return [failed]
            case PrepareSegment() if not self.silent:
                self.prepared.setdefault(command.epoch, {})[command.stage] = command
                return [self.ready(command)]
            case CopyKv() | HoldRequests() | FinishKv() if type(command) not in self.deaf:
                return [self.answer_move(command)]
            case OpenRequest() if command.stage in self.prepared.get(command.epoch, ()):
                known = self.open.get(command.request)
                if known is None or known.epoch != command.epoch:
                    self.stages[command.request] = set()
                self.open[command.request] = command
                self.stages[command.request].add(command.stage)
            case KeepRequests():
                gone = [request for request in self.open if request not in command.requests]
                return [reply for request in gone for reply in self.react(CloseRequest(request=request))]
            case CloseRequest() if command.request in self.open:
                del self.open[command.request]
                return [
                    RequestClosed(
                        request=command.request, timing=StageTiming(node=self.name, stage=stage, decode_steps=3)
                    )
                    for stage in sorted(self.stages.pop(command.request))
                ]
        return []

    def ready(self, command: PrepareSegment) -> SegmentReady:
        return SegmentReady(
            node=self.name, incarnation=self.birth.incarnation, pipeline=command.pipeline, epoch=command.epoch,
            stage=command.stage, rss_bytes=MB, peak_rss_bytes=MB, downloaded_bytes=0, load_s=0.1,
            draft_failure=self.draft_failure if command.draft else "",
        )  # fmt: skip

    def answer_move(self, command: CopyKv | HoldRequests | FinishKv) -> KvCopied | RequestsHeld:
        """The reply to a command of a move."""
        if isinstance(command, HoldRequests):
            held = []
            for request, opened in self.open.items():
                if opened.epoch == command.epoch:
                    tokens = self.tokens.get(request, opened.prompt_tokens)
                    held.append(HeldRequest(request=request, tokens=tokens, valid_tokens=tokens - 1))
            return RequestsHeld(
                node=self.name, pipeline=command.pipeline, epoch=command.epoch, requests=tuple(held)
            )  # fmt: skip
        return KvCopied(
            node=self.name, pipeline=command.pipeline, epoch=command.epoch, stage=command.stage,
            final=isinstance(command, FinishKv), sent_bytes=MB, took_s=0.1,
        )  # fmt: skip

    def held(self) -> tuple[StageMetrics, ...]:
        """The stages that it holds, for its heartbeat."""
        return tuple(
            StageMetrics(pipeline=command.pipeline, epoch=epoch, stage=stage)
            for epoch, stages in self.prepared.items()
            for stage, command in stages.items()
        )

    def follow(self, plan: Plan) -> None:
        """A plan is in force: forget older epochs of its pipeline and their requests."""
        self.prepared = {
            epoch: stages
            for epoch, stages in self.prepared.items()
            if epoch >= plan.epoch or any(stage.pipeline != plan.pipeline for stage in stages.values())
        }
        self.open = {request: o for request, o in self.open.items() if o.epoch in self.prepared}
