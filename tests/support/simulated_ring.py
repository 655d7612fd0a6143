"""A ring of node cores in memory: simulated time, a network that may lose, double and delay, and a fake model.

The fake model's token depends on every row of every stage's KV cache, so that a row computed from the wrong input, or
not at all, gives a wrong token. Runs have dummies behind them, whose rows are wrong. Layers that fold positions keep
one number of all of them.
"""

from __future__ import annotations

import functools
import heapq
import itertools
import random
import struct
import zlib
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from broker.topic_filters import matches
from edge_node.core import NodeCore
from edge_node.effects import (
    CopyPrefix,
    Effect,
    LoadSegment,
    Reply,
    SendFrame,
    SendKvRows,
    Subscribe,
    UnloadSegment,
    Unsubscribe,
    WriteKvRows,
)
from edge_node.stage.decode_fast_path import DecodeFastPath, LastStageFastPath
from edge_node.stage_spec import StageKey
from edge_node.wire.frames import kv_rows_frame
from edge_node.work import Computed, Drafted, DraftWork, Row, RowResult, Work
from schemas import messages
from schemas.codec import KV_HEADER_BYTES, Dtype, Flag, Frame, Kind, decode_frames, encode_frame, request_number
from schemas.messages import (
    BlobRef,
    CloseRequest,
    DraftModel,
    Epoch,
    FoldedState,
    KvCopied,
    KvLayer,
    OpenRequest,
    Plan,
    PrepareSegment,
    RequestClosed,
    RequestFailed,
    RequestsHeld,
    ResendTokens,
    Sampling,
    SegmentFailed,
    SegmentReady,
    StageRef,
    StageTiming,
)
from schemas.run_lengths import SPARE_POSITIONS
from schemas.topics import SEGMENT, TOKEN

PIPELINE = "main"
VOCABULARY = 1000
LATENCY_S = 0.001
_COMMAND_S = 0.002
_LOAD_S = 0.01
_TURN_S = 0.0001
_RESEND_S = 3.0
_GARBAGE = 0xDEADBEEF
_WORD = struct.Struct("<I")
_BLOB = BlobRef(sha256="0" * 64, size_bytes=1)
DRAFT = DraftModel(
    model="small", graph=_BLOB, blobs=(), kv_layers=(KvLayer(layer=0, kv_heads=1, key_dim=1, value_dim=1),),
    vocab_size=VOCABULARY, context_tokens=64,
)  # fmt: skip
"""What ``prepare_segment`` takes as ``draft``."""

Fate = Callable[[Frame, str], Sequence[float]]
"""(frame, topic) -> extra delays of its copies in seconds; none when it is lost."""


def deliver_once(frame: Frame, topic: str) -> Sequence[float]:
    """What a healthy broker does."""
    return (0.0,)


def mix(layer: int, rows: Sequence[int]) -> int:
    """What a layer makes of a position: a number that depends on all rows up to it."""
    return zlib.crc32(struct.pack(f"<{len(rows)}I", *rows), layer)


def prompt(length: int, seed: int = 0) -> list[int]:
    """Some prompt of this length."""
    return random.Random(seed).choices(range(1000), k=length)


def any_token(output: int) -> int:
    """The token that follows from what the last layer makes of a position."""
    return output % VOCABULARY


def reference_tokens(
    prompt_ids: Sequence[int], count: int, layers: int, token_of: Callable[[int], int] = any_token
) -> list[int]:
    """The right answer, computed without a ring."""
    rows: list[list[int]] = [[] for _ in range(layers)]
    pending = list(prompt_ids)
    tokens: list[int] = []
    while len(tokens) < count:
        for token in pending:
            value = token
            for layer in range(layers):
                rows[layer].append(value)
                value = mix(layer, rows[layer])
        pending = [token_of(value)]
        tokens += pending
    return tokens


