"""The configuration of a running orchestrator, checked in one place."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from broker.address import BrokerAddress, as_address
from broker.security import is_exposed, is_loopback
from orchestrator.errors import BadSetting, InsecureAddress
from orchestrator.fleet.health import HealthLimits
from orchestrator.service.home_teller import is_prefix
from orchestrator.timing import DEFAULT_CHUNK_TOKENS, DEFAULT_DRAFT_TOKENS, DEFAULT_SLOTS, MOST_PIPELINES, Timing
from schemas import limits
from schemas.messages import RoundedKv, WireDtype

DRAFT_WITHOUT_GUESSES = "--draft names a model to guess with, and --guess 0 guesses none: leave one of them out"
_HTTP_URL = re.compile(r"https?://[^\s/]+(/\S*)?")


@dataclass(frozen=True, kw_only=True)
class ServiceConfig:
    """Settings of ``run_service``.

    Raises:
        BadSetting, InsecureAddress, BadBrokerUrl: one line that says what to change.
    """

    broker_url: str | BrokerAddress
    data_dir: Path
    """Holds ``state.sqlite3``; ``models_dir`` is beside it unless given."""
    models_dir: Path | None = None
    pipeline: str = "main"
    model: str | None = None
    """Served instead of the pipeline's active model."""
    pipelines: int | None = None
    """How many pipelines share the fleet; None: as many as give most where throughput is the objective, else one."""
    min_nodes: int = 1
    """The first plan waits for this many nodes."""
    context_tokens: int | None = None
    """Positions per request; None: the model's maximum, 2048 at most, or what the fleet has memory for."""
    slots: int | None = DEFAULT_SLOTS
    """Requests at the same time; None: as many as the fleet has memory for, 4 at most."""
    max_queued: int = 64
    wire_dtype: WireDtype | None = None
    """Type of hidden states on the wire; None: what the model's figures speak for."""
    kv_dtype: RoundedKv | None = None
    """Type of keys and values in nodes' memory; None: as each model was converted."""
    chunk_tokens: int = DEFAULT_CHUNK_TOKENS
    draft_tokens: int = DEFAULT_DRAFT_TOKENS
    """Most tokens to guess in one run of a stage."""
    draft: str | None = None
    """The model that guesses, on the node of the last stage; None: tokens are guessed from the text so far alone."""
    blob_host: str = "127.0.0.1"
    blob_port: int = 0
    advertised_urls: tuple[str, ...] = ()
    """Where nodes reach the blob server (``http://host:port``), instead of the addresses found out."""
    memory_margin: float = 0.0
    """Share of what each node may use that plans leave free."""
    take_over: bool = False
    """Another orchestrator that serves the pipeline is to end."""
    standby: bool = False
    """Wait while another orchestrator serves the pipeline, and serve when it does not any more."""
    is_guarded: bool = False
    """Models are served to members of a fleet alone, over TLS."""
    insecure: bool = False
    """Allow plain connections to and from other machines."""
    timing: Timing = Timing()
    health: HealthLimits = HealthLimits()
    balance: bool = True
    """Move layers when nodes become slower or quicker."""
    home_assistant: str = ""
    """The prefix of Home Assistant's discovery, where the fleet announces itself; empty: nowhere."""

    def __post_init__(self) -> None:
        _check_range("--min-nodes", self.min_nodes, 1, limits.MAX_STAGES)
        if self.pipelines is not None:
            _check_range("--pipelines", self.pipelines, 1, MOST_PIPELINES)
        if self.slots is not None:
            _check_range("--slots", self.slots, 1, limits.MAX_SLOTS)
        _check_range("--chunk-tokens", self.chunk_tokens, limits.MIN_CHUNK_TOKENS, limits.MAX_CHUNK_TOKENS)
        _check_range("--guess", self.draft_tokens, 0, limits.MAX_GUESSED_TOKENS)
        if self.draft and not self.draft_tokens:
            raise BadSetting(DRAFT_WITHOUT_GUESSES)
        _check_range("--blob-port", self.blob_port, 0, 65535)
        _check_range("--max-queued", self.max_queued, 0, 100_000)
        if self.context_tokens is not None:
            _check_range("--context", self.context_tokens, limits.MIN_CONTEXT_TOKENS, limits.MAX_CONTEXT_TOKENS)
        _check_range("--battery-low", self.health.battery_low_percent, 0, 100)
        _check_range("--memory-margin", self.memory_margin, 0, limits.MAX_MEMORY_MARGIN)
        _check_range("--hot", self.health.hot_c, 0, 200)
        if self.home_assistant and not is_prefix(self.home_assistant):
            raise BadSetting(f"--home-assistant is {self.home_assistant!a}: use the prefix of its discovery topics")
        for url in self.advertised_urls:
            if not _HTTP_URL.fullmatch(url):
                raise BadSetting(f"--advertise is {url}: use an address such as http://192.168.1.5:8765")
        if self.insecure:
            return
        if not is_loopback(self.blob_host) and not self.is_guarded:
            raise InsecureAddress(
                f"serving models on {self.blob_host} is open to the whole network: use 127.0.0.1, or add --insecure"
            )
        address = as_address(self.broker_url)
        if is_exposed(address):
            raise InsecureAddress(
                f"the connection to the broker at {address.host} is not encrypted: use mqtts://, or add --insecure"
            )


def _check_range(option: str, value: float, minimum: float, maximum: float) -> None:
    if not minimum <= value <= maximum:
        raise BadSetting(f"{option} is {value}: use a number from {minimum} to {maximum}")
