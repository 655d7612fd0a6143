"""How long the core waits for what, and what it serves unless told otherwise."""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_CONTEXT_TOKENS = 2048
DEFAULT_SLOTS = 4
LEAST_CONTEXT_TOKENS = 256
"""A shorter context is not planned unless somebody asks for it: no conversation fits in."""
MOST_PIPELINES = 100
DEFAULT_CHUNK_TOKENS = 32
"""Short chunks fill the pipeline sooner and let other answers in between; on a CPU they cost no speed."""
DEFAULT_DRAFT_TOKENS = 8
"""Most tokens to guess in one run of a stage."""


@dataclass(frozen=True, kw_only=True)
class Timing:
    """How long the core waits for what, in seconds."""

    settle_s: float = 0.5
    """After the last node joined, before a plan is made: nodes that start together give one plan."""
    loss_settle_s: float = 0.5
    """A node of the ring that reconnects within this time is not lost."""
    await_s: float = 120.0
    """A ring that no plan can replace waits this long for a node of it that fell silent."""
    silence_s: float = 1.5
    """A node that open requests need counts as lost after this, while others are heard; it says how it is twice a
    second, and when it is about to compute for long."""
    heartbeat_timeout_s: float = 10.0
    """Any other node counts as lost after this."""
    start_s: float = 1.5
    """From the start until the fleet is believed to be complete; nodes heard of only by retained messages need
    one heartbeat to count."""
    adopt_s: float = 3.0
    """From the start, or from the last node that came since, until every node of a ring that an earlier start has left
    must have been heard of: three heartbeats."""
    adopt_most_s: float = 15.0
    """So long, from the first node on, where others come one after the other, or the broker has forgotten them: the
    longest wait between two attempts to reconnect, and some time to do it on a busy machine."""
    prepare_silence_s: float = 60.0
    """A node that prepares its segment and reports no progress for this long has failed."""
    exclude_s: float = 30.0
    """A node that failed to load a segment is left out this long; doubles with each failure, up to ten times."""
    move_copy_s: float = 60.0
    """KV rows of open requests may take this long to be copied to another ring, while decoding goes on."""
    move_prefill_s: float = 2.0
    """A move that could switch waits this long for requests whose prompt is still being computed."""
    move_hold_s: float = 5.0
    """Stage 0 may take this long to come to a token boundary."""
    move_finish_s: float = 5.0
    """The last KV rows may take this long, while everything stands still."""
    queue_s: float = 120.0
    """A request waits this long for its turn, or as long as its patience lasts if that is longer."""
    tell_s: float = 1.0
    """A request that has waited this long has its reader told for what, and so long lies between two such messages."""
    retry_s: float = 1.0
    """A request for which a node had no KV slot, though one was counted free, is opened again after this."""
    resend_s: float = 2.0
    """Silence of an open request before the last stage is asked for missed tokens; doubles up to ten times."""
    stall_s: float = 60.0
    """Silence after which nodes begin anew with an open request, and the second time it fails. Stage 0's watchdog
    speaks up much earlier."""
    prefill_token_s: float = 0.5
    """So much longer that is for each position that may have to be computed before the next token."""
    prefill_most_s: float = 540.0
    leftover_s: float = 10.0
    """A node that holds more requests than are open is told which these are after this."""
    reader_grace_s: float = 1.0
    """A client whose connection was lost may renew its requests this long: it may be back already."""
    reader_return_s: float = 10.0
    """The same after our own connection was lost, and so perhaps everybody's: the longest wait between two attempts to
    reconnect, and some time to do it."""
    stats_s: float = 1.0
    """The end of an answer waits this long for the stages' figures."""
