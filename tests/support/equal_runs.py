"""How many logits of a text are others in chunks or single steps than in one run; for any processor.

Run as ``python -m tests.support.equal_runs SPEC GRAPH``: a pickled SegmentSpec of a whole model, and its graph. It
prints a JSON object: differing logits by the lengths of runs, which are taken in turn.
"""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edge_node.runtime.segment import Segment
from schemas.run_lengths import cut_into_runs

RUNS = ((2,), (3,), (5, 7, 12), (16, 15, 1), (1,), (1, 2))
TOKENS = 32


def differing_logits(segment: Segment) -> dict[str, int]:
    """Of the text in each of RUNS, against one run."""
    ids = [(11 + 37 * index) % segment.spec.vocab_size for index in range(TOKENS)]
    expected = _logits(segment, ids, (TOKENS,))
    return {
        str(lengths): int((_logits(segment, ids, lengths).view(np.uint32) != expected.view(np.uint32)).sum())
        for lengths in RUNS
    }


def _logits(segment: Segment, ids: Sequence[int], lengths: Sequence[int]) -> np.ndarray:
    rows = []
    for start, stop in cut_into_runs(len(ids), lengths):
        count = stop - start
        segment.ids_input(count)[:] = ids[start:stop]
        rows.append(segment.run(0, (start,), count, logits=count).output.astype(np.float32))
    return np.concatenate(rows)


if __name__ == "__main__":
    spec = pickle.loads(Path(sys.argv[1]).read_bytes())
    opened = Segment(spec, Path(sys.argv[2]), threads=1)
    opened.warm_up()
    print(json.dumps(differing_logits(opened)))