def prepare_segment(
    ring: Sequence[str],
    stage: int,
    epoch: Epoch,
    *,
    cuts: Sequence[int] | None = None,
    slots: int = 4,
    context_tokens: int = 64,
    chunk_tokens: int = 8,
    folded: Sequence[int] = (),
    **changes: Any,
) -> PrepareSegment:
    """The command for one stage; the fake model's hidden state is one value wide, and so are its keys and values.

    ``cuts``: unit boundaries; without them each stage has one layer. The first and the last unit have none. ``folded``:
    the layers that fold all positions into a state.
    """
    cuts = cuts or [0, *range(2, len(ring) + 1), len(ring) + 2]
    layers = range(max(cuts[stage], 1) - 1, min(cuts[stage + 1], cuts[-1] - 1) - 1)
    fields: dict[str, Any] = {
        "pipeline": PIPELINE,
        "epoch": epoch,
        "stage": stage,
        "ring": tuple(
            StageRef(node=name, start=start, stop=stop) for name, start, stop in zip(ring, cuts, cuts[1:], strict=False)
        ),
        "model": "fake",
        "graph": _BLOB,
        "blobs": (),
        "blob_urls": ("http://127.0.0.1:9/blobs",),
        "kv_layers": tuple(_layer(layer, is_folded=layer in folded) for layer in layers),
        "width_in": 0 if stage == 0 else 1,
        "width_out": 0 if stage == len(ring) - 1 else 1,
        "vocab_size": VOCABULARY,
        "context_tokens": context_tokens,
        "slots": slots,
        "chunk_tokens": chunk_tokens,
        "wire_dtype": "fp32",
        "planned_bytes": 0,
        "draft": None,
    }
    if stage < len(ring) - 1:
        changes.pop("draft", None)
    return PrepareSegment(**(fields | changes))


def _layer(layer: int, *, is_folded: bool) -> KvLayer:
    if is_folded:
        state = FoldedState(name="recurrent_state", shape=(1,))
        return KvLayer(layer=layer, kv_heads=0, key_dim=0, value_dim=0, states=(state,))
    return KvLayer(layer=layer, kv_heads=1, key_dim=1, value_dim=1)


@dataclass
class SimulatedAnswer:
    """What the orchestrator's side saw of one request."""

    request: str
    prompt_ids: tuple[int, ...]
    prompt_tokens: int
    max_tokens: int
    options: dict[str, Any] = field(default_factory=dict)
    """For the last stage's OpenRequest."""
    tokens: dict[int, int] = field(default_factory=dict)
    finish: Flag = Flag.NONE
    first_token_s: float | None = None
    finished_s: float | None = None
    times_s: list[float] = field(default_factory=list)
    """When something came."""
    failures: list[RequestFailed] = field(default_factory=list)
    closed: list[RequestClosed] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Has the end arrived, and everything before it?"""
        return bool(self.finish) and len(self.ids) == len(self.tokens)

    @property
    def ids(self) -> list[int]:
        """Tokens from the first on, as far as there is no gap."""
        first = len(self.prompt_ids)
        return [self.tokens[p] for p in itertools.takewhile(self.tokens.__contains__, itertools.count(first))]

    def longest_gap_s(self, begin_s: float, end_s: float) -> float:
        """The longest time without a token between two times."""
        times_s = [at_s for at_s in self.times_s if begin_s <= at_s <= end_s]
        return max((later - earlier for earlier, later in itertools.pairwise(times_s)), default=0.0)

    @property
    def timings(self) -> dict[int, StageTiming]:
        """Figures by stage."""
        return {closed.timing.stage: closed.timing for closed in self.closed}


Rows = tuple[dict[int, int], dict[int, int]]
"""Keys and values by position."""
States = dict[tuple[int, int], tuple[int, int]]
"""Of a layer that folds positions, by slot and copy: the position and the number that all before it are folded into."""


def no_rows() -> defaultdict[int, Rows]:
    """A layer's KV cache by slot."""
    return defaultdict(lambda: ({}, {}))


