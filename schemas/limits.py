"""Limits that messages, options and buffers share: how many stages, slots, tokens or bytes there may be."""

from __future__ import annotations

MB = 10**6
"""Bytes; what limits of memory and disk are given in."""
MAX_STAGES = 256
"""Of a ring."""
MAX_SLOTS = 1024
"""Requests of a pipeline with a KV cache at the same time."""
MAX_BATCHES = 64
"""That go round a ring at the same time."""
MAX_BLOBS = 4096
"""Of a segment, and of what a node keeps on standby."""
MAX_MEMORY_MARGIN = 0.9
"""Share of the memory that a node may use."""
LOW_MEMORY_BYTES = 50 * MB
"""A node whose system has less left is short of it; so is one of which the next two are true."""
STALLED_MEMORY_PERCENT = 20.0
"""All its work waits for memory for so much of the time."""
OVER_MEMORY_SHARE = 1.1
"""It takes more than this of what it may use."""
MIN_CHUNK_TOKENS, MAX_CHUNK_TOKENS = 2, 4096
"""Of the longest chunk of a prompt."""
MAX_GUESSED_TOKENS = 32
"""In one run of a stage."""
MAX_GUESSED_WINDOWS = 16
"""Runs with guesses of one request that are on their way at once."""
MIN_CONTEXT_TOKENS = 2
MAX_CONTEXT_TOKENS = 10_000_000
"""Prompt and answer together, and so the end of all positions."""
MAX_ANSWER_TOKENS = 1_000_000
MAX_STOP_STRINGS, MAX_STOP_CHARACTERS = 16, 256
"""Of a request, and of each of them."""
MAX_ALTERNATIVES = 20
"""Likely tokens that are told beside the one that was chosen."""
MAX_GRAMMAR_CHARACTERS, MAX_GRAMMAR_DEPTH = 32_000, 64
"""Of the JSON schema or the regular expression that an answer is to match, and how deep a schema's JSON is nested."""
MAX_EXPECTED_TOKENS = 64
"""Of an answer that is bound to a form: those that are known beforehand, or guessed."""
MAX_MASK_BYTES = 100_000
"""Of one set of tokens, packed."""
LEAST_LOGPROB = -9999.0
"""Of tokens that can't come, whose probability is zero."""
MAX_TOOLS = 128
"""Of a request, and calls of a turn."""
MAX_TOOL_CHARACTERS = 100_000
"""Of a tool's parameters or description."""
MAX_TOOLS_CHARACTERS = 300_000
"""Of all tools of a request together."""
MAX_TOOL_DEPTH = 32
"""Of objects and arrays inside one another in a tool's parameters and a call's arguments."""
DEFAULT_PATIENCE_S, MAX_PATIENCE_S = 120.0, 86_400.0
"""A request waits so long for what is missing: a phone that dozes for a minute, a router that starts again."""
MAX_LINE = 1_000
"""Characters of what is said in a line."""
MAX_CORRELATION_BYTES = 1024
"""Of what comes back with an answer."""
MAX_PAYLOAD_BYTES = 1_800_000
"""Of any message, where the broker has no lower limit: below the 2,000,000 bytes at which Mosquitto 2.1 disconnects."""
