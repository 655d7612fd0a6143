"""What some steps of a decoder read that no core step makes, and what it takes to make it again."""

from __future__ import annotations

from collections.abc import Iterable

from orchestrator.model.graph import Decoder, Step, node_inputs


def cheap_cone(decoder: Decoder, names: Iterable[str]) -> tuple[list[int], list[str]]:
    """What recomputing ``names`` takes: cheap nodes in topological order, and the weights and graph inputs read."""
    nodes: dict[int, None] = {}
    leaves: dict[str, None] = {}
    stack: list[tuple[str, bool]] = [(n, False) for n in reversed(list(names))]
    while stack:
        name, inputs_done = stack.pop()
        node = decoder.cheap_producer.get(name)
        if node is None:
            leaves[name] = None
        elif inputs_done:
            nodes[node] = None
        elif node not in nodes:
            stack.append((name, True))
            stack.extend((n, False) for n in reversed(node_inputs(decoder.model.graph.node[node])))
    return list(nodes), list(leaves)


def outside_inputs(decoder: Decoder, steps: Iterable[Step]) -> list[str]:
    """Names the steps read that no core step makes: weights, graph inputs and the cheap cone's results."""
    core = {n for step in decoder.core for n in step.outputs}
    return list(dict.fromkeys(n for step in steps for n in step.inputs if n not in core))