class SimulatedNode:
    """A core, its fake segments and its place in time: one run at a time, as the service does it."""

    def __init__(
        self,
        name: str,
        *,
        position_s: float,
        watchdog_min_s: float,
        incarnation: int = 1,
        memory_bytes: int = 1 << 30,
        token_of: Callable[[int], int] = any_token,
    ) -> None:
        self.core = NodeCore(
            node=name, incarnation=incarnation, memory_bytes=memory_bytes, watchdog_min_s=watchdog_min_s
        )
        self.name = name
        self._token_of = token_of
        self.guess: Callable[[Sequence[int]], int] = lambda text: 0
        """What the draft model says to follow a text."""
        self.guess_s = position_s
        self.texts_drafted: list[list[int]] = []
        self.position_s = position_s
        """Compute time of one position."""
        self.patterns: set[str] = set()
        self.inbox: deque[tuple[str, int, str, Any]] = deque()
        """(topic, stage, sender, frame), or ("", 0, "", command)"""
        self.short_steps = 0
        """Steps that went through a lane."""
        self.busy = False
        self.caches: dict[StageKey, dict[int, defaultdict[int, Rows]]] = {}
        """By layer and slot."""
        self.states: dict[StageKey, dict[int, States]] = {}
        """Of the layers that fold positions."""
        self.runs: list[Work] = []
        self.computed: Counter[tuple[int, int, int]] = Counter()
        """How often (request, layer, position) was computed."""

    def compute(self, work: Work) -> Computed:
        """Run the fake model."""
        self.runs.append(work)
        for slot, position in work.idle:  # as in a batch: something is written where the slot's next row will be
            for rows in self.caches[work.key].values():
                for part in rows[slot]:
                    part[position] = _GARBAGE
        results = tuple(self._compute_row(work.key, row) for row in work.rows)
        return Computed(self.position_s * sum(row.count for row in work.rows), results)

    def run_draft(self, work: DraftWork) -> Drafted:
        """Have the fake draft model guess."""
        assert work.draw.position == len(work.ids)
        self.texts_drafted.append(list(work.ids))
        return Drafted(self.guess_s, 1, self.guess(work.ids))

    def step(self, fast_path: DecodeFastPath) -> tuple[bytes | int, float]:
        """Run the fake model for the step of a lane."""
        row = Row(fast_path.request, fast_path.slot, fast_path.attempt, fast_path.position, 1, sample=True)
        row.copies = fast_path.copies
        if isinstance(fast_path.given, int):
            row.ids = (fast_path.given,)
        else:
            row.frame = Frame(
                Kind.ACTIVATION, fast_path.request, fast_path.key[1], fast_path.attempt, fast_path.position, 1
            )
            row.frame.payload = fast_path.given
        if isinstance(fast_path, LastStageFastPath):
            row.draw = fast_path.draw()
        self.runs.append(Work(fast_path.key, (row,)))
        self.short_steps += 1
        result = self._compute_row(fast_path.key, row)
        assert result.payload is not None
        return result.tokens[0] if isinstance(fast_path, LastStageFastPath) else result.payload, self.position_s

    def load(self, effect: LoadSegment) -> None:
        """Share what the effect says, else begin empty."""
        spec = effect.spec
        old = self.caches.get(effect.heir_of, {}) if effect.heir_of else {}
        new = {layer.layer: old.get(layer.layer, no_rows()) for layer in spec.segment.kv_layers}
        assert not effect.same_segment or list(old) == list(new)
        states = self.states.get(effect.heir_of, {}) if effect.heir_of else {}
        self.states[spec.key] = {
            layer.layer: states.get(layer.layer, {}) for layer in spec.segment.kv_layers if layer.states
        }
        self.caches[spec.key] = new

    def unload(self, key: StageKey) -> None:
        """Forget a segment."""
        self.caches.pop(key, None)
        self.states.pop(key, None)

    def copy_prefix(self, effect: CopyPrefix) -> None:
        """Copy rows and states between slots."""
        for states in self.states[effect.key].values() if effect.copies else ():
            assert effect.copies
            states[effect.target, effect.copies[1]] = states[effect.source, effect.copies[0]]
        for rows in self.caches[effect.key].values():
            for source, target in zip(rows[effect.source], rows[effect.target], strict=True):
                target.clear()
                target.update((index, source[index]) for index in range(effect.count))

    def read_rows(self, message: SendKvRows) -> bytes:
        """Rows as frames."""
        frames = []
        for block in message.blocks:
            if block.copy is not None:
                position, number = self.states[message.key][block.layer][block.slot, block.copy]
                block, data = replace(block, position=position), _WORD.pack(number)
                frames.append(
                    kv_rows_frame(
                        block, message.epoch, message.number, heads=1, head_dim=1, dtype=Dtype.FP32, rows=data
                    )
                )
                continue
            rows = self.caches[message.key][block.layer][block.slot][block.part]
            data = b"".join(_WORD.pack(rows[block.position + index]) for index in range(block.count))
            frames.append(
                kv_rows_frame(block, message.epoch, message.number, heads=1, head_dim=1, dtype=Dtype.FP32, rows=data)
            )
        return b"".join(frames)

    def write_rows(self, write: WriteKvRows) -> None:
        """Rows of a frame."""
        if write.copy is not None:
            (number,) = _WORD.unpack_from(write.frame.payload, KV_HEADER_BYTES)
            self.states[write.key][write.header.layer][write.slot, write.copy] = write.frame.position, number
            return
        rows = self.caches[write.key][write.header.layer][write.slot][write.header.part]
        for index in range(write.frame.count):
            (rows[write.frame.position + index],) = _WORD.unpack_from(write.frame.payload, KV_HEADER_BYTES + 4 * index)

    @property
    def rows_run(self) -> list[Row]:
        """All rows computed, in order."""
        return [row for work in self.runs for row in work.rows]

    def _compute_row(self, key: StageKey, row: Row) -> RowResult:
        inputs = list(row.ids or ())[: row.count]
        folded = {}
        for layer, states in self.states[key].items():
            assert row.copies, "a run of folded states is told which"
            source = row.copies.source
            position, folded[layer] = (0, layer) if source is None else states[row.slot, source]
            assert position == row.position, "a run begins at another position than its state"
        if row.frame is not None:
            inputs = [_WORD.unpack_from(row.frame.payload, 4 * index)[0] for index in range(row.count)]
        outputs = []
        for parts in (cache[row.slot] for cache in self.caches[key].values()):
            for position in range(row.position + row.count, row.position + row.count + SPARE_POSITIONS):
                parts[0][position] = parts[1][position] = _GARBAGE
        for position, token in enumerate(inputs, row.position):
            value = token
            for layer, cache in self.caches[key].items():
                parts = cache[row.slot]
                parts[0][position] = parts[1][position] = value
                self.computed[row.request, layer, position] += 1
                if layer in folded:
                    value = folded[layer] = zlib.crc32(_WORD.pack(value), folded[layer])
                    continue
                value = mix(layer, [parts[index & 1][index] for index in range(position + 1)])
            outputs.append(value)
        for layer, number in folded.items():
            assert row.copies
            self.states[key][layer][row.slot, row.copies.target] = row.position + row.count, number
        if row.again:
            return RowResult()
        chosen: list[int] = []
        for index, output in enumerate(outputs[-row.logits :] if row.draw else ()):
            chosen.append(self._token_of(output))
            if index >= len(row.guess) or chosen[-1] != row.guess[index]:
                break
        return RowResult(payload=b"".join(map(_WORD.pack, outputs)), tokens=tuple(chosen))


