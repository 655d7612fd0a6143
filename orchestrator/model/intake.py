"""From a source to a model folder that may go into the store: converted, cut, packed, and compared with the source."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from orchestrator.model.convert import checkpoint_of, convert, convert_first_blocks
from orchestrator.model.describe import Identity, describe
from orchestrator.model.errors import WrongConversion
from orchestrator.model.graph import read_model, require_shared_caches, resolve
from orchestrator.model.manifest import Manifest
from orchestrator.model.model import GRAPH_FILE, TOKENIZER_FOLDER, Model
from orchestrator.model.onnx_files import read_decoder
from orchestrator.model.parity import compare_with_checkpoint, compare_with_graph, compute_reference, probe_ids
from orchestrator.model.parity_report import CHECK_FILE, ParityReport
from orchestrator.model.passages import encode_passages
from orchestrator.model.progress import Progress
from orchestrator.model.quality import measure_with_wires
from orchestrator.model.quality_report import (
    QUALITY_FILE,
    ROWS_FILE,
    QualityReport,
    SourceRows,
    read_quality,
    read_rows,
)
from orchestrator.model.rewrite import (
    embedding_tables,
    matrices,
    settle_table_choice,
    store_as_half,
    untranspose_embedding,
)
from orchestrator.model.source import Source
from orchestrator.model.split import plan_split
from orchestrator.model.subject import Subject
from orchestrator.model.tokenizer import ModelTokenizer, copy_tokenizer
from orchestrator.model.weights import pack, refer_to_blobs

PROBE_TEXT = (
    "The river rises in the mountains and reaches the sea after 1,234 kilometres. Why does it never run dry? "
    "Because its springs are fed by snow that melts slowly, from April until September."
)


@dataclass(frozen=True)
class Judgement:
    """A comparison of a model with its source: whether it computes the same, and how well."""

    parity: ParityReport
    quality: QualityReport
    rows: SourceRows

    def save(self, folder: Path) -> None:
        """Write its files into a model's folder, or one that they are moved from."""
        (folder / CHECK_FILE).write_text(self.parity.to_json(), "utf-8")
        (folder / QUALITY_FILE).write_text(self.quality.to_json(), "utf-8")
        (folder / ROWS_FILE).write_text(self.rows.to_json(), "utf-8")


def take_in(source: Source, precision: str, partial: Path, identity: Identity, progress: Progress) -> Manifest:
    """Make ``partial/model`` and ``partial/blobs`` of a source; what else is in ``partial`` then can go.

    Args:
        precision: an ONNX decoder keeps its own.

    Raises:
        WrongConversion: the result computes something else than the source.
        ModelError: by kind; see `orchestrator.model.errors`.
    """
    if source.kind == "onnx":
        checkpoint, graph = None, _graph_of(source)
    else:
        checkpoint = checkpoint_of(source, partial, progress)
        graph = _graph_in(convert(source.text, checkpoint, precision, partial, progress))
    ready = partial / "model"
    tokenizer = ready / TOKENIZER_FOLDER
    copy_tokenizer((checkpoint or source.path, graph.parent), tokenizer)
    model = read_decoder(graph)
    untranspose_embedding(model)
    settle_table_choice(model)
    if checkpoint is not None:
        halved = {"fp16": matrices, "int8": embedding_tables, "int4": embedding_tables}.get(precision)
        if halved is not None:
            store_as_half(model, graph.parent, partial, halved(model))
    decoder = resolve(model, graph.parent)
    require_shared_caches(decoder)
    plan = plan_split(decoder)
    blobs, places = pack(plan, partial / "blobs", lambda done, total: progress("split", done, total))
    (ready / GRAPH_FILE).write_bytes(refer_to_blobs(plan, places))
    manifest = describe(plan, blobs, tokenizer, identity, precision if checkpoint else None)
    subject = _subject(ready, partial / "blobs", manifest)
    report, rows = _compare(source, checkpoint, subject, ready / TOKENIZER_FOLDER, manifest, partial, progress)
    problems = report.problems()
    if problems:
        raise WrongConversion(source.text, problems)
    quality = measure_with_wires(subject, manifest.profile, rows, source.size_bytes, progress)
    Judgement(report, quality, rows).save(ready)
    return manifest


def compare_again(source: Source, model: Model, scratch: Path, progress: Progress) -> Judgement:
    """Compare a model of the store with the source that it came from; ``scratch`` is an empty folder.

    Raises:
        ModelError: the source can't be read any more; by kind.
    """
    checkpoint = None if source.kind == "onnx" else checkpoint_of(source, scratch, progress)
    subject = _subject(model.folder, model.blobs_folder, model.manifest)
    tokenizer = model.folder / TOKENIZER_FOLDER
    report, rows = _compare(source, checkpoint, subject, tokenizer, model.manifest, scratch, progress)
    quality = measure_with_wires(subject, model.manifest.profile, rows, source.size_bytes, progress)
    return Judgement(report, quality, rows)


def measure_again(folder: Path, blobs_folder: Path, manifest: Manifest, progress: Progress) -> None:
    """Write anew how good the model in ``folder`` is, which has another profile now; its source is not needed."""
    before, rows = read_quality(folder), read_rows(folder / ROWS_FILE)
    assert before is not None
    subject = _subject(folder, blobs_folder, manifest)
    report = measure_with_wires(subject, manifest.profile, rows, before.source_bytes, progress)
    (folder / QUALITY_FILE).write_text(report.to_json(), "utf-8")


def _subject(folder: Path, blobs_folder: Path, manifest: Manifest) -> Subject:
    plan = plan_split(resolve(read_model(folder / GRAPH_FILE), blobs_folder))
    return Subject(plan, blobs_folder, manifest.layers)


def _compare(
    source: Source,
    checkpoint: Path | None,
    subject: Subject,
    tokenizer_folder: Path,
    manifest: Manifest,
    scratch: Path,
    progress: Progress,
) -> tuple[ParityReport, SourceRows]:
    tokenizer = ModelTokenizer(tokenizer_folder)
    text_ids = tokenizer.encode(PROBE_TEXT)
    ids = probe_ids([i for i in text_ids if i < manifest.vocab_size], manifest.vocab_size)
    passages = encode_passages(tokenizer, manifest.vocab_size, manifest.max_context)
    if checkpoint is None:
        report = compare_with_graph(source.text, _graph_of(source), subject, manifest, ids, scratch, progress)
        return report, SourceRows(passages, (), ())
    reference = compute_reference(
        source.text,
        checkpoint,
        ids,
        passages,
        layers=manifest.num_layers,
        max_context=manifest.max_context,
        scratch=scratch,
        progress=progress,
    )

    def first_blocks(count: int) -> Subject:
        graph = _graph_in(convert_first_blocks(source.text, checkpoint, count, scratch, progress))
        model = read_model(graph)
        settle_table_choice(model)
        return Subject(plan_split(resolve(model, graph.parent)), graph.parent, manifest.layers[:count])

    report = compare_with_checkpoint(reference, subject, manifest, ids, progress, first_blocks)
    return report, read_rows(reference / ROWS_FILE)


def _graph_of(source: Source) -> Path:
    assert source.graph is not None
    return source.graph


def _graph_in(folder: Path) -> Path:
    """The decoder that the builder has written."""
    return folder / "model.onnx"
