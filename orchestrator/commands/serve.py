"""``linguabus serve``: the orchestrator."""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, get_args

import click

from broker.address import BrokerAddress, parse_broker_url
from broker.credential import MOST_ADDRESSES
from broker.option_types import FiniteRange, WholeRange
from orchestrator.commands.output import describe_broker, warn_of_few_files
from orchestrator.commands.settings import Settings, bus_options, pass_settings
from orchestrator.fleet.health import HealthLimits
from orchestrator.text.advice import ADD_A_MODEL
from orchestrator.timing import DEFAULT_CONTEXT_TOKENS, DEFAULT_DRAFT_TOKENS, DEFAULT_SLOTS, MOST_PIPELINES
from schemas import limits
from schemas.messages import RoundedKv, WireDtype

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.identity.fleet_folder import FleetFolder
    from orchestrator.identity.membership import Membership
    from orchestrator.service.announcer import Announcer
    from orchestrator.service.run import ServiceInfo

HEALTH = HealthLimits()
_ID_DIGITS = 12
AUTO_WIRE = AUTO_KV = "auto"
DEFAULT_PREFIX = "homeassistant"
EXAMPLE = "Example: linguabus serve --with-broker"


def _number_or_auto(_context: click.Context, parameter: click.Parameter, value: str) -> int | None:
    if value == "auto":
        return None
    if not value.isdecimal() or not 1 <= int(value) <= MOST_PIPELINES:
        raise click.BadParameter(f"write auto, or a number from 1 to {MOST_PIPELINES}", param=parameter)
    return int(value)


def _type_or_auto(_context: click.Context, _parameter: click.Parameter, value: str) -> str | None:
    return None if value in (AUTO_WIRE, AUTO_KV) else value


def _prefix(_context: click.Context, parameter: click.Parameter, value: str) -> str:
    from orchestrator.service.home_teller import is_prefix

    if value and not is_prefix(value):
        raise click.BadParameter(f"write the prefix of its topics, such as {DEFAULT_PREFIX}", param=parameter)
    return value


