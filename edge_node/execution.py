"""Carries out work on a segment: decodes what came in, computes, chooses tokens or encodes what goes out."""

from __future__ import annotations

import numpy as np

from edge_node.activations import decode_activation, encode_activation
from edge_node.errors import NotFinite, SegmentUnusable
from edge_node.sampling import choose_token
from edge_node.segment import Array, Segment
from edge_node.wire import WIRE_DTYPES
from edge_node.work import Computed, Row, RowResult, Work


def execute(segment: Segment, work: Work) -> Computed:
    """Do one run. What is wrong with one row fails that row alone."""
    places = {row.slot: row.position for row in work.rows} | dict(work.idle)
    first = min(places)
    count = work.rows[0].count
    failures = {row.slot: failure for row in work.rows if (failure := _take_in(segment, row, first)) is not None}
    try:
        run = segment.run(first, [places[slot] for slot in sorted(places)], count)
    except SegmentUnusable as error:
        return Computed(0.0, tuple(RowResult(failure=str(error)) for _ in work.rows))
    results = []
    for row in work.rows:
        begin = row.slot - first
        output = run.output[begin : begin + 1] if segment.is_last else run.output[begin * count : (begin + 1) * count]
        results.append(failures.get(row.slot) or _give_out(segment, row, output))
    return Computed(run.compute_s, tuple(results))


def _take_in(segment: Segment, row: Row, first_slot: int) -> RowResult | None:
    """Put a row's input into its place in the segment's buffer."""
    begin = (row.slot - first_slot) * row.count
    stop = begin + row.count
    if row.frame is None:
        segment.ids_input(stop)[begin:] = np.asarray(row.ids, np.int64)
        return None
    try:
        decode_activation(row.frame.payload, row.frame.dtype, segment.hidden_input(stop)[begin:])
    except NotFinite as error:
        return RowResult(failure=str(error), failure_code="not_finite")
    return None


def _give_out(segment: Segment, row: Row, output: Array) -> RowResult:
    try:
        if not segment.is_last:
            return RowResult(payload=encode_activation(output, WIRE_DTYPES[segment.spec.wire_dtype]))
        if row.draw is None:
            return RowResult()
        draw = row.draw
        return RowResult(token=choose_token(output[0], draw.sampling, draw.position, draw.history))
    except NotFinite as error:
        return RowResult(failure=str(error), failure_code="not_finite")
