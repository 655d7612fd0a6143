"""The cost of moving open requests to another ring: copy their KV rows, or compute them again (pure).

**Copying.** A node has one link. With b_n bytes of KV rows that leave or reach node n over a link of r_n bytes/s:

    copy_s = max over n of b_n / r_n

All links work at the same time, so the busiest node decides. Decoding goes on meanwhile, but a node that packs or takes
rows has less time for it; SLOWDOWN is the share of the copying time that readers lose, and HOLD_S how much longer
than without copying everything stands still, for the last rows:

    copy_lost_s = SLOWDOWN * copy_s + HOLD_S + max over n of s_n / r_n

Folded states change with each step, so their bytes s_n of all requests travel while everything stands still.

**Re-prefill.** No reader gets a token before the new ring has computed all P positions of the open requests again, in
chunks of c positions. The chunks flow through the stages like jobs of one size through a flow shop; with p_i seconds
per position in stage i and h_i for its hop:

    prefill_lost_s = sum over i of (c * p_i + h_i) + max over i of p_i * (P - c) + max over i of d_i * A

The A tokens of answers among the positions are computed one at a time, as they were at first (P does not count them),
each in d_i seconds.

Copying is chosen when it loses less and ends within the time that a move is given for it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.planning.solution import Prediction
from schemas.handover import Held, kv_copies
from schemas.messages import MoveMode

SLOWDOWN = 0.5
"""A single-threaded node alternates between a message of rows and a step, and waits for its link in neither."""
HOLD_S = 0.005
"""A command, the rows of a few positions and a reply, one after the other through the broker."""
DEFAULT_RATE_BYTES_PER_S = 10e6
"""Of a link that nobody has measured: slow Wi-Fi."""


@dataclass(frozen=True)
class Transfer:
    """KV rows that travel from one node to another, and the folded states of each request."""

    sender: str
    receiver: str
    bytes_per_position: int
    state_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class Migration:
    """A move of all open requests, as predicted. ``copies``: KV rows are copied, not computed again."""

    copy_bytes: int
    copy_s: float
    copy_lost_s: float
    prefill_lost_s: float
    copies: bool

    @property
    def mode(self) -> MoveMode:
        """The mode as the operator API calls it."""
        return "copy" if self.copies else "prefill"

    @property
    def lost_s(self) -> float:
        """Time in which readers get no token."""
        return self.copy_lost_s if self.copies else self.prefill_lost_s


def transfers_between(
    old: Sequence[Held], new: Sequence[Held], unit_kv_bytes: Sequence[int], unit_state_bytes: Sequence[int]
) -> list[Transfer]:
    """What has to travel from one ring to another; of each unit bytes per position, and of states per request."""
    return [
        Transfer(
            old[copy.source].node,
            new[copy.target].node,
            sum(unit_kv_bytes[copy.start : copy.stop]),
            sum(unit_state_bytes[copy.start : copy.stop]),
        )
        for copy in kv_copies(old, new, len(unit_kv_bytes))
    ]


def estimate(
    transfers: Sequence[Transfer],
    positions: int,
    rates: Mapping[str, float],
    ring: Prediction,
    *,
    chunk_tokens: int,
    limit_s: float,
    answer_tokens: int = 0,
    requests: int = 1,
) -> Migration:
    """Predict a move.

    Args:
        transfers: who sends what to whom.
        positions: positions with KV rows, over all open requests.
        rates: bytes/s of nodes' links, where they are known.
        ring: the new ring as the planner predicts it.
        chunk_tokens: positions of a prefill chunk.
        limit_s: copying that takes longer is given up.
        answer_tokens: how many of the positions are tokens of answers.
        requests: open ones, each with states of its own.
    """
    node_bytes: defaultdict[str, int] = defaultdict(int)
    held_bytes: defaultdict[str, int] = defaultdict(int)
    for transfer in transfers:
        for node in (transfer.sender, transfer.receiver):
            node_bytes[node] += transfer.bytes_per_position * positions
            held_bytes[node] += transfer.state_bytes * requests
    rows_s, states_s = _longest_s(node_bytes, rates), _longest_s(held_bytes, rates)
    copy_s = rows_s + states_s
    copy_lost_s = SLOWDOWN * rows_s + HOLD_S + states_s
    one_by_one_s = answer_tokens * max(stage.decode_s for stage in ring.stages)
    prefill_lost_s = _prefill_s(positions - answer_tokens, ring, chunk_tokens) + one_by_one_s
    return Migration(
        copy_bytes=sum(t.bytes_per_position * positions + t.state_bytes * requests for t in transfers),
        copy_s=copy_s,
        copy_lost_s=copy_lost_s,
        prefill_lost_s=prefill_lost_s,
        copies=copy_lost_s <= prefill_lost_s and copy_s <= limit_s,
    )


def _longest_s(node_bytes: Mapping[str, int], rates: Mapping[str, float]) -> float:
    return max((b / rates.get(n, DEFAULT_RATE_BYTES_PER_S) for n, b in node_bytes.items()), default=0.0)


def _prefill_s(positions: int, ring: Prediction, chunk_tokens: int) -> float:
    chunk = min(positions, chunk_tokens)
    position_s = [stage.prefill_s / ring.prompt_tokens for stage in ring.stages]
    hops_s = sum(stage.hop_s for stage in ring.stages)
    return chunk * sum(position_s) + hops_s + max(position_s) * (positions - chunk)