@click.command("serve", epilog=EXAMPLE)
@click.option(
    "--with-broker",
    is_flag=True,
    help="Start a broker too: for the fleet that 'linguabus init' has made, or else for this machine only.",
)
@click.option("--model", metavar="NAME", help="The model to serve. [default: the active one]")
@click.option(
    "--min-nodes", type=WholeRange(1, limits.MAX_STAGES), default=1, show_default=True, help="Nodes to wait for."
)
@click.option(
    "--pipelines",
    metavar="N|auto",
    default="auto",
    show_default=True,
    callback=_number_or_auto,
    help="Pipelines that share the nodes. auto: as many as give most where throughput is the objective, else one.",
)
@click.option(
    "--context",
    type=WholeRange(limits.MIN_CONTEXT_TOKENS, limits.MAX_CONTEXT_TOKENS),
    help=f"Tokens of prompt and answer together. [default: the model's maximum, {DEFAULT_CONTEXT_TOKENS} at most,"
    " or what fits]",
)
@click.option(
    "--slots",
    type=WholeRange(1, limits.MAX_SLOTS),
    help=f"Requests at the same time. [default: as many as the nodes have memory for, {DEFAULT_SLOTS} at most]",
)
@click.option(
    "--wire",
    type=click.Choice((AUTO_WIRE, *get_args(WireDtype))),
    default=AUTO_WIRE,
    show_default=True,
    callback=_type_or_auto,
    help="Type of what nodes send each other. auto: fp16 where the model's figures say that it changes little, else"
    " fp32; 'linguabus model show' has them.",
)
@click.option(
    "--kv",
    type=click.Choice((AUTO_KV, *get_args(RoundedKv))),
    default=AUTO_KV,
    show_default=True,
    callback=_type_or_auto,
    help="Type of keys and values in the nodes' memory. auto: as the model was converted, mostly fp32. fp16: half of"
    " that, for longer contexts, more requests and quicker moves; int8: a quarter, but a half of blocks that it would"
    " change much; 'linguabus model show' has what it costs.",
)
@click.option(
    "--guess",
    type=WholeRange(0, limits.MAX_GUESSED_TOKENS),
    default=DEFAULT_DRAFT_TOKENS,
    show_default=True,
    help="Tokens to guess in one run, where that pays: above all on slow links. The last stage's node is then told the "
    "prompt. 0 guesses none.",
)
@click.option(
    "--draft",
    metavar="NAME",
    help="A small model of the same tokenizer to guess with, too, on the last stage's node, where there is room for it:"
    " for slow links, and answers that do not repeat what they are about.",
)
@click.option(
    "--blob-host",
    help="Address to serve model parts to nodes on. [default: the one that the fleet was made with, or 127.0.0.1]",
)
@click.option(
    "--blob-port",
    type=WholeRange(0, 65535),
    help="Its port; 0: a free one. [default: the one that the fleet was made with, or a free one]",
)
@click.option(
    "--advertise",
    metavar="URL",
    multiple=True,
    help="Where nodes find that address, as http://host:port. [default: found out]",
)
@click.option(
    "--battery-low",
    type=FiniteRange(0, 100),
    default=HEALTH.battery_low_percent,
    show_default=True,
    metavar="PERCENT",
    help="A node at this charge, not charging, gives up its layers. Plans spare it below"
    f" {HEALTH.battery_saved_percent:.0f} already. 0: never.",
)
@click.option(
    "--hot",
    type=FiniteRange(0, 200),
    default=HEALTH.hot_c,
    show_default=True,
    metavar="CELSIUS",
    help="A node whose battery is as hot as this gives up its layers.",
)
@click.option(
    "--memory-low",
    type=WholeRange(0),
    default=HEALTH.memory_low_bytes // limits.MB,
    show_default=True,
    metavar="MB",
    help="A node whose system has less memory left than this gives up its layers. 0: never.",
)
@click.option(
    "--memory-margin",
    type=FiniteRange(0, limits.MAX_MEMORY_MARGIN),
    default=0.0,
    show_default=True,
    metavar="SHARE",
    help="Share of the memory that each node may use that plans leave free, such as 0.1.",
)
@click.option(
    "--take-over", is_flag=True, help="Serve instead of an orchestrator that serves on this broker: that one ends."
)
@click.option(
    "--standby",
    is_flag=True,
    help="Wait while another orchestrator serves on this broker, and serve as soon as it is gone.",
)
@click.option("--no-balance", is_flag=True, help="Leave layers where they are when nodes become slower or quicker.")
@click.option(
    "--home-assistant",
    metavar="[PREFIX]",
    is_flag=False,
    flag_value=DEFAULT_PREFIX,
    default="",
    show_default=False,
    callback=_prefix,
    help="Show the fleet and its nodes in Home Assistant, by MQTT discovery; PREFIX is that of its topics."
    f" [default: off; without PREFIX: {DEFAULT_PREFIX}]",
)
@click.option(
    "--announce",
    is_flag=True,
    help="Answer devices of this network that look for a fleet by multicast DNS: they are told where to ask for an"
    " invitation, and nothing else.",
)
@bus_options
@pass_settings
def command(
    settings: Settings,
    with_broker: bool,
    model: str | None,
    min_nodes: int,
    pipelines: int | None,
    context: int | None,
    slots: int | None,
    wire: WireDtype | None,
    kv: RoundedKv | None,
    guess: int,
    draft: str | None,
    blob_host: str | None,
    blob_port: int | None,
    advertise: tuple[str, ...],
    battery_low: float,
    hot: float,
    memory_low: int,
    memory_margin: float,
    take_over: bool,
    standby: bool,
    no_balance: bool,
    home_assistant: str,
    announce: bool,
) -> None:
    """Run the orchestrator: it plans which node runs what, hands out the parts and answers questions."""
    from broker.errors import BrokerEnded
    from broker.exit_deadline import end_on_signals
    from broker.kept_broker import KeptBroker
    from broker.local_broker import LocalBroker
    from orchestrator.identity.fleet_broker import FleetBroker
    from orchestrator.identity.fleet_folder import FleetFolder
    from orchestrator.identity.membership import Membership
    from orchestrator.model.store import ModelStore
    from orchestrator.service.config import DRAFT_WITHOUT_GUESSES, ServiceConfig
    from orchestrator.service.http_server import interface_addresses
    from orchestrator.service.run import run_service

    warn_of_few_files()
    if not settings.verbose:
        logging.getLogger("orchestrator").setLevel(logging.INFO)  # nodes that come and go, plans: what it does
    for named in filter(None, (model, draft)):
        ModelStore(settings.models_dir).show(named)  # refused now, not by every plan
    if draft and not guess:
        raise click.UsageError(DRAFT_WITHOUT_GUESSES)
    if standby and (take_over or with_broker):
        other = "--take-over" if take_over else "--with-broker"
        raise click.UsageError(f"--standby waits for another orchestrator on a broker: leave {other} out")
    stop = threading.Event()
    with contextlib.ExitStack() as stack:
        membership = None
        started: FleetBroker | LocalBroker | None = None
        broker: str | BrokerAddress = settings.address
        if FleetFolder.exists(settings.home) and not settings.broker_is_named:
            fleet = FleetFolder.of(settings.home)
            # Remembered, for whoever writes the broker's roles.
            if home_assistant and home_assistant != fleet.settings.home_assistant:
                fleet = FleetFolder.update(settings.home, replace(fleet.settings, home_assistant=home_assistant))
            membership = stack.enter_context(Membership(fleet, interface_addresses))
            own = fleet.own_credential()
            broker = own.broker()
            blob_host = blob_host or fleet.settings.listen or "0.0.0.0"
            blob_port = fleet.settings.http_port if blob_port is None else blob_port
            if announce:
                stack.enter_context(_announced(fleet, interface_addresses))
            if with_broker:
                started = stack.enter_context(FleetBroker(fleet, own))
                click.echo(f"broker: Mosquitto with TLS and roles, on port {fleet.settings.broker_port}")
        elif announce:
            raise click.UsageError("--announce is for a fleet, and there is none in this home: linguabus init")
        elif with_broker:
            if settings.broker_is_given:
                raise click.UsageError(
                    "--with-broker starts a broker of its own: leave --broker out, or start one there and leave"
                    " --with-broker out"
                )
            started = local = stack.enter_context(LocalBroker(folder=settings.home / "broker"))
            broker = parse_broker_url(local.url)
            click.echo(f"broker: {describe_broker(local)}")
        kept = started and stack.enter_context(KeptBroker(started, say=click.echo, on_given_up=stop.set))
        config = ServiceConfig(
            broker_url=broker,
            data_dir=settings.home,
            models_dir=settings.models_dir,
            model=model,
            min_nodes=min_nodes,
            pipelines=pipelines,
            context_tokens=context,
            slots=slots,
            wire_dtype=wire,
            kv_dtype=kv,
            draft_tokens=guess,
            draft=draft,
            blob_host=blob_host or "127.0.0.1",
            blob_port=blob_port or 0,
            advertised_urls=advertise,
            is_guarded=membership is not None,
            insecure=settings.insecure,
            health=HealthLimits(battery_low_percent=battery_low, hot_c=hot, memory_low_bytes=memory_low * limits.MB),
            memory_margin=memory_margin,
            take_over=take_over,
            standby=standby,
            balance=not no_balance,
            home_assistant=home_assistant,
        )
        run_service(
            config,
            stop=stop,
            membership=membership,
            on_connected=lambda: end_on_signals(stop.set),
            on_standby=_announce_standby,
            on_ready=functools.partial(_announce, membership),
        )
        if kept and kept.failure:
            raise BrokerEnded(kept.failure)
    click.echo("stopped")


