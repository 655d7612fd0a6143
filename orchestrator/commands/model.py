"""``linguabus model``: the models of this machine."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.commands.connection import connect
from orchestrator.commands.exits import FAILURE, INTERRUPTED
from orchestrator.commands.interrupts import leave_on_signals
from orchestrator.commands.output import print_json
from orchestrator.commands.progress import ProgressLines
from orchestrator.commands.settings import HelpGroup, Settings, bus_options, default_cache, pass_settings
from orchestrator.model.precision import AUTO, PRECISIONS, PROFILES, STEADY
from orchestrator.text.advice import ADD_A_MODEL
from orchestrator.text.figures import megabytes, size_text
from orchestrator.text.table import table
from schemas.messages import WireDtype

if TYPE_CHECKING:
    from orchestrator.model.manifest import Manifest, Unit
    from orchestrator.model.parity_report import ParityReport
    from orchestrator.model.quality_report import QualityReport
    from orchestrator.model.store import ModelStore

_ROUNDING_WIRES: tuple[WireDtype, ...] = ("fp16", "int8")


@click.group("model", cls=HelpGroup, epilog="Example: linguabus model add ./SmolLM2-135M-Instruct.Q4_1.gguf")
def command() -> None:
    """Add, look at, choose and remove models."""


def _store(settings: Settings) -> ModelStore:
    from orchestrator.model.store import ModelStore

    return ModelStore(settings.models_dir)


@command.command("add", epilog="Example: linguabus model add HuggingFaceTB/SmolLM2-360M-Instruct")
@click.argument("source")
@click.option("--name", help="What to call it. [default: made from SOURCE and the precision]")
@click.option(
    "--precision",
    type=click.Choice((AUTO, *PRECISIONS)),
    default=AUTO,
    show_default=True,
    help="Type of weights; auto carries over what was quantised before, and else is the smallest that keeps the text.",
)
@click.option(
    "--profile",
    type=click.Choice(list(PROFILES)),
    help="fast (the default) computes int4 layers with 8-bit activations; steady too, but the same text whatever "
    "steps it is computed in; exact with 32-bit ones, the slowest and nearest to the weights.",
)
@click.option(
    "--use",
    is_flag=True,
    help="Make it the active model, too, also where it is there already; a running orchestrator changes over to it.",
)
@bus_options
@pass_settings
def add(settings: Settings, source: str, name: str | None, precision: str, profile: str | None, use: bool) -> int:
    """Convert, split and check a model: SOURCE is a Hugging Face id or folder, a .gguf file, an ONNX decoder or "demo".

    What was converted is compared with its source, and refused if it computes something else. SOURCE may also be what
    "linguabus model export" wrote elsewhere: that is converted already, and taken as it is.
    """
    from orchestrator.commands.demo_model import demo_checkpoint
    from orchestrator.model.errors import MissingDependency, ModelIsHere
    from orchestrator.model.extras import MODULES, missing

    store = _store(settings)
    try:
        with leave_on_signals(), ProgressLines() as progress:
            if source == "demo":
                if missing(MODULES["convert"]):  # told before it is fetched
                    raise MissingDependency("the demo's model can't be converted", "orchestrator", "convert")
                source = str(demo_checkpoint(default_cache(), progress))
            manifest = store.add(source, name, precision=precision, profile=profile, progress=progress)
    except KeyboardInterrupt:
        click.echo("interrupted: nothing was added", err=True)
        return INTERRUPTED
    except ModelIsHere as error:
        click.echo(str(error))
        if use:
            click.echo(_use(settings, store, error.name))
        return 0
    problem = store.open(manifest.name).tokenizer().check_template()
    checked, quality = store.compared(manifest.name), store.quality(manifest.name)
    click.echo(f"{manifest.name}: {_summary(manifest)}")
    if manifest.came_from_archive and checked is not None:
        click.echo("as it was measured where it was converted (linguabus model verify measures here):")
    if checked is not None:
        _tell(checked, quality, manifest)
    if use:
        click.echo(_use(settings, store, manifest.name))
    elif store.active != manifest.name:
        click.echo(f"{store.active} stays the active model: linguabus model use {manifest.name} changes that")
    if problem:
        click.echo(f"Warning: a conversation with it will fail: {problem}", err=True)
    return 0


@command.command("list", epilog="Example: linguabus model list --json")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--full", is_flag=True, help="With --json: the whole manifests, with every unit and file.")
@pass_settings
def list_models(settings: Settings, as_json: bool, full: bool) -> None:
    """List the models of this machine; * marks the active one."""
    if full and not as_json:
        raise click.UsageError("--full goes with --json")
    store = _store(settings)
    manifests = store.list()
    if as_json:
        to_dict = dataclasses.asdict if full else _to_short_dict
        print_json({"active": store.active, "models": [to_dict(manifest) for manifest in manifests]})
        return
    if not manifests:
        click.echo(f"no models yet: {ADD_A_MODEL}")
        return
    headings = ("", "name", "family", "precision", "profile", "blocks", "weights", "KV bytes/token", "context")
    click.echo(table(headings, [_row(manifest, store.active) for manifest in manifests]))


@command.command("show", epilog="Example: linguabus model show smollm2-135m-instruct-int4 --json")
@click.argument("name", required=False)
@click.option(
    "--json", "as_json", is_flag=True, help="Print the whole manifest, how near it is to its source, and how good."
)
@pass_settings
def show(settings: Settings, name: str | None, as_json: bool) -> None:
    """Show one model, by default the active one: its parts and their sizes."""
    from orchestrator.model.kv_calibration import read_kv

    store = _store(settings)
    manifest, checked, quality = store.show(name), store.compared(name), store.quality(name)
    kv = read_kv(store.open(name).folder)
    if as_json:
        check = None if checked is None else dataclasses.asdict(checked)
        found = None if quality is None else {**dataclasses.asdict(quality), "wire": quality.wire}
        rounded = None if kv is None else kv.figures()
        print_json({**dataclasses.asdict(manifest), "check": check, "quality": found, "kv_int8": rounded})
        return
    click.echo(f"{manifest.name}: {_summary(manifest)}, from {manifest.source}")
    if checked is None:
        click.echo("not compared with its source yet: linguabus model verify does")
    else:
        _tell(checked, quality, manifest)
    if kv is not None:
        click.echo(kv.summary())
    rows = []
    for figures, group in itertools.groupby(manifest.units, _figures):
        indices = [unit.index for unit in group]
        units = f"{indices[0]}-{indices[-1]}" if len(indices) > 1 else str(indices[0])
        rows.append((units, *figures))
    click.echo(table(("units", "kind", "weights each", "MFLOP/token", "KV bytes/token"), rows))


@command.command("export", epilog="Example: linguabus model export smollm2-135m-instruct-int4 smollm2.tar")
@click.argument("name")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Replace FILE if it is there.")
@pass_settings
def export(settings: Settings, name: str, file: Path, force: bool) -> None:
    """Write the model NAME into FILE, for "linguabus model add FILE" on machines that can't convert, as a Raspberry Pi.

    All of it goes along but the place of its source on this machine.
    """
    from orchestrator.model.archive.export import without_places

    store = _store(settings)
    with leave_on_signals(), ProgressLines() as progress:
        size_bytes = store.export(name, file, force=force, progress=progress)
        manifest = store.show(name)
    click.echo(f"{name} is in {file}, {size_text(size_bytes)}: linguabus model add {file.name} takes it in elsewhere")
    left = without_places(manifest).source
    if left != manifest.source:
        click.echo(f"left out: {manifest.source}, of which only the name {left} goes along")


@command.command("use", epilog="Example: linguabus model use smollm2-135m-instruct-int4")
@click.argument("name")
@bus_options
@pass_settings
def use(settings: Settings, name: str) -> None:
    """Make NAME the active model; a running orchestrator changes over to it."""
    store = _store(settings)
    store.show(name)
    click.echo(_use(settings, store, name))


def _use(settings: Settings, store: ModelStore, name: str) -> str:
    """Make a model the active one; what came of it."""
    from broker.errors import BusError
    from orchestrator.client import NoOrchestrator

    said = f"{name} is active and served"
    try:
        with connect(settings) as client:
            client.use_model(name)
    except (BusError, NoOrchestrator):  # nobody to tell
        said = f"{name} is active from the next 'linguabus serve' on"
    store.use(name)  # not before: an orchestrator may refuse it
    return said


@command.command("verify", epilog="Example: linguabus model verify smollm2-135m-instruct-int4")
@click.argument("name", required=False)
@pass_settings
def verify(settings: Settings, name: str | None) -> int:
    """Check a model: its files, split against unsplit, rounded hidden states, keys and values, and against its source.

    In the profile steady also whether a text has the same logits in one run, in chunks and in single steps.
    """
    from orchestrator.model.errors import ModelError, NoSuchModel
    from orchestrator.model.intake import measure_here
    from orchestrator.model.kv_calibration import measure_kv
    from orchestrator.model.verify import compare_runs, wire_loss
    from orchestrator.model.verify import verify as compare

    store = _store(settings)
    with leave_on_signals(), ProgressLines() as progress:
        store.check(name, progress)
        model = store.open(name)
        result = compare(model, progress=progress)
        runs = compare_runs(model, progress=progress) if model.manifest.profile == STEADY else None
        losses = [wire_loss(model, wire, progress=progress) for wire in _ROUNDING_WIRES]
        kv = measure_kv(model, progress)
        report, here, reason = None, None, ""
        try:
            report = store.compare(name, progress)
        except ModelError as error:
            is_lost = model.manifest.came_from_archive and isinstance(error, NoSuchModel)
            reason = f"{model.manifest.source} did not come with the archive" if is_lost else str(error)
            here = measure_here(model, progress)
    click.echo(f"files: all {len(model.manifest.blobs)} are what they were when the model was added")
    click.echo(
        f"split at {len(result.cuts)} places against unsplit ({result.profile}): {result.compared} rows of logits, "
        f"largest difference {result.max_abs_difference:.3g}, {_equal(result.bitwise_equal)}, "
        f"{'the same' if result.same_tokens else 'OTHER'} tokens"
    )
    if runs is not None:
        click.echo(
            f"chunks and single steps against one run ({STEADY}): {runs.compared} rows of logits, "
            f"largest difference {runs.max_abs_difference:.3g}, {_equal(runs.bitwise_equal)}"
        )
    for loss in losses:
        click.echo(
            f"{loss.wire} on the wire at all these places against fp32: {loss.compared} rows of logits off by up to "
            f"{loss.largest_difference:.1%}, the same most likely token in {loss.argmax_agreement:.0%}"
        )
    click.echo(kv.summary())
    problems = []
    if runs is not None and not runs.bitwise_equal:
        problems.append(f"on this machine {STEADY} does not keep the text: add the model again with --profile exact")
    if report is None:
        click.echo(f"NOT compared with its source: {reason}", err=True)
        if here is not None:
            click.echo("compared with what its source made of a text when it was converted:")
            for line in _quality_lines(here, model.manifest):
                click.echo(line)
    else:
        _tell(report, store.quality(name), model.manifest)
        problems += report.problems()
    for problem in problems:
        click.echo(f"WRONG: {problem}", err=True)
    return 0 if result.same_tokens and not problems else FAILURE


@command.command("rm", epilog="Example: linguabus model rm smollm2-135m-instruct-int4")
@click.argument("name")
@click.option("--force", is_flag=True, help="Also if it is being served; what nodes do not have yet is lost to them.")
@pass_settings
def remove(settings: Settings, name: str, force: bool) -> None:
    """Remove a model and the files that no other model needs; not one that is being served."""
    freed_bytes = _store(settings).rm(name, force=force)
    click.echo(f"{name} is removed, {size_text(freed_bytes)} freed")


def _equal(bitwise: bool) -> str:
    return "equal to the bit" if bitwise else "not equal to the bit"


def _tell(report: ParityReport, quality: QualityReport | None, manifest: Manifest) -> None:
    """How near a model is to its source, how good it is, and what nobody has compared."""
    click.echo(report.summary())
    for line in _quality_lines(quality, manifest) if quality is not None else ():
        click.echo(line)
    for what in report.not_compared:
        click.echo(f"not compared: {what}")


def _quality_lines(quality: QualityReport, manifest: Manifest) -> list[str]:
    model = quality.model
    worth = f"quality over {model.rows} tokens of text ({quality.profile}): perplexity {model.perplexity:.4g}"
    if model.source_perplexity is not None and model.argmax_agreement is not None:
        worth += (
            f" (the source in float32: {model.source_perplexity:.4g}), its most likely token the source's in"
            f" {model.argmax_agreement:.1%}"
        )
    sizes = f"{size_text(manifest.weight_bytes)} on disk, the source {size_text(quality.source_bytes)}"
    wires = ", ".join(
        f"{wire.wire} keeps {wire.argmax_agreement:.1%} of the most likely tokens (perplexity {wire.perplexity:.4g})"
        for wire in quality.wires
    )
    return [f"{worth}; {sizes}", f"on the wire between three nodes {wires}; the default is {quality.wire}"]


def _summary(manifest: Manifest) -> str:
    state = f", {manifest.state_bytes:,} bytes of state per text" if manifest.folds_positions else ""
    return (
        f"{manifest.family}, {manifest.num_layers} blocks, {manifest.precision} {manifest.profile}, "
        f"{size_text(manifest.weight_bytes)} of weights, {manifest.kv_bytes_per_token:,} KV bytes per token{state}"
    )


def _row(manifest: Manifest, active: str | None) -> tuple[str, ...]:
    return (
        "*" if manifest.name == active else "",
        manifest.name,
        manifest.family,
        manifest.precision,
        manifest.profile,
        str(manifest.num_layers),
        megabytes(manifest.weight_bytes),
        str(manifest.kv_bytes_per_token),
        str(manifest.max_context),
    )


def _figures(unit: Unit) -> tuple[str, ...]:
    """What `show` says of a unit; equal ones next to each other share a row."""
    flops = f"{unit.flops_per_token / 1e6:.1f}"
    return (unit.kind, megabytes(unit.weight_bytes), flops, str(unit.kv_bytes_per_token))


def _to_short_dict(manifest: Manifest) -> dict[str, object]:
    """The columns of the table of models, in whole numbers."""
    return {
        "name": manifest.name,
        "source": manifest.source,
        "family": manifest.family,
        "precision": manifest.precision,
        "profile": manifest.profile,
        "num_layers": manifest.num_layers,
        "weight_bytes": manifest.weight_bytes,
        "kv_bytes_per_token": manifest.kv_bytes_per_token,
        "max_context": manifest.max_context,
    }
