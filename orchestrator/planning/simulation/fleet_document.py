"""What a fleet file may say: dataclasses of the contract, which check it. See docs/planning.md."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from orchestrator.planning.problem import Problem
from orchestrator.planning.simulation.scenario import Workload
from schemas.contract import Items, Number, Text, about
from schemas.messages import ObjectiveName

_MOST = 1e15

Word = Annotated[str, Text(min_length=1, max_length=200)]
Amount = Annotated[float, Number(0, _MOST)]
PositiveAmount = Annotated[float, Number(0, _MOST, exclusive=True)]
Count = Annotated[int, Number(0, 10**15)]
PositiveCount = Annotated[int, Number(1, 10**15)]
Percent = Annotated[float, Number(0, 100)]


@dataclass(frozen=True, kw_only=True, slots=True)
class UnitSection:
    """A kind of unit: the embedding, a block or the head."""

    memory_mb: Amount = about("Resident size of the weights.")
    disk_mb: Amount | None = about("Size on disk; the same when left out.", default=None)
    kv_bytes_per_token: Count = about("KV cache per token of context and slot.", default=0)
    mflops_per_token: Amount = about("Work per token.", default=0.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSection:
    """The chain of units."""

    name: Word = about("The model's name.", default="model")
    blocks: PositiveCount = about("How many decoder blocks it has.")
    embed: UnitSection = about("The embedding.")
    block: UnitSection = about("A decoder block.")
    head: UnitSection = about("The head.")
    tied_mb: Amount = about("Memory saved on a device that has embedding and head.", default=0.0)
    hidden_bytes: Count = about("One token's hidden state on the wire.", default=0)


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceSection:
    """A device, or ``count`` equal ones with numbered names."""

    name: Word = about("The device's name.")
    count: Annotated[int, Number(1, 10_000)] = about("How many there are.", default=1)
    memory_mb: Amount = about("Memory that may be used.")
    block_ms: PositiveAmount = about("A decode step of one block.")
    embed_ms: Amount = about("A decode step of the embedding.", default=0.0)
    head_ms: Amount = about("A decode step of the head.", default=0.0)
    prefill_speedup: PositiveAmount = about("How much quicker a token of a prompt is.", default=4.0)
    batch_speedup: PositiveAmount | None = about("How much quicker a token in a batch is.", default=None)
    hop_ms: Amount = about("The way through the broker to the next device.", default=0.0)
    hop_busy_ms: Amount = about("The part of it that keeps the device from computing.", default=0.0)
    link_mbit_per_s: PositiveAmount | None = about("Rate of the link; unlimited when left out.", default=None)
    storage_mb: Amount | None = about("Disk that may be used; unlimited when left out.", default=None)
    overhead_mb: Amount = about("Memory of the runtime.", default=0.0)
    live_move_mb: Amount = about("Memory to be kept for live moves.", default=0.0)
    gflops: PositiveAmount | None = about("Speed for the objective paper.", default=None)
    battery_percent: Percent | None = about("Charge; left out: mains power.", default=None)
    charging: bool = about("Is it on the charger?", default=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class PinSection:
    """Units that have to be on one node."""

    node: Word = about("The node.")
    start: Count = about("First unit.")
    stop: PositiveCount = about("One past the last unit.")


@dataclass(frozen=True, kw_only=True, slots=True)
class LimitSection:
    """What a person allows on one node."""

    node: Word = about("The node.")
    max_units: Count | None = about("Most units.", default=None)
    max_share: Annotated[float, Number(0, 1)] | None = about("Largest share of all units.", default=None)
    max_memory_mb: Amount | None = about("Most memory.", default=None)


@dataclass(frozen=True, kw_only=True, slots=True)
class ConstraintsSection:
    """What a person states."""

    pins: Annotated[tuple[PinSection, ...], Items(10_000)] = about("Units that have to be on a node.", default=())
    exclude: Annotated[tuple[Word, ...], Items(10_000)] = about("Devices that take no part.", default=())
    limits: Annotated[tuple[LimitSection, ...], Items(10_000)] = about("Limits of single nodes.", default=())
    min_battery_percent: Percent | None = about("Devices with less charge take no part.", default=None)
    only_on_charger: bool = about("Devices on their battery take no part.", default=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanSection:
    """What to plan for."""

    objective: ObjectiveName = about("What the best plan is best at.", default="latency")
    context_tokens: PositiveCount = about("Positions per request.", default=2048)
    slots: PositiveCount = about("Requests with a KV cache.", default=Problem.slots)
    streams: PositiveCount | None = about("Requests at once; left out: as many as fill the pipeline.", default=None)
    constraints: ConstraintsSection = about("What a person states.", default=ConstraintsSection())
    workspace_mb: Amount = about("Memory for activations on each device used.", default=0.0)
    prompt_tokens: PositiveCount = about("Length of a prompt.", default=Problem.prompt_tokens)
    prefill_chunk_tokens: PositiveCount = about("Tokens of a prompt in one run.", default=Problem.prefill_chunk_tokens)
    balanced_tolerance: Amount = about("How much slower a balanced plan may be.", default=Problem.balanced_tolerance)
    time_limit_s: PositiveAmount = about("How long the solver may take.", default=Problem.time_limit_s)
    replicas: bool = about("Plan several pipelines.", default=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkloadSection:
    """What is asked."""

    streams: PositiveCount = about("Readers who ask again as soon as they have an answer.", default=Workload.streams)
    arrivals_per_s: PositiveAmount | None = about("Or requests at random.", default=None)
    prompt_tokens: PositiveCount = about("Length of a prompt.", default=Workload.prompt_tokens)
    answer_tokens: PositiveCount = about("Length of an answer.", default=Workload.answer_tokens)
    duration_s: PositiveAmount = about("How long to play.", default=Workload.duration_s)
    warmup_s: Amount = about("When figures begin to count.", default=Workload.warmup_s)
    seed: Count = about("Same seed, same run.", default=Workload.seed)
    jitter: Amount = about("Standard deviation of the logarithm of job times.", default=Workload.jitter)
    reload_s: Amount = about("How long a lost pipeline takes to load its new plan.", default=Workload.reload_s)
    balance_every_s: PositiveAmount = about("How often the balancer looks.", default=Workload.balance_every_s)


@dataclass(frozen=True, kw_only=True, slots=True)
class EventSection:
    """What happens to a device: exactly one of ``speed``, ``leaves`` and ``joins``."""

    at_s: Amount = about("When.")
    device: Word = about("The device.")
    speed: PositiveAmount | None = about("Its speed from now on; 1 is as planned.", default=None)
    leaves: bool = about("It goes away.", default=False)
    joins: bool = about("It comes back.", default=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class FleetDocument:
    """A fleet file."""

    model: ModelSection = about("The model.")
    devices: Annotated[tuple[DeviceSection, ...], Items(10_000, 1)] = about("The devices.")
    plan: PlanSection = about("What to plan for.", default=PlanSection())
    workload: WorkloadSection = about("What is asked.", default=WorkloadSection())
    events: Annotated[tuple[EventSection, ...], Items(10_000)] = about("What happens meanwhile.", default=())