def _announced(fleet: FleetFolder, interface_addresses: Callable[[], list[str]]) -> Announcer:
    """Answers who looks for this fleet in the network; raises click.UsageError where nobody may be told."""
    from broker.tls import fingerprint
    from orchestrator.service.announcer import Announcer, found_at
    from schemas import PROTOCOL_VERSION
    from schemas.mdns import Announcement

    def said() -> Announcement:
        addresses = found_at(fleet.addresses(interface_addresses()))[:MOST_ADDRESSES]
        return Announcement(identity, fleet.settings.http_port, addresses, PROTOCOL_VERSION)

    identity = fingerprint(fleet.authority).hex()[:_ID_DIGITS]
    if not said().addresses:
        raise click.UsageError("--announce: other machines reach none of this fleet's addresses")
    try:
        return Announcer(said, interface_addresses())
    except OSError as error:
        raise click.UsageError(f"--announce: multicast can't be listened to: {error.strerror}") from None


def _announce_standby(broker: str) -> None:
    click.echo(f"standing by on {broker}: this orchestrator serves as soon as nobody else does   (stop with Ctrl-C)")


def _announce(membership: Membership | None, info: ServiceInfo) -> None:
    click.echo(f"orchestrator: pipeline {info.pipeline} on {info.broker}, model {info.model or 'none yet'}")
    click.echo(f"model parts: {' '.join(info.blob_urls)}")
    if not info.model:
        click.echo(f"next, in another terminal: {ADD_A_MODEL}; it is served as soon as it is there")
    if membership:
        click.echo(
            "next: linguabus invite NAME, in another terminal, for each device that is to join   (stop with Ctrl-C)"
        )
    else:
        click.echo(f"next: linguabus node --broker {info.broker}   (stop with Ctrl-C)")
