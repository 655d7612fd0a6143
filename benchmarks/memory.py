"""Memory that a plan reckons with for a node, and what the node takes: found is no more, and no less than 0.85 of it.

Both without what the node held when it came. Found is the largest resident memory since the node measured itself, pages
of mapped files included: a phone's memory killer counts them, too. One request fills the context that is served.

Layouts: each model in three precisions, with both ends of the ring on one node (the other has all blocks) and with one
end on each, in a context of 512; one of the two in 2048; three layouts in 8192, the longest context of SmolLM2. Where
weights of a file are of four bits, `int8` keeps them so and is the model of `auto`: another precision comes instead.
"""

from __future__ import annotations

import argparse
import itertools
import random
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import gguf_models
from harness import Result, main, note
from services import until
from smollm2 import open_smollm2

from broker.local_broker import LocalBroker
from orchestrator.client import Client
from orchestrator.commands.demo_model import demo_checkpoint
from orchestrator.commands.settings import default_cache
from orchestrator.fleet import profiles
from orchestrator.model.model import Model
from orchestrator.model.progress import silent
from orchestrator.service.config import ServiceConfig
from orchestrator.service.database import Database
from orchestrator.timing import Timing
from schemas.limits import MB
from schemas.messages import PlanConstraints, Sampling
from tests.support.nodes import NodeProcess, running_nodes
from tests.support.services import patient_client, running_service

MODELS = {
    "SmolLM2": ("", ("auto", "fp32", "fp16")),
    "Gemma 3 270M": ("gemma-3-270m-q4_k_m.gguf", ("auto", "int4", "fp16")),
    "Qwen2.5-Coder 0.5B": ("qwen2.5-coder-0.5b.gguf", ("auto", "int4", "fp16")),
}
LONGEST = (("SmolLM2", "auto", "apart"), ("SmolLM2", "fp16", "together"), ("Gemma 3 270M", "auto", "apart"))
"""Layouts with 8192 positions: minutes each."""
NODES = ("node-0", "node-1")
ANSWER_TOKENS = 64
SPARE_TOKENS = 8
"""Positions left free, for tokens that begin a text."""
PATIENCE_S = 600.0
"""The plan waits so long until the nodes have measured themselves with the model."""
FULL_SHARE = 0.85
"""Less found than this share of what is planned: layers would have fitted that the plan did not give."""


@dataclass(frozen=True)
class Layout:
    """A model on two nodes. ``ends``: are embedding and head ``together`` on one node, or ``apart``?"""

    model: str
    precision: str
    ends: str
    context_tokens: int

    def __str__(self) -> str:
        return f"{self.model} {self.precision}, ends {self.ends}, context {self.context_tokens}"

    def constraints(self, blocks: int) -> PlanConstraints:
        """Constraints that only this layout fulfils."""
        first, second = NODES
        if self.ends == "together":
            return PlanConstraints(pins=(("ends", first), (f"0-{blocks - 1}", second)))
        half = blocks // 2
        pins = (("embed", first), (f"0-{half - 1}", first), (f"{half}-{blocks - 1}", second), ("head", second))
        return PlanConstraints(pins=pins)


@dataclass(frozen=True)
class NodeMemory:
    """Bytes of a node beside those that it held when it came."""

    node: str
    planned_bytes: int
    found_bytes: int

    @property
    def ratio(self) -> float:
        return self.found_bytes / self.planned_bytes


def layouts() -> Iterator[Layout]:
    """The thirty, short contexts first."""
    kinds = [(model, precision) for model, (_, precisions) in MODELS.items() for precision in precisions]
    for (model, precision), ends in itertools.product(kinds, ("together", "apart")):
        yield Layout(model, precision, ends, 512)
    for (model, precision), ends in zip(kinds, itertools.cycle(("together", "apart")), strict=False):
        yield Layout(model, precision, ends, 2048)
    for model, precision, ends in LONGEST:
        yield Layout(model, precision, ends, 8192)


def open_model(model: str, precision: str) -> Model:
    """A model in a precision, converted once."""
    file, _ = MODELS[model]
    if not file and precision == "auto":
        return open_smollm2("fast")
    if not file:
        return gguf_models.open_gguf(demo_checkpoint(default_cache(), silent), precision)
    downloads = {path.name: path for path in gguf_models.fetch_all()}
    return gguf_models.open_gguf(downloads[file], precision)


