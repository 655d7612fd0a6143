"""Which requests and frames a stage takes, and how a request begins there (pure)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from edge_node.migration.handover import Taken
from edge_node.requests.checkpoints import Checkpoints
from edge_node.requests.draft_guesses import DraftGuesses
from edge_node.requests.draft_record import DraftRecord
from edge_node.requests.guess_marks import GuessMarks
from edge_node.requests.guesser import Guesser
from edge_node.requests.kv_slots import Grant, SlotTable
from edge_node.requests.prompt_lookup import PromptLookup
from edge_node.requests.request import StageRequest
from edge_node.requests.ring_driver import RingDriver
from edge_node.requests.round_times import RoundTimes
from edge_node.stage_spec import SegmentSpec, StageSpec
from edge_node.work import MAX_LOGITS
from schemas.codec import (
    HEADER_BYTES,
    VERIFY,
    Frame,
    frames_per_message,
    logprobs_bytes,
    request_number,
    rows_per_message,
)
from schemas.limits import MAX_GUESSED_WINDOWS
from schemas.messages import OpenRequest, RequestFailureCode

_MAX_RESENT_TOKENS = 4096
_TOKEN_BYTES = 4


def refuse(message: OpenRequest, spec: StageSpec) -> tuple[RequestFailureCode, str] | None:
    """Why the stage can't serve a request, for programs and for people; None where it can."""
    known = len(message.prompt_ids or ())
    context_tokens, vocab_size = spec.segment.context_tokens, spec.segment.vocab_size
    if max(message.prompt_tokens, known) >= context_tokens:
        return "too_long", f"the prompt has {message.prompt_tokens} tokens, the plan's context {context_tokens}"
    if any(token >= vocab_size for token in message.prompt_ids or ()):
        return "internal", f"the prompt has a token outside the vocabulary of {vocab_size}"
    looks_back = message.sampling is not None and message.sampling.looks_back
    needs_prompt = spec.is_first or looks_back or message.draft_tokens > 0
    if needs_prompt and (not known or known < message.prompt_tokens):
        return "internal", f"stage {spec.stage} was not given the prompt"
    return None


def find_slot(message: OpenRequest, taken: Taken, slots: SlotTable, make_room: Callable[[], bool]) -> Grant | None:
    """The request's slot: the one it has in the epoch before, else a new one. None when every slot is in use.

    ``make_room`` frees the slot of a request that was sent rows but is not open.
    """
    if taken.slot is not None:
        return Grant(taken.slot, taken.valid_length, states=taken.states)
    prefix = request_number(message.prefix_request) if message.prefix_request else None
    # At least two positions are left to compute: one alone would take another path through attention.
    grant = slots.take(prefix, min(message.prefix_tokens, max(message.prompt_tokens - 2, 0)))
    if grant is None and make_room():
        grant = slots.take(None, 0)
    return grant and replace(grant, valid_length=max(grant.valid_length, taken.valid_length))


def new_request(
    message: OpenRequest,
    spec: StageSpec,
    grant: Grant,
    *,
    before: StageRequest | None,
    watchdog_min_s: float,
    times: RoundTimes,
    record: DraftRecord,
) -> StageRequest:
    """The state of a request on this stage; ``before`` is its state on the old stage, where it goes on from one.

    ``times`` and ``record`` are those of the stage: of its ring, and of its draft model.
    """
    request = before.in_next_epoch(message) if before else StageRequest(message, grant.slot)
    if spec.segment.folds_positions:
        request.states = grant.states or Checkpoints()
    if spec.is_first:
        request.driver = RingDriver(
            prompt_tokens=message.prompt_tokens,
            chunk_tokens=spec.segment.chunk_tokens,
            stages=len(spec.ring),
            watchdog_min_s=watchdog_min_s,
            ids=list(message.prompt_ids or ()),
            states=request.states,
            window_tokens=_window_tokens(message, spec),
            same_bits=spec.segment.same_bits,
        )
    guesses = message.draft_tokens > 0 and len(spec.ring) > 1
    ids = message.prompt_ids or ()
    marks = GuessMarks(request_number(message.request), ids[: message.prompt_tokens]) if guesses and ids else None
    request.guess_marks = marks if spec.is_first else None
    if not (spec.is_last and marks):
        request.guesser = None
        return request
    window, windows = _window_tokens(message, spec), message.draft_windows
    draft = None
    if spec.draft and not message.has_grammar:  # what a form allows is told along the guesses that come with tokens
        context_tokens = spec.draft.context_tokens
        draft = DraftGuesses(record, context_tokens=context_tokens, window=window, windows=windows)
    if request.guesser is not None:
        request.guesser.moved(times, draft)
    else:
        request.guesser = Guesser(
            PromptLookup(list(ids)), marks, times, window=window, windows=windows, eos_ids=message.eos_ids, draft=draft
        )
    return request


def _window_tokens(message: OpenRequest, spec: StageSpec) -> int:
    """Most guesses behind the first token of a run: with its marks it is no longer than the longest chunk."""
    return max(0, min(message.draft_tokens, spec.segment.chunk_tokens - 2))


def fits(frame: Frame, spec: SegmentSpec) -> bool:
    """Is an activation of the plan's shape?"""
    return (
        frame.width == spec.width_in
        and frame.dtype is spec.wire
        and frame.count <= spec.chunk_tokens
        and frame.position + frame.count <= spec.context_tokens
        and (frame.count <= MAX_LOGITS or not frame.flags & VERIFY)
    )


def most_rows(spec: StageSpec) -> int:
    """The largest batch whose results, hidden states or tokens with guesses, fit into one message."""
    if spec.is_last:
        return frames_per_message(_TOKEN_BYTES * (1 + MAX_GUESSED_WINDOWS) * MAX_LOGITS, spec.max_message_bytes)
    return rows_per_message(spec.segment.wire, spec.segment.width_out, spec.max_message_bytes)


def most_tokens(spec: StageSpec, message: OpenRequest) -> int:
    """How many tokens of a request are published again in one message."""
    each_bytes = _TOKEN_BYTES + (0 if message.logprobs is None else logprobs_bytes(message.logprobs))
    return max(1, min(_MAX_RESENT_TOKENS, (spec.max_message_bytes - 2 * HEADER_BYTES) // each_bytes))
