"""What it costs that one node has both ends of the ring, so that no other is told a token: next to nothing.

The node hands its tokens to itself, so for each token as many messages go through the broker as there are nodes.
"""

from __future__ import annotations

import harness
from harness import Result, alternate, main, median_result
from rings import CHUNK_TOKENS, CONTEXT_TOKENS, ring_of_nodes
from smollm2 import QUESTION, open_smollm2

from tests.support.ring import Ring

NODES = ["node-0", "node-1"]
LINK_DELAY_S = 0.005
TOKENS = 64


def measure(quick: bool) -> list[Result]:
    """Decode of one stream over two nodes with 5 ms added each way on their links (`fast`, fp16)."""
    model = open_smollm2("fast")
    units = model.manifest.num_units
    prompt_ids = list(model.tokenizer().encode_chat([{"role": "user", "content": QUESTION}]))
    options = {"wire": "fp16", "context_tokens": CONTEXT_TOKENS, "slots": 1, "chunk_tokens": CHUNK_TOKENS}

    def speed(ring: Ring) -> float:
        return ring.ask(prompt_ids, 4 if quick else TOKENS).tokens_per_s

    with (
        ring_of_nodes(model, NODES, link_delay_s=LINK_DELAY_S) as (both, both_homes),
        ring_of_nodes(model, NODES, link_delay_s=LINK_DELAY_S) as (one, one_homes),
    ):
        both.deploy(both_homes, [0, units // 4, 3 * units // 4, units], order=[*NODES, NODES[0]], **options)
        one.deploy(one_homes, [0, units // 2, units], order=NODES, **options)
        for ring in (both, one):
            speed(ring)
        measured = alternate(lambda: speed(both), lambda: speed(one), 1 if quick else harness.PAIRS)
    return [
        median_result("both ends on one node over one end on each", [a / b for a, b in measured], "ratio"),
        median_result("both ends on one node", [a for a, _ in measured], "tokens/s"),
        median_result("one end on each", [b for _, b in measured], "tokens/s"),
    ]


if __name__ == "__main__":
    main("both_ends", measure)