def measure_layout(model: Model, layout: Layout) -> list[NodeMemory]:
    """Plan a layout by the real orchestrator, serve one request that fills its context, read the nodes' peaks."""
    constraints = layout.constraints(model.manifest.num_units - 2)
    with (
        # What is measured beside a stage would count, or be forgotten with the peak.
        mock.patch.object(profiles, "PROBE_PATIENCE_S", PATIENCE_S),
        tempfile.TemporaryDirectory(prefix="linguabus-bench-", dir=model.blobs_folder.parent) as folder,
        LocalBroker(kind="mosquitto") as broker,
    ):
        data = Path(folder, "orchestrator")
        data.mkdir()
        with Database(data / "state.sqlite3") as database:  # the first plan is the wanted one: no other leaves traces
            database.save_constraints("main", constraints)
        config = ServiceConfig(
            broker_url=broker.url, data_dir=data, models_dir=model.blobs_folder.parent, model=model.manifest.name,
            min_nodes=len(NODES), context_tokens=layout.context_tokens, slots=1,
            draft_tokens=0, pipelines=1, balance=False, timing=Timing(settle_s=0.5, start_s=1.5),
        )  # fmt: skip
        with (
            running_nodes(NODES, broker.url, Path(folder)) as nodes,
            running_service(config),
            patient_client(broker.url) as client,  # a large vocabulary is read for seconds
        ):
            until("the plan", lambda: client.status().state == "serving", every_s=0.2)
            _fill(client, model, layout.context_tokens)
            return _memory(client, nodes)


def _fill(client: Client, model: Model, context_tokens: int) -> None:
    """An answer of unlikely tokens, to as many as there is room for, drawn from the whole vocabulary.

    Which pages of an embedding become resident depends on the text, and no text has more of them.
    """
    tokenizer, room = model.tokenizer(), context_tokens - ANSWER_TOKENS - SPARE_TOKENS
    vocabulary = range(model.manifest.vocab_size)
    ids = random.Random(context_tokens).sample(vocabulary, min(room, len(vocabulary)))
    while len(encoded := list(tokenizer.encode(tokenizer.decode(ids)))) > room:
        del ids[len(ids) * room // len(encoded) - 1 :]
    prompt = tokenizer.decode(ids)
    for _ in client.ask(prompt=prompt, max_tokens=ANSWER_TOKENS, sampling=Sampling(temperature=2.0)):
        pass


def _memory(client: Client, nodes: dict[str, NodeProcess]) -> list[NodeMemory]:
    planned = {stage.node: stage.planned_bytes for stage in client.plan().stages}
    before = {view.node: view.overhead_bytes for view in client.nodes().nodes}
    return [
        NodeMemory(name, planned[name] - before[name], _peak_bytes(node.pid) - before[name])
        for name, node in nodes.items()
    ]


def _peak_bytes(pid: int) -> int:
    """Largest resident memory of a process since it last forgot its peak."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (peak,) = [line for line in lines if line.startswith("VmHWM")]
    return int(peak.split()[1]) * 1024


def measure(quick: bool, only: str = "") -> list[Result]:
    """Planned and found memory of every node of every layout, without what it held when it came."""
    chosen = [Layout("SmolLM2", "auto", "apart", 512)] if quick else list(layouts())
    results = []
    for layout in chosen:
        if only not in str(layout):
            continue
        model = open_model(layout.model, layout.precision)
        for node in measure_layout(model, layout):
            name = f"{layout}, {node.node}"
            planned_mb, found_mb = node.planned_bytes / MB, node.found_bytes / MB
            note(f"{name}: planned {planned_mb:.0f} MB, found {found_mb:.0f} MB, {node.ratio:.2f}")
            results += [
                Result(f"{name}: planned", planned_mb, "MB"),
                Result(f"{name}: found", found_mb, "MB", at_most=planned_mb),
                Result(f"{name}: found over planned", node.ratio, "ratio", at_least=FULL_SHARE),
            ]
    return results


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", default="", metavar="TEXT", help="layouts whose name has this in it")


if __name__ == "__main__":
    main("memory", measure, add_options=_options)
