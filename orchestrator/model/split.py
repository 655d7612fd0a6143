"""Where a decoder may be cut: units and the tensors that are alive between them.

Units are numbered 0 (embed), 1..L (decoder blocks), L+1 (head); boundary ``i`` lies before unit ``i``. With the core
steps in a tight topological order, a position between two steps costs the summed width of the token-dependent
tensors alive there. The boundary before a block is the last cheapest position between the KV cache operator of the
block before it and its own. Normally one tensor is alive there, the residual stream. If a true residual dependency
skips the boundary there are more; they travel side by side in one tensor. Layer names are not looked at.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from orchestrator.model.errors import UnsplittableGraph
from orchestrator.model.graph import NORMS, PAST_NAME, Decoder, Step
from orchestrator.model.shapes import FLOAT_NAMES, TensorType
from schemas.segment_tensors import IDS


@dataclass(frozen=True)
class Boundary:
    """What crosses before a unit: ``tensors`` side by side on the last axis, [B, S, sum(widths)]."""

    tensors: tuple[str, ...]
    widths: tuple[int, ...]
    elem_type: int

    @property
    def width(self) -> int:
        return sum(self.widths)


@dataclass(frozen=True)
class SplitPlan:
    """A decoder with its units. ``boundaries[i]`` lies before unit ``i + 1``; ``unit_of[k]`` belongs to core step k."""

    decoder: Decoder
    boundaries: tuple[Boundary, ...]
    unit_of: tuple[int, ...]

    @property
    def num_units(self) -> int:
        return len(self.boundaries) + 1

    def boundary(self, unit: int) -> Boundary:
        """The boundary before ``unit``, 1 <= unit < num_units."""
        return self.boundaries[unit - 1]

    def layer_of(self, unit: int) -> int | None:
        """The KV cache index of a block, None for embed and head."""
        return self.decoder.layers[unit - 1] if 1 <= unit <= len(self.decoder.layers) else None


def plan_split(decoder: Decoder) -> SplitPlan:
    """Find the units of ``decoder``.

    Raises:
        UnsplittableGraph: a block has no place before it where only floating point [B, S, width] tensors are alive,
            or layers share or disorder their KV caches.
    """
    order = decoder.core
    cache_uses = _cache_uses(decoder)
    live = _live_sets(order)
    ranges = []
    after = 1
    for layer in decoder.layers:
        ranges.append((after, cache_uses[layer][0], f"block {layer}"))
        after = cache_uses[layer][1] + 1
    ranges.append((after, len(order) - 1, "the head"))
    positions = [_cheapest(decoder, live, *r) for r in ranges]
    boundaries = tuple(_boundary(decoder, live[p]) for p in positions)
    unit_of = tuple(sum(1 for p in positions if p <= k) for k in range(len(order)))
    return SplitPlan(decoder, boundaries, unit_of)


def _cache_uses(decoder: Decoder) -> dict[int, tuple[int, int]]:
    """First and last step that reads each layer's KV cache; they must follow each other without overlap."""
    uses: dict[int, tuple[int, int]] = {}
    for k, step in enumerate(decoder.core):
        for name in step.inputs:
            match = PAST_NAME.match(name)
            if match:
                first = uses.get(int(match[1]), (k, k))[0]
                uses[int(match[1])] = (first, k)
    for layer in decoder.layers:
        if layer not in uses:
            raise UnsplittableGraph(f"no node reads past_key_values.{layer}.key or .value")
    for one, other in itertools.pairwise(decoder.layers):
        if uses[one][1] >= uses[other][0]:
            node = decoder.model.graph.node[decoder.core[uses[one][1]].node]
            raise UnsplittableGraph(
                f"node {node.name or node.op_type!r} reads the KV cache of layer {one} after layer {other} has begun: "
                "the layers share a cache or are not in order"
            )
    return uses


def _live_sets(order: tuple[Step, ...]) -> list[tuple[str, ...]]:
    """For each position p: the core tensors (and token ids) made before step p and still read by it or later."""
    last_use = {name: k for k, step in enumerate(order) for name in step.inputs}
    live: dict[str, None] = {IDS: None}
    sets = []
    for k, step in enumerate(order):
        sets.append(tuple(n for n in live if last_use.get(n, -1) >= k))
        live = dict.fromkeys(sets[-1])
        live.update(dict.fromkeys(step.outputs))
    return sets


def _refusal(decoder: Decoder, name: str) -> str | None:
    """Why a tensor cannot cross a boundary, None if it can."""
    found: TensorType | None = decoder.types.get(name)
    if found is None:
        return "its type and shape are unknown"
    if found.elem_type not in FLOAT_NAMES:
        return f"it is not float32 or float16 (ONNX element type {found.elem_type})"
    if found.rank is None:
        return "its shape is unknown"
    if found.rank != 3:
        return f"it has {found.rank} dimensions instead of 3"
    if not found.last_dim:
        return "its last dimension is unknown"
    return None


def _cheapest(decoder: Decoder, live: list[tuple[str, ...]], first: int, last: int, what: str) -> int:
    best: tuple[int, int] | None = None
    refused: tuple[int, str, str] | None = None
    makers = {name: decoder.op(step) for step in decoder.core for name in step.outputs if step.part != "add"}
    for position in range(first, last + 1):
        names = live[position]
        problems = [(n, why) for n in names if (why := _refusal(decoder, n))]
        kinds = {decoder.types[n].elem_type for n in names if n in decoder.types}
        if not problems and len(kinds) > 1:
            problems = [(names[-1], "it differs in element type from the others at this boundary")]
        if problems:
            if refused is None or len(problems) < refused[0]:
                refused = (len(problems), *problems[0])
            continue
        if what == "the head" and best is not None and any(makers.get(n) in NORMS for n in names):
            continue  # the final norm belongs to the head, so that it too runs only where logits are wanted
        width = sum(decoder.types[n].last_dim or 0 for n in names)
        if best is None or width <= best[0]:
            best = (width, position)
    if best is not None:
        return best[1]
    if refused is not None:
        raise UnsplittableGraph(f"no cut before {what}: tensor {refused[1]!r} would have to cross, but {refused[2]}")
    raise UnsplittableGraph(f"no cut before {what}: no step lies between its KV cache and the one before")


def _boundary(decoder: Decoder, names: tuple[str, ...]) -> Boundary:
    types = [decoder.types[n] for n in names]
    return Boundary(names, tuple(t.last_dim or 0 for t in types), types[0].elem_type)
