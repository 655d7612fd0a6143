"""KV rows that a stage sends to stages of the epoch to be, while it goes on decoding (pure).

Rows are sent in order, block by block: some positions of one request, of every layer and part that a target wants.
Only rows that will not be written again are sent; where the stage goes back nevertheless (a replay), they are sent
again. Folded states change with each step, so they follow when decoding is held: of the last position that a run can
begin at. Each message has a number, which the target acknowledges, so that a slow link holds a few messages at most and
frames of tokens do not wait behind many. The order on a connection makes a later acknowledgement stand for a lost one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from edge_node.effects import Effect, KvBlock, Reply, SendKvRows
from edge_node.requests.request import StageRequest
from edge_node.stage_spec import StageSpec
from edge_node.wire.topics import StageTopics
from schemas.codec import HEADER_BYTES, KV_HEADER_BYTES, VALUE_BYTES, kept_dtype, request_number
from schemas.messages import CopyKv, Epoch, FinishKv, KvCopied, KvLayer, KvTarget
from schemas.segment_tensors import STATE_PIECE_VALUES, cache_parts, state_pieces
from schemas.units import has_layer

_MESSAGE_BYTES = 64 * 1024
_MAX_BLOCKS = 512
"""Frames in a message, half of what a message may have."""
_SMALLEST_WINDOW, _LARGEST_WINDOW = 4, 16
"""Messages without an acknowledgement. Mosquitto lets 20 of QoS 1 be on their way to a client; what waits behind them,
a request's opening too, is overtaken by frames of QoS 0."""
_QUICK_S = 0.2
"""The window grows as long as acknowledgements come within this time."""
_MESSAGES_PER_TURN = 4
_BLOCK_POSITIONS = 256
_FEW_POSITIONS = 4
_PIECE_BYTES = 4 * STATE_PIECE_VALUES


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of what a layer keeps of each position: its keys, for example."""

    layer: int
    part: int
    row_bytes: int


@dataclass(slots=True)
class _Cursor:
    """The block being sent: positions [start, stop) of a request; parts before ``part`` and ``done`` of it are sent."""

    request: int
    start: int
    stop: int
    part: int = 0
    done: int = 0


@dataclass(slots=True)
class _Copy:
    """The copy to one target: what has been sent, and what has been acknowledged."""

    target: KvTarget
    parts: tuple[_Part, ...]
    message_bytes: int
    sent: dict[int, int] = field(default_factory=dict)
    """Positions by request."""
    messages: int = 0
    window: int = _SMALLEST_WINDOW
    cursor: _Cursor | None = None
    pieces: deque[KvBlock] = field(default_factory=deque)
    """Of folded states, to be sent."""
    _sent_s: deque[float] = field(default_factory=deque)
    """When the messages that are not acknowledged were sent."""

    @property
    def has_room(self) -> bool:
        """May another message be on its way?"""
        return len(self._sent_s) < self.window

    def message_sent(self, now_s: float) -> None:
        """Note that one more message is on its way."""
        self.messages += 1
        self._sent_s.append(now_s)

    def acknowledge(self, messages: int, now_s: float) -> None:
        """Note that the target has taken so many messages in. A slow link or target gets the next with less haste."""
        while self.messages - len(self._sent_s) < messages:
            is_quick = now_s - self._sent_s.popleft() < _QUICK_S
            self.window = min(self.window + 1, _LARGEST_WINDOW) if is_quick else _SMALLEST_WINDOW

    def follow(self, lengths: Mapping[int, int]) -> None:
        """Note how many positions each request has now; some may have gone back or ended."""
        self.sent = {request: min(self.sent.get(request, 0), length) for request, length in lengths.items()}
        if self.cursor and self.cursor.stop > lengths.get(self.cursor.request, 0):
            self.cursor = None

    def computed_again(self, request: int, start: int) -> None:
        """Note that a request's rows from a position on are others by now."""
        if self.sent.get(request, 0) > start:
            self.sent[request] = start
        if self.cursor and self.cursor.request == request and self.cursor.stop > start:
            self.cursor = None

    def behind(self, lengths: Mapping[int, int]) -> int:
        """The most positions by which the target lacks rows of one request; 0 where it wants none."""
        if not self.parts:
            return 0
        return max((length - self.sent[request] for request, length in lengths.items()), default=0)

    def next_blocks(self, lengths: Mapping[int, int], slots: Mapping[int, int]) -> tuple[KvBlock, ...]:
        """The rows of the next message."""
        blocks: list[KvBlock] = []
        room_bytes = self.message_bytes
        while len(blocks) < _MAX_BLOCKS:
            cursor = self.cursor = self.cursor or self._begin(lengths)
            if cursor is None:
                break
            part = self.parts[cursor.part]
            room_bytes -= HEADER_BYTES + KV_HEADER_BYTES
            fits = room_bytes // part.row_bytes
            if fits < 1 and blocks:
                break
            position = cursor.start + cursor.done
            count = min(max(fits, 1), cursor.stop - position)
            blocks.append(KvBlock(cursor.request, slots[cursor.request], part.layer, part.part, position, count))
            room_bytes -= count * part.row_bytes
            self._advance(cursor, count)
        return tuple(blocks)

    def next_pieces(self) -> tuple[KvBlock, ...]:
        """The pieces of states of the next message."""
        fits = max(1, self.message_bytes // (HEADER_BYTES + KV_HEADER_BYTES + _PIECE_BYTES))
        return tuple(self.pieces.popleft() for _ in range(min(fits, len(self.pieces))))

    def _begin(self, lengths: Mapping[int, int]) -> _Cursor | None:
        """Begin a block of the request that is furthest behind; None where none is."""
        request = max(lengths, key=lambda number: lengths[number] - self.sent[number], default=None)
        if request is None or lengths[request] <= self.sent[request]:
            return None
        start = self.sent[request]
        return _Cursor(request, start, min(lengths[request], start + _BLOCK_POSITIONS))

    def _advance(self, cursor: _Cursor, count: int) -> None:
        cursor.done += count
        if cursor.start + cursor.done == cursor.stop:
            cursor.part, cursor.done = cursor.part + 1, 0
        if cursor.part == len(self.parts):
            self.sent[cursor.request] = cursor.stop
            self.cursor = None


class KvSender:
    """Sends a stage's KV rows, from the command to copy until its epoch is over or the move is given up."""

    def __init__(self, command: CopyKv, spec: StageSpec, *, value_bytes: int) -> None:
        self._command = command
        self._spec = spec
        self._topics = StageTopics(spec)
        message_bytes = min(_MESSAGE_BYTES, spec.max_message_bytes)
        copies = [_Copy(target, _parts(target, spec, value_bytes), message_bytes) for target in command.targets]
        self._copies = [copy for copy in copies if copy.parts or _folded(copy.target, spec)]
        self._wanted = [(copy, _folded(copy.target, spec)) for copy in self._copies]
        """The layers whose folded states each target wants."""
        self._queued: set[int] = set()
        """The requests whose states have been sent, or are about to be."""
        self._held: dict[int, int] | None = None
        """How far to send each request, once decoding is held."""
        self._told = False
        """The newest of the two replies has been sent."""
        self._began_s: float | None = None
        self._sent_bytes = 0

    @property
    def to_epoch(self) -> Epoch:
        """The epoch whose stages are sent the rows."""
        return self._command.to_epoch

    def finish(self, message: FinishKv) -> None:
        """Send the rest in haste: decoding is held, so nothing is delayed by it."""
        for copy in self._copies:
            copy.window = _LARGEST_WINDOW
        self._held = {request_number(held.request): held.valid_tokens for held in message.requests}
        self._told = False

    def acknowledged(self, sender: str, stage: int, messages: int, now_s: float) -> bool:
        """Take in an acknowledgement; False if its sender is no target."""
        for copy in self._copies:
            if (copy.target.node, copy.target.stage) == (sender, stage) and messages <= copy.messages:
                copy.acknowledge(messages, now_s)
                return True
        return False

    def _lengths(self, requests: Mapping[int, StageRequest]) -> dict[int, int]:
        """How many positions of each request can be sent now."""
        if self._held is None:
            return {number: state.final_length for number, state in requests.items()}
        return {
            number: min(state.rule.valid_length, self._held[number])
            for number, state in requests.items()
            if number in self._held
        }

    def is_due(self, requests: Mapping[int, StageRequest]) -> bool:
        """Is there something to send, or to report?"""
        lengths = self._now(requests)
        return self._next_copy(lengths) is not None or self._has_news(lengths)

    def _now(self, requests: Mapping[int, StageRequest]) -> dict[int, int]:
        """How many positions of each request there are to be sent by now, with all that changed since the last time."""
        self._queue_states(requests)
        self._look_back(requests)
        return self._lengths(requests)

    def _look_back(self, requests: Mapping[int, StageRequest]) -> None:
        """Look for rows that were computed again: there were wrong guesses, in windows behind the one that says so."""
        for number, state in requests.items():
            for copy in self._copies:
                copy.computed_again(number, state.rule.lowest_start)
            state.rule.lowest_start = state.rule.valid_length

    def _queue_states(self, requests: Mapping[int, StageRequest]) -> None:
        """Note what is to be sent of requests that are held and have come to where they are."""
        for number in self._held.keys() - self._queued if self._held else ():
            state = requests.get(number)
            assert self._held
            if state is None or state.states is None or state.rule.valid_length < self._held[number]:
                continue
            self._queued.add(number)
            position = state.states.before(self._held[number])
            number_of_copy = state.states.copy_at(position)
            if number_of_copy is None:
                continue
            for copy, layers in self._wanted:
                copy.pieces.extend(
                    KvBlock(number, state.slot, layer.layer, piece, position, 1, number_of_copy)
                    for layer in layers
                    for piece in range(len(state_pieces(layer)))
                )

    def _next_copy(self, lengths: Mapping[int, int]) -> _Copy | None:
        """The target that has waited longest of those with something to send and room for it."""
        for copy in self._copies:
            copy.follow(lengths)
        ready = [copy for copy in self._copies if copy.has_room and (copy.behind(lengths) or copy.pieces)]
        return min(ready, key=lambda copy: copy.messages, default=None)

    def _has_news(self, lengths: Mapping[int, int]) -> bool:
        if self._told:
            return False
        if self._held is None:
            return all(copy.has_room and copy.behind(lengths) <= _FEW_POSITIONS for copy in self._copies)
        complete = all(length == self._held[request] for request, length in lengths.items())
        return complete and not any(copy.behind(lengths) or copy.pieces for copy in self._copies)

    def next_effects(self, requests: Mapping[int, StageRequest], now_s: float) -> list[Effect]:
        """A few messages of rows, and a report when one is due."""
        if self._began_s is None:
            self._began_s = now_s
        effects: list[Effect] = []
        lengths = self._now(requests)
        while len(effects) < _MESSAGES_PER_TURN and (copy := self._next_copy(lengths)) is not None:
            effects.append(self._message(copy, lengths, requests))
            copy.message_sent(now_s)
        if self._has_news(lengths):
            self._told = True
            effects.append(Reply(self._news(now_s - self._began_s)))
        return effects

    def _message(self, copy: _Copy, lengths: Mapping[int, int], requests: Mapping[int, StageRequest]) -> SendKvRows:
        command, target = self._command, copy.target
        slots = {number: requests[number].slot for number in lengths}
        if copy.behind(lengths):
            blocks = copy.next_blocks(lengths, slots)
            row_bytes = {(part.layer, part.part): part.row_bytes for part in copy.parts}
            self._sent_bytes += sum(block.count * row_bytes[block.layer, block.part] for block in blocks)
        else:
            blocks = copy.next_pieces()
            self._sent_bytes += len(blocks) * _PIECE_BYTES
        return SendKvRows(
            self._spec.key,
            self._topics.of(command.to_epoch, target.stage, target.node),
            command.to_epoch,
            copy.messages + 1,
            blocks,
        )

    def _news(self, took_s: float) -> KvCopied:
        command = self._command
        return KvCopied(
            node=self._spec.node,
            pipeline=command.pipeline,
            epoch=command.epoch,
            stage=command.stage,
            final=self._held is not None,
            sent_bytes=self._sent_bytes,
            took_s=took_s,
        )


def _folded(target: KvTarget, spec: StageSpec) -> list[KvLayer]:
    """The target's layers with folded states, as far as this stage has them."""
    return [layer for layer in spec.segment.kv_layers if layer.states and has_layer(target, layer.layer)]


def _parts(target: KvTarget, spec: StageSpec, value_bytes: int) -> tuple[_Part, ...]:
    """What the target's layers keep, as far as this stage has them; ``value_bytes``: of a value that is not rounded."""
    return tuple(
        _Part(layer.layer, number, part.heads * part.dim * (VALUE_BYTES[rounded] if rounded else value_bytes))
        for layer in spec.segment.kv_layers
        if has_layer(target, layer.layer)
        for rounded in (kept_dtype(layer),)
        for number, part in enumerate(cache_parts(layer))
    )
