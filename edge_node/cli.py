"""``linguabus-node``: run a node on this device."""

from __future__ import annotations

import contextlib
import gc
import os
import socket
import sys
from pathlib import Path

import click
from click.core import ParameterSource

from broker.address import DEFAULT_URL, parse_broker_url
from broker.completion import completion_command
from broker.config_file import ConfigFile, ConfiguredGroup, config_option
from broker.config_show import config_command
from broker.credential import FILE, Credential
from broker.discovery import look
from broker.errors import BrokerRefused, BrokerUnreachable
from broker.exit_deadline import end_on_signals
from broker.option_types import BrokerUrl, FiniteRange, IntOrWord, MemberName, WholeRange
from broker.security import is_exposed, password_warning
from broker.whereabouts import Whereabouts
from edge_node.config import BLOBS, SPEEDS, NodeConfig, read_speed
from edge_node.errors import NotJoined
from edge_node.guest.commands import COMMANDS
from edge_node.guest.home_option import NODE, home_option
from edge_node.runtime.process_heap import ask_for_huge_pages
from edge_node.storage.home_lock import only_node
from schemas import PACKAGE_VERSION, names
from schemas.errors import LinguabusError
from schemas.logs import log_to_stderr
from schemas.roles import with_article
from schemas.system_limits import allow_many_files, describe

PROGRAM = "linguabus-node"
_LOOK_S = 1.0
_MB = 10**6
_PROVIDER = "ExecutionProvider"


def _default_name() -> str:
    return names.name_from(socket.gethostname()) or "node"


def _check_speed(context: click.Context, parameter: click.Parameter, value: str) -> float | Path:
    """Accept a relative speed, or the path of a file that has one."""
    path = Path(value[1:]) if value.startswith("@") else None
    try:
        speed = float(path.read_text() if path else value)
    except OSError:
        raise click.BadParameter(f"{path} can't be read") from None
    except ValueError:
        raise click.BadParameter(f"there is no number in {path or repr(value)}") from None
    FiniteRange(*SPEEDS).convert(speed, parameter, context)
    return path or speed


def _check_providers(_context: click.Context, _parameter: click.Parameter, value: str) -> tuple[str, ...] | None:
    """Names of providers as ONNX Runtime has them, by short ones in any case; None: all."""
    if value == "auto":
        return None
    names = [name.strip() for name in value.split(",") if name.strip().lower() != "cpu"]
    from onnxruntime import get_available_providers

    by_short_name = {name.removesuffix(_PROVIDER).lower(): name for name in get_available_providers()}
    found = [by_short_name.get(name.removesuffix(_PROVIDER).lower()) for name in names]
    if None in found:
        there = ", ".join(sorted(by_short_name))
        raise click.BadParameter(f"the installed ONNX Runtime has no {names[found.index(None)]!r}, but: {there}")
    return tuple(name for name in found if name)


def _take_home(home: Path) -> None:
    """Make this the only node of its home, for as long as it runs."""
    try:
        (home / BLOBS).mkdir(parents=True, exist_ok=True)
        click.get_current_context().with_resource(only_node(home))
    except OSError as error:
        raise click.UsageError(f"--home {home} can't be used: {error.strerror}") from None


def _read_config(context: click.Context, path: Path) -> ConfigFile:
    from broker.config_reader import read_section  # YAML, only where there is a file

    shared = {"broker": None, "home": NODE, "insecure": None, "verbose": None}
    return read_section(context, path, NODE, shared)


