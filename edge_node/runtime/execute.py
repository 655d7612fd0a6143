"""Carries out work on a segment: decodes what came in, computes, chooses tokens or encodes what goes out."""

from __future__ import annotations

from edge_node.errors import BadInput, NotFinite, SegmentUnusable
from edge_node.runtime.logprobs import token_logprobs
from edge_node.runtime.sampling import choose_token
from edge_node.runtime.segment import Array, Segment
from edge_node.wire.activations import check_finite
from edge_node.work import Computed, Row, RowResult, Work
from schemas.codec import hidden_states
from schemas.messages import RequestFailureCode


def execute(segment: Segment, work: Work) -> Computed:
    """Do one run. What is wrong with one row fails that row alone.

    Where runs have dummies behind them, rows are computed one after the other: attention takes several positions of one
    request only. So they are where positions are folded into a state, since each request has one of its own.
    """
    if len(work.rows) == 1:
        return _execute_one(segment, work.rows[0])
    if segment.spec.same_bits or segment.spec.folds_positions:
        each = [_execute_one(segment, row) for row in work.rows]
        return Computed(sum(one.compute_s for one in each), tuple(result for one in each for result in one.rows))
    places = {row.slot: row.position for row in work.rows} | dict(work.idle)
    first = min(places)
    count = work.rows[0].count
    failures = {row.slot: failure for row in work.rows if (failure := _take_in(segment, row, first)) is not None}
    try:
        run = segment.run(first, [places[slot] for slot in sorted(places)], count, logits=work.rows[0].logits)
    except SegmentUnusable as error:
        return Computed(0.0, tuple(RowResult(failure=str(error)) for _ in work.rows))
    results = []
    for row in work.rows:
        height = row.logits if segment.spec.is_last else count
        begin = (row.slot - first) * height
        results.append(failures.get(row.slot) or _give_out(segment, row, run.output, begin))
    return Computed(run.compute_s, tuple(results))


def _execute_one(segment: Segment, row: Row) -> Computed:
    """A run of one row: every step of an answer that is alone, and every chunk of a prompt."""
    failure = _take_in(segment, row, row.slot)
    if failure is not None:
        return Computed(0.0, (failure,))
    try:
        run = segment.run(row.slot, (row.position,), row.count, logits=row.logits, copies=row.copies)
    except SegmentUnusable as error:
        return Computed(0.0, (RowResult(failure=str(error)),))
    if row.again:
        return Computed(run.compute_s, (RowResult(),))
    return Computed(run.compute_s, (_give_out(segment, row, run.output, 0),))


def _take_in(segment: Segment, row: Row, first_slot: int) -> RowResult | None:
    """Put a row's input into its place in the segment's buffer."""
    begin = (row.slot - first_slot) * row.count
    if row.frame is None:
        assert row.ids is not None
        segment.ids_input(row.count, begin)[:] = row.ids[: row.count]
        return None
    try:
        segment.take_in(hidden_states(row.frame), row.frame.dtype, row.frame.count, begin)
    except NotFinite as error:
        return _not_finite(error)
    return None


def _give_out(segment: Segment, row: Row, output: Array, begin: int) -> RowResult:
    """The result of a row whose output begins at ``begin``."""
    try:
        if not segment.spec.is_last:
            return RowResult(payload=segment.give_out(row.count, begin))
        return _choose(row, output[begin : begin + row.logits]) if row.draw else RowResult()
    except NotFinite as error:
        frame = row.frame
        try:
            if frame is not None:  # a graph that takes halves has not looked at them
                check_finite(hidden_states(frame), frame.dtype, frame.count, segment.spec.width_in)
        except BadInput as arrived:
            return _not_finite(arrived)
        return _not_finite(error)


def _not_finite(error: NotFinite) -> RowResult:
    code: RequestFailureCode = "bad_input" if isinstance(error, BadInput) else "not_finite"
    return RowResult(failure=str(error), failure_code=code)


def _choose(row: Row, logits: Array) -> RowResult:
    """The token after the row's last position or, where guesses are verified, after each as long as they are right.

    A guess counts only if it equals the draw at its position, so the text is that of a run without guesses. Where it is
    not known which tokens may come, the run ends as if the next guess were wrong.
    """
    assert row.draw
    draw = row.draw
    chosen: list[int] = []
    logprobs: list[bytes] = []
    for index in range(row.logits if draw.allowed is None else min(row.logits, len(draw.allowed))):
        history = (*draw.history, *chosen) if draw.history else ()
        allowed = draw.allowed[index] if draw.allowed is not None else None
        chosen.append(
            choose_token(logits[index], draw.sampling, draw.position + index, history, draw.prompt_tokens, allowed)
        )
        if draw.logprobs is not None:
            logprobs.append(token_logprobs(logits[index], chosen[-1], draw.logprobs))
        if index >= len(row.guess) or chosen[-1] != row.guess[index]:
            break
    return RowResult(tokens=tuple(chosen), logprobs=tuple(logprobs))
