"""From a source to a model folder that may go into the store: converted, cut, packed, and compared with the source."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from broker.heap import trimming
from orchestrator.model.assemble import assemble
from orchestrator.model.candidate import Candidate, choose
from orchestrator.model.convert import checkpoint_of, convert, convert_first_blocks
from orchestrator.model.describe import Identity, describe
from orchestrator.model.errors import WrongConversion
from orchestrator.model.graph import copied, read_model, require_shared_caches, resolve
from orchestrator.model.manifest import Manifest
from orchestrator.model.model import GRAPH_FILE, TOKENIZER_FOLDER, Model
from orchestrator.model.onnx_files import read_decoder
from orchestrator.model.parity import compare_with_checkpoint, compare_with_graph, compute_reference, probe_ids
from orchestrator.model.parity_report import CHECK_FILE, ParityReport
from orchestrator.model.passages import encode_passages
from orchestrator.model.precision import PROFILES
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
from orchestrator.model.quantise.outliers import find_outliers
from orchestrator.model.reference import read_hidden
from orchestrator.model.rewrite import settle_table_choice, untranspose_embedding
from orchestrator.model.room import require_room
from orchestrator.model.rotary import compute_tables
from orchestrator.model.source import Source
from orchestrator.model.split import plan_split
from orchestrator.model.subject import Subject
from orchestrator.model.tokenizer import ModelTokenizer, copy_tokenizer, require_tokenizer
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


@dataclass(frozen=True)
class _Probe:
    """What a model is tried with: a short text, and passages."""

    ids: list[int]
    passages: tuple[tuple[int, ...], ...]

    @staticmethod
    def of(tokenizer_folder: Path, manifest: Manifest) -> _Probe:
        tokenizer = ModelTokenizer(tokenizer_folder)
        ids = [i for i in tokenizer.encode(PROBE_TEXT) if i < manifest.vocab_size]
        passages = encode_passages(tokenizer, manifest.vocab_size, manifest.max_context)
        return _Probe(probe_ids(ids, manifest.vocab_size), passages)


def take_in(source: Source, precision: str, partial: Path, identity: Identity, progress: Progress) -> Manifest:
    """Make ``partial/model`` and ``partial/blobs`` of a source; what else is in ``partial`` then can go.

    Args:
        precision: an ONNX decoder keeps its own.

    Raises:
        WrongConversion: the result computes something else than the source.
        ModelError: by kind; see `orchestrator.model.errors`.
    """
    with trimming():
        if source.kind == "onnx":
            return _take_in_graph(source, partial, identity, progress)
        return _take_in_checkpoint(source, precision, partial, identity, progress)


def _take_in_checkpoint(
    source: Source, precision: str, partial: Path, identity: Identity, progress: Progress
) -> Manifest:
    if source.conversion_bytes:
        require_room(partial, source.conversion_bytes, f"{source.text} can't be converted")
    checkpoint = checkpoint_of(source, partial, identity.profile, progress)
    if source.kind == "hf":
        require_tokenizer(source.path)
    graph = convert(source.text, checkpoint, partial, progress)
    tokenizer = _copy_tokenizer(checkpoint, graph, partial)
    model = read_decoder(graph)
    settle_table_choice(model)
    plan = plan_split(resolve(model, graph.parent))
    draft = describe(plan, (), tokenizer, identity, Candidate(model, "fp32", 1.0))
    in_float32 = Subject(plan, graph.parent, draft.layers)
    probe = _Probe.of(tokenizer, draft)
    reference = _reference(source, checkpoint, probe, draft, partial, progress)
    rows = read_rows(reference / ROWS_FILE)
    outliers = find_outliers(plan, graph.parent, read_hidden(reference))
    chosen = choose(in_float32, precision, identity.profile, outliers, rows, progress)
    manifest = _keep(chosen, graph.parent, tokenizer, partial, identity, progress)
    subject = _subject(partial / "model", partial / "blobs", manifest)

    def first_blocks(_: int) -> Subject:
        looked_up = copied(model)
        untranspose_embedding(looked_up)  # else it makes a transposed copy of the table when it is run
        return Subject.of(looked_up, graph.parent, draft.layers)

    report = compare_with_checkpoint(reference, subject, manifest, probe.ids, progress, first_blocks)
    _accept(source, subject, manifest, report, rows, progress).save(partial / "model")
    return manifest


def _take_in_graph(source: Source, partial: Path, identity: Identity, progress: Progress) -> Manifest:
    graph = _graph_of(source)
    tokenizer = _copy_tokenizer(source.path, graph, partial)
    model = read_decoder(graph)
    untranspose_embedding(model)
    settle_table_choice(model)
    manifest = _keep(Candidate(model, None, 1.0), graph.parent, tokenizer, partial, identity, progress)
    subject = _subject(partial / "model", partial / "blobs", manifest)
    probe = _Probe.of(tokenizer, manifest)
    report = compare_with_graph(source.text, graph, subject, manifest, probe.ids, partial, progress)
    rows = SourceRows(probe.passages, (), ())
    _accept(source, subject, manifest, report, rows, progress).save(partial / "model")
    return manifest


def compare_again(source: Source, model: Model, scratch: Path, progress: Progress) -> Judgement:
    """Compare a model of the store with the source that it came from; ``scratch`` is an empty folder.

    Raises:
        ModelError: the source can't be read any more; by kind.
    """
    manifest = model.manifest
    subject = _subject(model.folder, model.blobs_folder, manifest)
    probe = _Probe.of(model.folder / TOKENIZER_FOLDER, manifest)
    if source.kind == "onnx":
        rows = SourceRows(probe.passages, (), ())
        report = compare_with_graph(source.text, _graph_of(source), subject, manifest, probe.ids, scratch, progress)
        return _judge(source, subject, manifest, report, rows, progress)
    checkpoint = checkpoint_of(source, scratch, manifest.profile, progress)
    reference = _reference(source, checkpoint, probe, manifest, scratch, progress)
    rows = read_rows(reference / ROWS_FILE)

    def first_blocks(count: int) -> Subject:
        graph = convert_first_blocks(source.text, checkpoint, count, scratch, progress)
        model = read_model(graph)
        settle_table_choice(model)
        untranspose_embedding(model)
        return Subject.of(model, graph.parent, manifest.layers[:count])

    report = compare_with_checkpoint(reference, subject, manifest, probe.ids, progress, first_blocks)
    return _judge(source, subject, manifest, report, rows, progress)


def measure_again(folder: Path, blobs_folder: Path, manifest: Manifest, progress: Progress) -> None:
    """Write anew how good the model in ``folder`` is, which has another profile now; its source is not needed."""
    before, rows = read_quality(folder), read_rows(folder / ROWS_FILE)
    assert before is not None
    report = _measure(folder, blobs_folder, manifest, rows, before, progress)
    (folder / QUALITY_FILE).write_text(report.to_json(), "utf-8")


def measure_here(model: Model, progress: Progress) -> QualityReport | None:
    """How good a model is on this machine, by what its source made of passages; None if that is not known."""
    before = read_quality(model.folder)
    if before is None or not (model.folder / ROWS_FILE).is_file():
        return None
    rows = read_rows(model.folder / ROWS_FILE)
    return _measure(model.folder, model.blobs_folder, model.manifest, rows, before, progress) if rows.best else None


def _measure(
    folder: Path, blobs_folder: Path, manifest: Manifest, rows: SourceRows, before: QualityReport, progress: Progress
) -> QualityReport:
    subject = _subject(folder, blobs_folder, manifest)
    return measure_with_wires(subject, manifest.profile, rows, before.source_bytes, progress)


def _copy_tokenizer(folder: Path, graph: Path, partial: Path) -> Path:
    tokenizer = partial / "model" / TOKENIZER_FOLDER
    copy_tokenizer((folder, graph.parent), tokenizer)
    return tokenizer


def _reference(
    source: Source, checkpoint: Path, probe: _Probe, manifest: Manifest, scratch: Path, progress: Progress
) -> Path:
    return compute_reference(
        source.text,
        checkpoint,
        probe.ids,
        probe.passages,
        layers=manifest.num_layers,
        max_context=manifest.max_context,
        scratch=scratch,
        progress=progress,
    )


def _keep(
    chosen: Candidate, folder: Path, tokenizer: Path, partial: Path, identity: Identity, progress: Progress
) -> Manifest:
    """Pack the weights of a graph, which are in files of ``folder``; the manifest of what came out."""
    compute_tables(chosen.model, folder)
    decoder = resolve(chosen.model, folder)
    require_shared_caches(decoder)
    plan = plan_split(decoder)
    blobs, places = pack(plan, partial / "blobs", lambda done, total: progress("split", done, total))
    (partial / "model" / GRAPH_FILE).write_bytes(refer_to_blobs(plan, places))
    return describe(plan, blobs, tokenizer, identity, chosen)


def _accept(
    source: Source, subject: Subject, manifest: Manifest, report: ParityReport, rows: SourceRows, progress: Progress
) -> Judgement:
    """Measure a model that computes what its source does.

    Raises:
        WrongConversion: it doesn't.
    """
    problems = report.problems()
    if problems:
        raise WrongConversion(source.text, problems)
    return _judge(source, subject, manifest, report, rows, progress)


def _judge(
    source: Source, subject: Subject, manifest: Manifest, report: ParityReport, rows: SourceRows, progress: Progress
) -> Judgement:
    """Measure a model that was compared with its source."""
    quality = measure_with_wires(subject, manifest.profile, rows, source.size_bytes, progress)
    return Judgement(report, quality, rows)


def _subject(folder: Path, blobs_folder: Path, manifest: Manifest) -> Subject:
    return Subject.of(read_model(folder / GRAPH_FILE), blobs_folder, manifest.layers)


def _graph_of(source: Source) -> Path:
    assert source.graph is not None
    return source.graph


def check_fit(folder: Path, blobs_folder: Path, profile: str) -> None:
    """Check that a model's graph can be computed in a profile; raises `UnsupportedModel`."""
    if PROFILES[profile].same_bits:
        plan = plan_split(resolve(read_model(folder / GRAPH_FILE), blobs_folder))
        assemble(plan, 0, plan.num_units, dummies=True)