@click.group(
    cls=ConfiguredGroup,
    invoke_without_command=True,
    options_metavar="[OPTIONS]...",
    subcommand_metavar="[status | pause | resume | leave | config | completion]",
    epilog="Example: linguabus-node --broker mqtt://192.168.1.5 --insecure --name kitchen-phone",
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "LINGUABUS_NODE"},
)
@config_option(_read_config)
@click.option(
    "--broker",
    envvar="LINGUABUS_BROKER",
    type=BrokerUrl(),
    metavar="URL",
    help="The broker: mqtt://host[:port] or mqtts://host[:port]. [default: the fleet that was joined, or"
    f" {DEFAULT_URL}]",
)
@click.option(
    "--name",
    type=MemberName(),
    metavar="NAME",
    help="This node's name. [default: the one that it has joined with, or the host's]",
)
@home_option("Directory for downloaded model parts.", of_program=True)
@click.option(
    "--memory-limit-mb",
    type=WholeRange(64),
    metavar="MB",
    help="Memory to use at most, in MB of 10^6 bytes as in everything that is printed. [default: 3/4 of what is free,"
    " with 100 MB left]",
)
@click.option(
    "--storage-limit-mb",
    type=WholeRange(16),
    metavar="MB",
    help="Disk that model parts may take, in MB of 10^6 bytes. Where room is needed, parts that nobody needs leave"
    " first, the longest unused ones before others, then those on standby, then those in use. [default: 1/2 of what"
    " is free]",
)
@click.option(
    "--threads",
    type=IntOrWord("auto", 1, 64),
    default=1,
    show_default=True,
    metavar="COUNT",
    help="Compute threads. auto: tries 1, 2 and 4 on the large cores, once, and takes as few as are as quick.",
)
@click.option(
    "--execution-providers",
    default="auto",
    show_default=True,
    metavar="NAMES",
    callback=_check_providers,
    help="Execution providers of ONNX Runtime that may compute: each is tried on the node's own layers, and used where"
    " it is right and quicker than the CPU. auto: all that are installed; cpu: none.",
)
@click.option(
    "--emulate-speed",
    callback=_check_speed,
    default="1.0",
    show_default=True,
    metavar="SPEED",
    help="Behave like a device of this relative speed (for tests and benchmarks). @FILE: the speed is in a file, which"
    " is read again with each heartbeat.",
)
@click.option(
    "--watchdog-s",
    type=FiniteRange(0.05, 600),
    default=1.0,
    show_default=True,
    help="Shortest wait for a token before the first stage repeats itself.",
)
@click.option(
    "--drain-timeout",
    type=FiniteRange(0, 3600),
    default=20.0,
    show_default=True,
    metavar="SECONDS",
    help="When stopped, wait so long for others to take the layers over; 0 ends at once, as a second Ctrl-C does.",
)
@click.option(
    "--check-every",
    type=FiniteRange(0, 86400),
    default=300.0,
    show_default=True,
    metavar="SECONDS",
    help="While idle, compute a known answer again so often; 0: only when layers are loaded, and after sleep.",
)
@click.option(
    "--only-charging",
    is_flag=True,
    envvar="LINGUABUS_ONLY_CHARGING",
    help="Rest, without layers, while the device is on no charger ($LINGUABUS_ONLY_CHARGING).",
)
@click.option(
    "--only-wifi",
    is_flag=True,
    envvar="LINGUABUS_ONLY_WIFI",
    help="Rest while the device is neither in a Wi-Fi nor on a cable ($LINGUABUS_ONLY_WIFI).",
)
@click.option("--insecure", is_flag=True, help="Allow a broker beyond this machine without TLS.")
@click.option("-v", "--verbose", count=True, type=WholeRange(0), help="Log more; twice for debugging.")
@click.version_option(PACKAGE_VERSION, prog_name=PROGRAM)
@click.pass_context
def node(
    context: click.Context,
    broker: str | None,
    name: str | None,
    home: Path,
    memory_limit_mb: int | None,
    storage_limit_mb: int | None,
    threads: int | None,
    execution_providers: tuple[str, ...] | None,
    emulate_speed: float | Path,
    watchdog_s: float,
    drain_timeout: float,
    check_every: float,
    only_charging: bool,
    only_wifi: bool,
    insecure: bool,
    verbose: int,
) -> None:
    """Lend this device to a linguabus fleet: it runs the part of a model that the orchestrator gives it.

    With a command, say what the node on this device is to do.
    """
    if context.invoked_subcommand is not None:
        return
    log_to_stderr(verbose, home)
    # Before NumPy is imported: its BLAS would start a thread per core.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    credential = Credential.load(home / FILE) if broker is None else None
    if broker is None and credential is None and (other := Credential.load(home.parent / FILE)):
        raise click.UsageError(
            f"this device has joined as {other.name}, {with_article(other.role)}, and lends nothing as that: get an"
            " invitation for a node (linguabus invite NAME, on the fleet's host), and join by it"
        )
    if credential and name not in (None, credential.name):
        raise click.UsageError(f"this device has joined as {credential.name}: leave --name out")
    whereabouts = Whereabouts(home / FILE, credential) if credential else None
    name = credential.name if credential else name or _default_name()
    is_option = context.get_parameter_source("broker") is ParameterSource.COMMANDLINE
    if broker and is_option and (password_line := password_warning(broker)):
        click.echo(f"node {name}: warning: {password_line}", err=True)
    address = credential.broker() if credential else parse_broker_url(broker or DEFAULT_URL)
    if is_exposed(address):
        if not insecure:
            raise click.UsageError(
                f"{address.host} is another machine: join its fleet ('linguabus invite' there), or use --insecure in a"
                " network you trust"
            )
        click.echo(f"node {name}: warning: whoever reaches {address.host} can read and command this node", err=True)
    try:
        from edge_node.runtime.thread_choice import choose_threads
        from edge_node.service import NodeService
    except ImportError as error:
        raise click.ClickException(f"{error.name} is missing: pip install 'linguabus[edge]'") from None
    _take_home(home)
    config = NodeConfig(
        name=name,
        broker_url=address,
        home=home,
        whereabouts=whereabouts,
        memory_limit_bytes=memory_limit_mb and memory_limit_mb * _MB,
        storage_limit_bytes=storage_limit_mb and storage_limit_mb * _MB,
        threads=choose_threads(home) if threads is None else threads,
        providers=execution_providers,
        emulated_speed=read_speed(emulate_speed) if isinstance(emulate_speed, Path) else emulate_speed,
        emulated_speed_file=emulate_speed if isinstance(emulate_speed, Path) else None,
        watchdog_min_s=watchdog_s,
        drain_timeout_s=drain_timeout,
        check_interval_s=check_every,
        only_charging=only_charging,
        only_wifi=only_wifi,
    )
    service = NodeService(config, tell=lambda line: click.echo(f"node {name}: {line}", err=True))

    def asked_to_stop() -> None:
        if service.leaving:
            service.stop()
        else:
            service.leave("asked to stop")

    warning = allow_many_files()
    if warning is not None:
        click.echo(f"node {name}: warning: {warning}", err=True)
    if whereabouts:
        whereabouts.keep_learning()
    click.echo(f"node {name} at {address}: stop with Ctrl-C", err=True)
    gc.freeze()  # modules stay: without their 40,000 objects a full collection is over at once, not after 20 ms
    try:
        service.run(lambda: end_on_signals(asked_to_stop, until_s=lambda: service.stays_until_s))
    except (BrokerRefused, BrokerUnreachable) as error:
        if credential or broker:
            raise
        raise NotJoined(error.address, error.reason, look(_LOOK_S)) from error


_ON_BOTH = (config_command("Example: linguabus-node config show"), completion_command(PROGRAM))
for _command in (*COMMANDS, *_ON_BOTH):
    node.add_command(_command)


def main() -> None:
    """The console script: errors of ours are one line, exit code 2."""
    os.umask(0o077)  # what a node keeps is its owner's alone
    ask_for_huge_pages()
    code: object = 0
    try:
        node.main(prog_name=PROGRAM)
    except SystemExit as left:
        code = left.code
    except LinguabusError as error:
        click.echo(f"Error: {error}", err=True)
        code = 2
    except OSError as error:
        click.echo(f"Error: {describe(error)}", err=True)
        code = 1
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    # Another thread may be in ONNX Runtime, which ends the process by SIGABRT where its objects go meanwhile.
    os._exit(code if isinstance(code, int) else bool(code))
