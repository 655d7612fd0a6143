"""The planner's question: which device holds which units of the chain.

A model is a chain of *units* numbered 0 .. U-1: the embedding, the decoder blocks, the head. Neighbouring units
that cost the same form a *run*. All figures of a device are measured on that device with the model's own units;
nothing here is a data-sheet number. Memory and storage are whole bytes, times are seconds.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from functools import cached_property

from orchestrator.planning.errors import PlanningError
from orchestrator.planning.unit_run import UnitRun, cache_bytes, check_runs
from schemas.limits import MAX_PAYLOAD_BYTES


class Objective(enum.Enum):
    """What the best plan is best at."""

    LATENCY = "latency"
    """One reader: least seconds per token; among equals the shortest bottleneck."""
    THROUGHPUT = "throughput"
    """Many readers: most tokens per second over all streams; among equals the least seconds per token."""
    BALANCED = "balanced"
    """The shortest bottleneck among plans at most `balanced_tolerance` slower per token than the quickest."""
    PAPER = "paper"
    """LinguaLinked's model (arXiv 2312.00388): FLOPs over speed plus one link per boundary; for comparison."""


@dataclass(frozen=True)
class Device:
    """One measured device. Tuples have one entry per run of the problem.

    `decode_s` seconds per unit and token for one stream, `decode_batched_s` the same when several streams share
    a batch (None: no gain), `prefill_s` seconds per unit and prompt token. `hop_s` is the way of one decode
    activation from this device through the broker to the next, `hop_busy_s` the part of it that keeps the device
    from computing, `link_bytes_per_s` the rate for larger payloads. `memory_bytes` and `storage_bytes` are what
    may be used, not what is built in; where `memory_is_limited`, its owner set that. `battery_percent` None means mains
    power. `cost_factor` is what its times count as when plans are compared (above 1: to be spared); what is predicted
    is not changed by it.
    """

    name: str
    memory_bytes: int
    decode_s: tuple[float, ...]
    prefill_s: tuple[float, ...]
    hop_s: float
    storage_bytes: int | None = None
    decode_batched_s: tuple[float, ...] | None = None
    hop_busy_s: float = 0.0
    link_bytes_per_s: float = math.inf
    runtime_overhead_bytes: int = 0
    live_move_bytes: int = 0
    flops_per_s: float | None = None
    battery_percent: float | None = None
    charging: bool = True
    cost_factor: float = 1.0
    memory_is_limited: bool = False

    @property
    def batched_s(self) -> tuple[float, ...]:
        return self.decode_s if self.decode_batched_s is None else self.decode_batched_s

    def slowed(self, factor: float) -> Device:
        """The device with compute times ``factor`` times as long; the times of hops stay."""
        batched = self.decode_batched_s
        return replace(
            self,
            decode_s=tuple(factor * figure for figure in self.decode_s),
            prefill_s=tuple(factor * figure for figure in self.prefill_s),
            decode_batched_s=None if batched is None else tuple(factor * figure for figure in batched),
        )

    @property
    def priced(self) -> Device:
        """The device with its times multiplied by its ``cost_factor``."""
        factor = self.cost_factor
        if factor == 1.0:
            return self
        flops_per_s = self.flops_per_s and self.flops_per_s / factor
        return replace(self.slowed(factor), flops_per_s=flops_per_s, cost_factor=1.0)

    @property
    def on_charger(self) -> bool:
        return self.battery_percent is None or self.charging


@dataclass(frozen=True)
class Pin:
    """Units [start, stop) must be on `node`. `asked` is the option of a command that asked for it, perhaps with others,
    and `undo` the command that takes that option back; empty where there was none."""

    node: str
    start: int
    stop: int
    asked: str = field(default="", compare=False)
    undo: str = field(default="", compare=False)

    @property
    def said(self) -> str:
        """The pin in the words of who asked for it."""
        return self.asked or f"the pin of {self}"

    def __str__(self) -> str:
        return f"units {self.start}..{self.stop} to {self.node!r}"