class SimulatedRing:
    """Nodes, network, clock and the orchestrator's side of the protocol."""

    def __init__(
        self,
        stages: int,
        *,
        fate: Fate = deliver_once,
        position_s: float | Sequence[float] = 0.0005,
        watchdog_min_s: float = 1.0,
        short_ways: bool = True,
        **spec: Any,
    ) -> None:
        """``short_ways``: steps that are alone go through lanes."""
        costs_s = [position_s] * stages if isinstance(position_s, float) else list(position_s)
        self.now_s = 0.0
        self.fate = fate
        self._short_ways = short_ways
        self.nodes = {
            f"node{index}": SimulatedNode(f"node{index}", position_s=costs_s[index], watchdog_min_s=watchdog_min_s)
            for index in range(stages)
        }
        self.answers: dict[int, SimulatedAnswer] = {}
        self.ready: list[SegmentReady] = []
        self.failed: list[SegmentFailed] = []
        self.copied: list[KvCopied] = []
        self.held: list[RequestsHeld] = []
        self.unloaded: list[tuple[str, StageKey]] = []
        self.frames: Counter[Kind] = Counter()
        """Frames published, by kind."""
        self.longest_message_bytes = 0
        self.replays_taken = 0
        self.epoch = Epoch(generation=1, counter=0)
        self.ring: list[str] = []
        self.refs: tuple[StageRef, ...] = ()
        self._spec = spec
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._epochs = itertools.count(1)
        self._link_free_s: dict[str, float] = {}
        self.deploy(list(self.nodes))

    # --- time -------------------------------------------------------------------------------------------------

    def after(self, delay_s: float, action: Callable[[], None]) -> None:
        """Do something later."""
        heapq.heappush(self._events, (self.now_s + delay_s, next(self._order), action))

    def run(self, until: Callable[[], bool], limit_s: float = 600.0) -> None:
        """Let time pass until something holds."""
        end_s = self.now_s + limit_s
        while not until():
            deadlines = [d for node in self.nodes.values() if (d := node.core.next_deadline_s()) and not node.busy]
            next_s = min([event[0] for event in self._events[:1]] + deadlines, default=end_s)
            assert next_s < end_s, f"nothing comes of it within {limit_s} simulated seconds"
            self.now_s = max(self.now_s, next_s)
            while self._events and self._events[0][0] <= self.now_s:
                heapq.heappop(self._events)[2]()
            for node in self.nodes.values():
                self._turn(node)

    def settle(self, seconds: float = 0.5) -> None:
        """Let time pass."""
        done = []
        self.after(seconds, lambda: done.append(True))
        self.run(lambda: bool(done), seconds + 1.0)

    def _turn(self, node: SimulatedNode) -> None:
        """One round of the node's loop."""
        if node.busy:
            return
        is_idle = not node.core.has_work and not node.core.has_transfer
        if self._short_ways and is_idle and len(node.inbox) == 1 and self._step(node):
            return
        while node.inbox:
            _, stage, sender, frame = node.inbox.popleft()
            if not isinstance(frame, Frame):
                self._do(node, node.core.message(frame))
                continue
            before = self._attempt_of(node, frame)
            self._do(node, node.core.frame(PIPELINE, stage, sender, frame, self.now_s))
            if frame.kind is Kind.REPLAY:
                self.replays_taken += self._attempt_of(node, frame) != before
        self._do(node, node.core.tick(self.now_s))
        self._do(node, node.core.next_transfer(self.now_s))
        work = None
        while work is None and node.core.has_work:
            work, effects = node.core.next_work()
            self._do(node, effects)
        if work is None:
            if node.core.has_transfer:
                self.after(_TURN_S, lambda: None)
            elif node.core.drafts.waiting:
                self._draft(node)
            return
        result = node.compute(work)
        node.busy = True

        def finish() -> None:
            node.busy = False
            self._do(node, node.core.computed(work, result, self.now_s))

        self.after(result.compute_s, finish)

    def _draft(self, node: SimulatedNode) -> None:
        """A run of the draft model, as there is nothing else to do."""
        effects = node.core.drafts.turn(node.run_draft, self.now_s)
        node.busy = True

        def finish() -> None:
            node.busy = False
            self._do(node, effects)

        self.after(node.guess_s, finish)

    def _step(self, node: SimulatedNode) -> bool:
        """What arrived alone, the short way."""
        topic, _, _, frame = node.inbox[0]
        fast_path = node.core.fast_path(topic, encode_frame(frame), self.now_s) if isinstance(frame, Frame) else None
        if fast_path is None:
            return False
        node.inbox.clear()
        result, compute_s = node.step(fast_path)
        node.busy = True

        def finish() -> None:
            node.busy = False
            self._publish(node.name, fast_path.topic, fast_path.frame(result, self.now_s))
            fast_path.settle(compute_s, self.now_s)

        self.after(compute_s, finish)
        return True

    @staticmethod
    def _attempt_of(node: SimulatedNode, frame: Frame) -> int:
        stage = node.core._stages.get((PIPELINE, frame.epoch, 0))
        state = stage.requests.get(frame.request) if stage else None
        return state.driver.attempt if state and state.driver else -1

    # --- effects ----------------------------------------------------------------------------------------------

    def _do(self, node: SimulatedNode, effects: Sequence[Effect]) -> None:
        for effect in effects:
            match effect:
                case SendFrame():
                    self._publish(node.name, effect.topic, bytes(effect.data))
                case Reply():
                    self._reply(messages.decode(messages.encode(effect.message), type(effect.message)))
                case LoadSegment():
                    node.load(effect)
                    self.after(_LOAD_S, functools.partial(self._loaded, node, effect.spec.key))
                case Subscribe():
                    node.patterns.update(effect.patterns)
                    self.after(LATENCY_S, functools.partial(self._subscribed, node, effect.patterns))
                case Unsubscribe():
                    node.patterns.difference_update(effect.patterns)
                case CopyPrefix():
                    node.copy_prefix(effect)
                case SendKvRows():
                    self._publish(node.name, effect.topic, node.read_rows(effect))
                case WriteKvRows():
                    node.write_rows(effect)
                case UnloadSegment():
                    self.unloaded.append((node.name, effect.key))
                    node.unload(effect.key)

    def _subscribed(self, node: SimulatedNode, patterns: tuple[str, ...]) -> None:
        self._do(node, node.core.subscribed(patterns))

    def _loaded(self, node: SimulatedNode, key: Any) -> None:
        effects = node.core.loaded(key, rss_bytes=1, peak_rss_bytes=1, downloaded_bytes=0, load_s=0.0)
        self._do(node, effects)

    def _publish(self, sender: str, topic: str, data: bytes) -> None:
        assert (SEGMENT.match(topic) or TOKEN.match(topic) or {})["sender"] == sender
        self.longest_message_bytes = max(self.longest_message_bytes, len(data))
        if topic in self.nodes[sender].core.kept_topics:
            self.nodes[sender].inbox.extend((topic, 0, sender, frame) for frame in decode_frames(data))
            self.after(0.0, lambda: None)
        for frame in decode_frames(data):
            self.frames[frame.kind] += 1
            for extra_s in self.fate(frame, topic):
                self.after(LATENCY_S + extra_s, functools.partial(self._arrive, sender, topic, frame))

    def _arrive(self, sender: str, topic: str, frame: Frame) -> None:
        stage = int((SEGMENT.match(topic) or {}).get("stage", 0))
        for node in self.nodes.values():
            if any(matches(pattern, topic) for pattern in node.patterns):
                node.inbox.append((topic, stage, sender, frame))
        if TOKEN.match(topic):
            self._token(frame)

    # --- the orchestrator's side ------------------------------------------------------------------------------

    def _token(self, frame: Frame) -> None:
        answer = self.answers[frame.request]
        for index in range(frame.count):
            token = int.from_bytes(frame.payload[4 * index : 4 * index + 4], "little", signed=True)
            assert answer.tokens.setdefault(frame.position + index, token) == token, "a position changed its token"
        answer.times_s.append(self.now_s)
        if answer.first_token_s is None:
            answer.first_token_s = self.now_s
        answer.finish |= Flag(frame.flags)
        if answer.complete and answer.finished_s is None:
            answer.finished_s = self.now_s

    def _reply(self, message: Any) -> None:
        match message:
            case SegmentReady():
                self.ready.append(message)
            case SegmentFailed():
                self.failed.append(message)
            case RequestClosed():
                self.answers[request_number(message.request)].closed.append(message)
            case KvCopied():
                self.copied.append(message)
            case RequestsHeld():
                self.held.append(message)
            case RequestFailed():
                self.answers[request_number(message.request)].failures.append(message)

    def command(self, node: str, message: Any) -> None:
        """Send a command, or a plan, which arrives once and in order."""
        target = self.nodes[node]

        command = ("", 0, "", messages.decode(messages.encode(message), type(message)))
        self.after(_COMMAND_S, lambda: target.inbox.append(command))

    def deploy(self, ring: Sequence[str], **spec: Any) -> Epoch:
        """Prepare an epoch on these nodes and commit it when all are ready."""
        specs = self.prepare(ring, **spec)
        self.run(lambda: len(self.ready) == len(ring))
        self.commit(specs[0])
        return self.epoch

    def prepare(self, ring: Sequence[str], **spec: Any) -> list[PrepareSegment]:
        """Have all nodes load the next epoch's segments."""
        epoch = Epoch(generation=1, counter=next(self._epochs))
        self.ready.clear()
        specs = [prepare_segment(ring, stage, epoch, **(self._spec | spec)) for stage in range(len(ring))]
        for name, prepare in zip(ring, specs, strict=True):
            self.command(name, prepare)
        return specs

    def commit(self, spec: PrepareSegment) -> None:
        """The epoch is in force."""
        self.epoch, self.refs, self.ring = spec.epoch, spec.ring, [ref.node for ref in spec.ring]
        plan = Plan(
            pipeline=PIPELINE,
            epoch=spec.epoch,
            model="fake",
            context_tokens=64,
            slots=4,
            wire_dtype="fp32",
            ring=spec.ring,
        )
        for name in self.nodes:
            self.command(name, plan)

    def open(
        self,
        request: int,
        prompt_ids: Sequence[int],
        max_tokens: int,
        *,
        prompt_tokens: int | None = None,
        eos_ids: Sequence[int] = (),
        sampling: Sampling | None = None,
        draft_tokens: int = 0,
        draft_windows: int = 1,
        prefix_request: int | None = None,
        prefix_tokens: int = 0,
    ) -> SimulatedAnswer:
        """Open a request on every stage, the first one last, and ask for missed tokens now and then."""
        name = f"{request:016x}"
        prompt_tokens = len(prompt_ids) if prompt_tokens is None else prompt_tokens
        sampling = sampling or Sampling()
        options = {
            "sampling": sampling,
            "eos_ids": tuple(eos_ids),
            "draft_tokens": draft_tokens,
            "draft_windows": draft_windows,
        }
        answer = SimulatedAnswer(name, tuple(prompt_ids), prompt_tokens, max_tokens, options)
        self.answers[request] = answer
        prefix = None if prefix_request is None else f"{prefix_request:016x}"
        self.open_stages(answer, self.epoch, self.ring, prompt_ids, prefix_request=prefix, prefix_tokens=prefix_tokens)
        self._ask_for_missed_tokens(answer, -1)
        return answer

    def open_stages(
        self, answer: SimulatedAnswer, epoch: Epoch, ring: Sequence[str], ids: Sequence[int], **changes: Any
    ) -> None:
        """Open a request on every stage, the first one last; ``ids``: all that is known of it."""
        last = len(ring) - 1
        penalty = answer.options["sampling"].looks_back
        for stage in range(last, -1, -1):
            needs_ids = stage == 0 or (stage == last and (penalty or answer.options["draft_tokens"] > 0))
            message = OpenRequest(
                pipeline=PIPELINE,
                epoch=epoch,
                stage=stage,
                request=answer.request,
                prompt_tokens=answer.prompt_tokens,
                max_tokens=answer.max_tokens,
                prompt_ids=tuple(ids) if needs_ids else None,
                **(
                    answer.options
                    if stage == last
                    else {"draft_tokens": answer.options["draft_tokens"] if stage == 0 else 0}
                ),
                **changes,
            )
            self.command(ring[stage], message)

    def _ask_for_missed_tokens(self, answer: SimulatedAnswer, before: int) -> None:
        """When nothing new came for a while."""
        if answer.complete or answer.closed or answer.failures:
            return
        if len(answer.tokens) == before:
            first = len(answer.prompt_ids) + len(answer.ids)
            self.command(self.ring[-1], ResendTokens(request=answer.request, position=first))
        count = len(answer.tokens)
        self.after(_RESEND_S, lambda: self._ask_for_missed_tokens(answer, count))

    def close(self, answer: SimulatedAnswer) -> None:
        """Close a request on every stage of the ring and wait for the figures."""
        for name in dict.fromkeys(self.ring):
            self.command(name, CloseRequest(request=answer.request))
        self.run(lambda: len(answer.closed) == len(self.ring))

    # --- looking inside ---------------------------------------------------------------------------------------

    def positions_issued(self, answer: SimulatedAnswer) -> Counter[int]:
        """How often the first stage computed each position of a request."""
        counts: Counter[int] = Counter()
        for work in self.nodes[self.ring[0]].runs:
            for row in work.rows:
                if row.ids is not None and row.request == request_number(answer.request):
                    counts.update(range(row.position, row.position + row.count))
        return counts

    def computed(self) -> Counter[tuple[int, int, int]]:
        """How often each (request, layer, position) was computed, on all nodes."""
        return sum((node.computed for node in self.nodes.values()), Counter())

    def open_requests(self) -> int:
        """Slots in use on all nodes."""
        return sum(stage.open_requests for node in self.nodes.values() for stage in node.core.metrics())

    def frames_dropped(self) -> int:
        """On all nodes."""
        return sum(node.core.total_frames_dropped for node in self.nodes.values())
