"""Does a converted model compute what its source computes?

The source's hidden states come from a process of its own (`orchestrator.model.reference`), which has ended before the
converted model is looked at: one unit at a time, so that neither takes more memory than converting did.

* **Each unit** is given the source's hidden states, and its change of them is compared, with float32 activations. A
  wrong block stands out at any precision, because what rounding does to one block is small and known.
* **The first blocks**, as many as it takes to have every kind of layer, are compared closely, on a text that is longer
  than the attention window and than what a scaled rotary embedding was trained with. Where weights are quantised they
  are built once more in float32 for that.
* **Rotary tables** are compared at positions up to the model's context: no text has to be that long.
* **The whole model** gives logits: prefill, then decode, in the numeric profile it will be used with.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.model.differences import change_differences, likeliest, relative_differences
from orchestrator.model.manifest import Manifest
from orchestrator.model.parity_report import ROPE_LIMIT, ParityReport
from orchestrator.model.precision import PROFILES, QUANTISED
from orchestrator.model.progress import Progress
from orchestrator.model.reference import ANY_LAYER, ReferenceReport, ReferenceRequest, read_report
from orchestrator.model.rotary import computed_rows, table_pairs, table_values
from orchestrator.model.split import SplitPlan
from orchestrator.model.subject import DECODE_TOKENS, THREADS, Subject, steps_of
from orchestrator.model.subproc import run_module
from orchestrator.model.weights import float32_values

if TYPE_CHECKING:
    from numpy.typing import NDArray

PREFILL_TOKENS = 28
PREFILL_CHUNK = 512
"""Of a longer text: attention over all of it at once would take memory for every pair of positions."""
MOST_TOKENS, MOST_BLOCKS = 4224, 8
_RUNS = 2
"""Through all layers of the source: one of the short text, and one of the passages."""
EXACT = PROFILES["exact"].accuracy_level


def probe_ids(text_ids: Sequence[int], vocab_size: int) -> list[int]:
    """The tokens of the short text: some that people write, or a fixed mix of ids where there are too few of them."""
    count = PREFILL_TOKENS + DECODE_TOKENS
    mixed = [(7 + 37 * i) % vocab_size for i in range(count)]
    return [*text_ids[:count], *mixed[len(text_ids[:count]) :]]


def compute_reference(
    what: str,
    checkpoint: Path,
    ids: list[int],
    passages: Sequence[Sequence[int]],
    *,
    layers: int,
    max_context: int,
    scratch: Path,
    progress: Progress,
) -> Path:
    """Have transformers compute what the source computes; a folder of ``scratch`` with it.

    Args:
        what: the source, for messages.
        checkpoint: its Hugging Face folder.
        ids: the short text.
        passages: texts whose next tokens are judged; see `orchestrator.model.quality`.
        layers, max_context: of the model.

    Raises:
        BrokenModel: the checkpoint has NaN or infinity in its weights.
        ConversionFailed: transformers can't load or run it.
    """
    positions = _rope_positions(max_context)
    request = ReferenceRequest(ids, [list(p) for p in passages], positions, MOST_TOKENS, MOST_BLOCKS)
    out, asked = scratch / "reference", scratch / "request.json"
    asked.write_text(json.dumps(asdict(request)), "utf-8")

    def on_line(line: str) -> None:
        if line.startswith("layer "):
            progress("reference", min(int(line.split()[1]) // _RUNS, layers), layers)

    progress("reference", 0, layers)
    arguments = [str(checkpoint), str(out), str(asked)]
    run_module("orchestrator.model.reference", arguments, f"computing {what} with transformers", on_line, scratch)
    return out


def compare_with_checkpoint(
    reference: Path,
    subject: Subject,
    manifest: Manifest,
    ids: list[int],
    progress: Progress,
    in_float32: Callable[[int], Subject],
) -> ParityReport:
    """Compare a converted model with the Hugging Face folder that it was made from.

    Args:
        reference: what `compute_reference` made of that folder.
        ids: the short text.
        in_float32: builds the first blocks, given how many, once more with the checkpoint's own weights.
    """
    told = read_report(reference)
    comparison = _Comparison(subject, manifest, ids, reference, told, progress)
    differences = comparison.units()
    if manifest.precision in QUANTISED:
        close = comparison.structure(in_float32(told.long_blocks))
    else:
        close = comparison.structure(subject)
    return comparison.report(differences, close)


def compare_with_graph(
    what: str, graph: Path, subject: Subject, manifest: Manifest, ids: list[int], scratch: Path, progress: Progress
) -> ParityReport:
    """Compare an ONNX decoder that was cut into units with itself as it came.

    Args:
        what: the source, for messages.
        ids: the text.

    Raises:
        ConversionFailed: ONNX Runtime can't run it.
    """
    import numpy as np

    out, asked = scratch / "logits.npy", scratch / "request.json"
    request = {
        "ids": ids,
        "steps": list(steps_of(len(ids), PREFILL_TOKENS)),
        "layers": [asdict(layer) for layer in manifest.layers],
        "threads": THREADS,
    }
    asked.write_text(json.dumps(request), "utf-8")
    progress("reference", 0, 0)
    arguments = [str(graph), str(out), str(asked)]
    run_module("orchestrator.model.source_graph", arguments, f"running {what} in one piece", lambda _: None, scratch)
    wanted = np.load(out)
    made: NDArray[Any] | None = None
    for unit in range(subject.plan.num_units):
        progress("compare", unit, subject.plan.num_units)
        made = subject.through(subject.open(unit, EXACT), ids, made, PREFILL_TOKENS)
    progress("compare", subject.plan.num_units, subject.plan.num_units)
    assert made is not None
    return ParityReport(
        reference="the same graph in one piece, run by ONNX Runtime",
        precision=_float_of(manifest),
        carried=1.0,
        profile="exact",
        rows=len(ids),
        logits_difference=float(relative_differences(made, wanted).max()),
        argmax_agreement=float((made.argmax(-1) == wanted.argmax(-1)).mean()),
        unit_difference=None,
        worst_unit=None,
        structure_difference=None,
        structure_blocks=0,
        structure_tokens=0,
        vectors=0,
        vectors_difference=None,
        rope_difference=None,
        rope_positions=0,
        not_compared=("the graph with the checkpoint that it was exported from",),
    )


def _float_of(manifest: Manifest) -> str:
    """The precision that bounds how far a graph is from itself: its weights are the same, whatever they are."""
    return "fp16" if manifest.hidden_dtype == "float16" else "fp32"


class _Comparison:
    """One model and what its source computed."""

    def __init__(
        self,
        subject: Subject,
        manifest: Manifest,
        ids: list[int],
        out: Path,
        told: ReferenceReport,
        progress: Progress,
    ) -> None:
        import numpy as np

        self.subject, self.manifest, self.ids, self.told, self.out = subject, manifest, ids, told, out
        self.progress = progress
        self.hidden = np.load(out / "short.npy", mmap_mode="r")
        self.expected_logits = np.load(out / "logits.npy")
        self.not_compared = list(told.left_out)
        self.logits: NDArray[Any] | None = None

    def units(self) -> dict[int, float]:
        """The usual difference of each unit, given the source's hidden states; on the way, the logits of all."""
        import numpy as np

        plan, head = self.subject.plan, self.subject.plan.num_units - 1
        level = self.manifest.numerics.accuracy_level
        width = self.hidden.shape[-1]
        comparable = all(len(b.tensors) == 1 and b.width == width for b in plan.boundaries)
        if not comparable:
            self.not_compared.append("each unit alone: more than one tensor crosses a boundary")
        own: NDArray[Any] | None = None
        found = {}
        quantised = self.manifest.precision in QUANTISED
        for unit in range(plan.num_units):
            self.progress("compare", unit, plan.num_units)
            session = self.subject.open(unit, EXACT)
            if comparable:
                given = np.array(self.hidden[unit - 1]) if unit else None
                made = self.subject.through(session, self.ids, given, PREFILL_TOKENS)
                rows = (
                    change_differences(given, made, self.hidden[unit])
                    if unit < head
                    else relative_differences(*likeliest(made, self.expected_logits))
                )
                found[unit] = float(np.median(rows))
            if quantised and level != EXACT:
                session = self.subject.open(unit, level)
            own = self.subject.through(session, self.ids, own, PREFILL_TOKENS)
        self.progress("compare", plan.num_units, plan.num_units)
        self.logits = own
        return found

    def structure(self, subject: Subject) -> float:
        """The largest difference at any position of the first blocks of ``subject`` and of its head."""
        import numpy as np

        ids, hidden = self.ids, self.hidden
        if self.told.long_ids:
            ids, hidden = self.told.long_ids, np.load(self.out / "long.npy", mmap_mode="r")
        if any(len(b.tensors) > 1 or b.width != hidden.shape[-1] for b in subject.plan.boundaries):
            return float("nan")
        largest = 0.0
        count = self.told.long_blocks + 1
        for unit in range(count):
            self.progress("structure", unit, count + 1)
            given = np.array(hidden[unit - 1]) if unit else None
            made = subject.through(subject.open(unit, EXACT), ids, given, PREFILL_CHUNK)
            largest = max(largest, float(change_differences(given, made, hidden[unit]).max()))
        head = subject.plan.num_units - 1
        given = np.array(self.hidden[-1])
        made = subject.through(subject.open(head, EXACT), self.ids, given, PREFILL_TOKENS)
        self.progress("structure", count + 1, count + 1)
        return max(largest, float(relative_differences(made, self.expected_logits).max()))

    def report(self, units: dict[int, float], structure: float) -> ParityReport:
        assert self.logits is not None
        worst = max(units, key=units.__getitem__, default=None)
        rope, positions = self._rope()
        vectors = self._vectors()
        return ParityReport(
            reference=f"{self.told.library}, float32",
            precision=self.manifest.precision,
            carried=self.manifest.carried,
            profile=self.manifest.profile,
            rows=len(self.ids),
            logits_difference=float(relative_differences(self.logits, self.expected_logits).max()),
            argmax_agreement=float((self.logits.argmax(-1) == self.expected_logits.argmax(-1)).mean()),
            unit_difference=None if worst is None else units[worst],
            worst_unit=worst,
            structure_difference=structure if structure == structure else None,
            structure_blocks=self.told.long_blocks,
            structure_tokens=len(self.told.long_ids or self.ids),
            vectors=len(vectors),
            vectors_difference=max(vectors, default=None),
            rope_difference=rope,
            rope_positions=positions,
            not_compared=tuple(self.not_compared),
        )

    def _rope(self) -> tuple[float | None, int]:
        """The largest difference of a rotary table, over its limit, and how many positions it has."""
        import numpy as np

        positions = np.array(_rope_positions(self.manifest.max_context))
        limit = ROPE_LIMIT * np.maximum(1, positions / 10_000)[:, None]
        largest, seen = None, set()
        for layer, tables in rotary_tables(self.subject.plan):
            kind = self.told.kinds[layer]
            kind = kind if kind in self.told.rope_kinds else ANY_LAYER
            if kind not in self.told.rope_kinds or (kind, tables) in seen:
                continue
            seen.add((kind, tables))
            wanted = np.load(self.out / f"rope-{kind}.npy")
            values = table_values(self.subject.plan.decoder.model.graph, tables, self.subject.folder)
            for value, expected in zip(values, wanted, strict=True):
                found = value[positions]
                if found.shape != expected.shape:
                    return float("inf"), int(positions[-1]) + 1
                largest = max(largest or 0.0, float((np.abs(found - expected) / limit).max()))
        if largest is None:
            self.not_compared.append("rotary tables: the graph has none")
        return largest, int(positions[-1]) + 1

    def _vectors(self) -> list[float]:
        """By weight with one dimension that source and graph have under one name: the largest difference of a value."""
        import numpy as np

        found = []
        with np.load(self.out / "vectors.npz") as wanted:
            for name in self.subject.plan.decoder.initializers.keys() & set(wanted.files):
                apart = self._values(name) - wanted[name]
                # Some norms multiply with one more than their weight; a graph has the sum.
                found.append(float(min(np.abs(apart).max(), np.abs(apart - 1).max())))
        return found

    def _values(self, name: str) -> NDArray[Any]:
        return float32_values(self.subject.plan.decoder.initializers[name], self.subject.folder)


def rotary_tables(plan: SplitPlan) -> Iterator[tuple[int, tuple[str, str]]]:
    """(layer, names of its cosines and sines) for each node that turns queries and keys of a layer."""
    graph, weights = plan.decoder.model.graph, plan.decoder.initializers
    for step, unit in zip(plan.decoder.core, plan.unit_of, strict=True):
        node = graph.node[step.node]
        told = any(a.name == "do_rotary" and a.i for a in node.attribute)
        if (told or node.op_type == "RotaryEmbedding") and unit > 0:
            for cos, sin in table_pairs([node]):
                if computed_rows(weights, cos) or (cos in weights and sin in weights):
                    yield unit - 1, (cos, sin)


def _rope_positions(context: int) -> list[int]:
    """The first ones, and some around each power of two up to the end."""
    powers = [1 << n for n in range(6, context.bit_length())]
    near = {p + d for p in powers for d in (-1, 0, 1)} | set(range(64)) | {context - 1}
    return sorted(p for p in near if 0 <= p < context)