@dataclass(frozen=True)
class NodeLimit:
    """What a person allows on one node: units, share of all units (0..1), bytes of memory."""

    node: str
    max_units: int | None = None
    max_share: float | None = None
    max_memory_bytes: int | None = None


@dataclass(frozen=True)
class Constraints:
    """What a person states. Battery rules leave out devices that break them; mains power passes all."""

    pins: tuple[Pin, ...] = ()
    exclude: frozenset[str] = frozenset()
    limits: tuple[NodeLimit, ...] = ()
    min_battery_percent: float | None = None
    only_on_charger: bool = False

    def limit_of(self, node: str) -> NodeLimit:
        return next((limit for limit in self.limits if limit.node == node), NodeLimit(node))

    def refusal(self, device: Device) -> str | None:
        """Why `device` may not take part, or None."""
        if device.name in self.exclude:
            return "excluded"
        if self.only_on_charger and not device.on_charger:
            return "not on the charger"
        battery = device.battery_percent
        if self.min_battery_percent is not None and battery is not None and battery < self.min_battery_percent:
            return f"battery at {battery:.0f} %, {self.min_battery_percent:.0f} % asked"
        return None


@dataclass(frozen=True)
class Stage:
    """Units [start, stop) on one node. The stages of a plan, in order, cover every unit once.

    A node appears twice only when it holds both ends of a ring with others: first [0, k), last [m, U).
    """

    node: str
    start: int
    stop: int

    @property
    def count(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Problem:
    """One question for the planner; see the module's docstring for units of measure.

    `streams` is how many answers run at once (None: as many as it takes to fill the pipeline). `slots` KV caches
    of `context_tokens` are reserved per block; where memory is short both may be reduced, to `least_context_tokens` and
    `least_slots` (None: not at all). `activation_bytes` is one token's hidden state on the wire, `max_message_bytes`
    what the broker passes on at once, `workspace_bytes` what activations take resident on each device used,
    `second_stage_bytes` what a device with both ends of a ring takes for having two stages. `tied_bytes` and
    `tied_disk_bytes` are saved on a device that holds embedding and head when they share their weights. The `incumbent`
    is what runs now: stages keep its order where the order is free.

    Raises:
        PlanningError: the parts contradict each other.
    """

    runs: tuple[UnitRun, ...]
    devices: tuple[Device, ...]
    context_tokens: int
    slots: int = 1
    objective: Objective = Objective.LATENCY
    streams: int | None = None
    constraints: Constraints = Constraints()
    activation_bytes: int = 0
    workspace_bytes: int = 0
    second_stage_bytes: int = 0
    tied_bytes: int = 0
    tied_disk_bytes: int | None = None
    prompt_tokens: int = 128
    prefill_chunk_tokens: int = 64
    max_message_bytes: int = MAX_PAYLOAD_BYTES
    balanced_tolerance: float = 0.05
    time_limit_s: float = 10.0
    incumbent: tuple[Stage, ...] = field(default=())
    least_context_tokens: int | None = None
    least_slots: int | None = None
    workspace_bytes_per_token: int = 0
    """Of the context; part of ``workspace_bytes``."""
    workspace_bytes_per_slot: int = 0

    def __post_init__(self) -> None:
        check_runs(self.runs)
        if not self.devices:
            raise PlanningError("no devices: start a node, or name at least one device in the fleet file")
        names = [device.name for device in self.devices]
        if len(set(names)) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise PlanningError(f"device {twice!r} is listed twice: give each device its own name")
        for device in self.devices:
            _check_device(device, len(self.runs))
        _check_pins(self.constraints, self.unit_count)
        if self.context_tokens < 1 or self.slots < 1 or self.prompt_tokens < 1 or self.prefill_chunk_tokens < 1:
            raise PlanningError("context_tokens, slots, prompt_tokens and prefill_chunk_tokens must be at least 1")
        if self.streams is not None and self.streams < 1:
            raise PlanningError("streams must be at least 1")

    @cached_property
    def unit_count(self) -> int:
        return self.runs[-1].stop

    @cached_property
    def run_of_unit(self) -> tuple[int, ...]:
        """Index of the run each unit belongs to."""
        return tuple(index for index, run in enumerate(self.runs) for _ in range(run.count))

    @cached_property
    def kinds(self) -> tuple[str, ...]:
        """The kind of each unit."""
        return tuple(self.runs[run].kind for run in self.run_of_unit)

    @property
    def both_ends_in_ring(self) -> bool:
        """Whether one node may hold the first and the last stage beside others (LinguaLinked's chain is open)."""
        return self.objective is not Objective.PAPER

    @cached_property
    def device_by_name(self) -> dict[str, Device]:
        return {device.name: device for device in self.devices}

    @property
    def tied_stored_bytes(self) -> int:
        return self.tied_bytes if self.tied_disk_bytes is None else self.tied_disk_bytes

    def with_caches(self, context_tokens: int, slots: int) -> Problem:
        """The same question with KV caches of another size, and the workspace that goes with them."""
        tokens, more_slots = context_tokens - self.context_tokens, slots - self.slots
        change = tokens * self.workspace_bytes_per_token + more_slots * self.workspace_bytes_per_slot
        workspace = max(0, self.workspace_bytes + change)
        return replace(self, context_tokens=context_tokens, slots=slots, workspace_bytes=workspace)

    @cached_property
    def without_draft(self) -> Problem | None:
        """The same question without the draft model beside the last unit; None where there is none."""
        bare = self.runs[-1].without_draft
        return replace(self, runs=(*self.runs[:-1], bare)) if bare else None

    def of_ring(self, stages: int) -> Problem:
        """The question as it is for so many stages: one that has all units alone makes no use of a draft model."""
        return self.without_draft or self if stages == 1 else self

    @property
    def draft_bytes(self) -> int:
        """Resident bytes of the draft model beside the last unit; 0 where there is none."""
        bare = self.runs[-1].without_draft
        return self.unit_memory_bytes(self.runs[-1]) - self.unit_memory_bytes(bare) if bare else 0

    def unit_memory_bytes(self, run: UnitRun) -> int:
        """Most resident bytes of one unit: with full caches, or while it is loaded, when they are empty."""
        return max(run.loading_bytes, run.weight_bytes + self.unit_cache_bytes(run))

    def unit_cache_bytes(self, run: UnitRun) -> int:
        """What one unit keeps of all texts: KV caches, or folded states."""
        return cache_bytes(run, self.context_tokens, self.slots)

    @property
    def chain_bytes(self) -> int:
        """Resident bytes of all units with their KV caches, shared weights counted twice."""
        return sum(run.count * self.unit_memory_bytes(run) for run in self.runs)

    def fixed_bytes(self, device: Device) -> int:
        """Resident bytes of a device that takes part, before its first unit."""
        uneven = sum(run.kv_spread_bytes for run in self.runs) * self.context_tokens * self.slots
        return device.runtime_overhead_bytes + device.live_move_bytes + self.workspace_bytes + uneven

    @property
    def both_ends_bytes(self) -> int:
        """Resident bytes of a device with both ends of a ring, beside `fixed_bytes` and its units: it has two stages,
        but tied weights once, and the first unit is not in use yet when the last one is loaded."""
        first, last = self.unit_memory_bytes(self.runs[0]), self.runs[-1]
        serving_bytes = last.weight_bytes + self.unit_cache_bytes(last)
        later_bytes = max(last.loading_bytes, serving_bytes + first) - self.unit_memory_bytes(last) - first
        return self.second_stage_bytes + later_bytes - self.tied_bytes

    def blob_bytes(self, unit: int, *, beside: Collection[int] = ()) -> int:
        """Bytes of a unit on a disk with the units ``beside``; an end whose tied twin is there adds the difference."""
        return max(0, self.runs[self.run_of_unit[unit]].stored_bytes - self._tied(unit, beside, self.tied_stored_bytes))

    def resident_bytes(self, unit: int, *, beside: Collection[int] = ()) -> int:
        """Bytes that a unit's weights add to memory with the units ``beside``."""
        return max(0, self.runs[self.run_of_unit[unit]].weight_bytes - self._tied(unit, beside, self.tied_bytes))

    def _tied(self, unit: int, beside: Collection[int], tied_bytes: int) -> int:
        twins = {0: self.unit_count - 1, self.unit_count - 1: 0}
        return tied_bytes if twins.get(unit) in beside else 0

    def row_s(self, device: Device) -> float:
        """What each row but the first of a message takes on the device's link."""
        return self.activation_bytes / device.link_bytes_per_s

    def room_bytes(self, device: Device) -> int:
        """Bytes that a device may use for units; below 0 where it may use less than it takes without any."""
        return self.memory_limit_bytes(device) - self.fixed_bytes(device)

    def memory_limit_bytes(self, device: Device) -> int:
        cap = self.constraints.limit_of(device.name).max_memory_bytes
        return device.memory_bytes if cap is None else min(device.memory_bytes, cap)

    def unit_limit(self, device: Device) -> int:
        """Most units of any kind a person lets the device hold."""
        limit = self.constraints.limit_of(device.name)
        most = self.unit_count if limit.max_units is None else limit.max_units
        if limit.max_share is not None:
            most = min(most, math.floor(limit.max_share * self.unit_count + 1e-9))
        return most

    @cached_property
    def priced(self) -> Problem:
        """The same question with all devices `priced`; the problem itself when no device is to be spared."""
        if all(device.cost_factor == 1.0 for device in self.devices):
            return self
        return replace(self, devices=tuple(device.priced for device in self.devices))

    def only(self, nodes: Collection[str]) -> Problem:
        """The same question for these of the devices."""
        return replace(self, devices=tuple(device for device in self.devices if device.name in nodes))

    def alone(self, device: Device) -> tuple[Stage, ...]:
        """The plan of one device that holds everything."""
        return (Stage(device.name, 0, self.unit_count),)

    @cached_property
    def incumbent_place(self) -> dict[str, int]:
        """The first place of each node in the incumbent, by name."""
        return {stage.node: index for index, stage in reversed(list(enumerate(self.incumbent)))}

    @cached_property
    def eligible(self) -> tuple[Device, ...]:
        """Devices the constraints let take part, in fleet order."""
        return tuple(device for device in self.devices if self.constraints.refusal(device) is None)


def _check_device(device: Device, run_count: int) -> None:
    for name in ("decode_s", "prefill_s", "batched_s"):
        figures: tuple[float, ...] = getattr(device, name)
        if len(figures) != run_count:
            raise PlanningError(f"device {device.name!r}: {name} has {len(figures)} figures for {run_count} runs")
        if not all(math.isfinite(figure) and figure >= 0 for figure in figures):
            raise PlanningError(f"device {device.name!r}: {name} must be finite and not negative")
    if not 0 < device.cost_factor < math.inf:
        raise PlanningError(f"device {device.name!r}: cost_factor must be above 0")
    if not (math.isfinite(device.hop_s) and device.hop_s >= 0 and 0 <= device.hop_busy_s < math.inf):
        raise PlanningError(f"device {device.name!r}: hop_s and hop_busy_s must be finite and not negative")
    if device.link_bytes_per_s <= 0:
        raise PlanningError(f"device {device.name!r}: link_bytes_per_s must be above 0")


def _check_pins(constraints: Constraints, unit_count: int) -> None:
    owner: dict[int, str] = {}
    for pin in constraints.pins:
        if not 0 <= pin.start < pin.stop <= unit_count:
            raise PlanningError(f"pin of {pin}: units go from 0 to {unit_count}")
        for unit in range(pin.start, pin.stop):
            if owner.setdefault(unit, pin.node) != pin.node:
                raise PlanningError(f"unit {unit} is pinned to {owner[unit]!r} and to {pin.node!r}: drop one pin")
