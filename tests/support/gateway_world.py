"""A gateway in front of an orchestrator whose nodes are scripted: real broker, real HTTP, no model."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import openai
from pydantic import SecretStr

from broker.bus import Bus
from broker.mqtt import MqttBus
from orchestrator.client import NoOrchestrator
from orchestrator.gateway.access import Guard
from orchestrator.gateway.gateway import GatewayLimits
from orchestrator.gateway.server import serving_gateway
from tests.support.members import as_operator, as_orchestrator
from tests.support.polling import DEADLINE_S
from tests.support.scripted_fleet import ScriptedFleet, TinyStore
from tests.support.scripted_nodes import make_birth
from tests.support.scripted_service import ScriptedService
from tests.support.secured_broker import SecuredBroker
from tests.support.services import operator, wait_until_serving

if TYPE_CHECKING:
    from langchain_openai import ChatOpenAI

HOST = "127.0.0.1"
HELLO: list[Any] = [{"role": "user", "content": "hello"}]
"""Five tokens here: letters."""


class GatewayWorld:
    """Answers end after ``fleet.most_tokens``, and stay open then, until that is None; they say ``fleet.text``."""

    def __init__(self, broker: SecuredBroker, folder: Path, stack: ExitStack) -> None:
        self.url = broker.url
        self._stack = stack
        births = [make_birth(name) for name in "abcd"]
        self.fleet = stack.enter_context(ScriptedFleet(self.connect("nodes"), births))
        self._folder = folder
        self.serve()
        self.operator = stack.enter_context(operator(broker.url))
        wait_until_serving(self.operator)

    def connect(self, name: str) -> Bus:
        """A connection with all rights."""
        bus = MqttBus(as_orchestrator(self.url), client_id=name)
        bus.connect()
        return bus

    def serve(self) -> None:
        """Start an orchestrator."""
        self._service = ScriptedService(self.connect("orchestrator"), self._folder, TinyStore(), context_tokens=256)
        self._stack.callback(self.end_service)

    def end_service(self) -> None:
        """End it. Idempotent."""
        if self._service.thread.is_alive():
            self._service.end()

    @contextmanager
    def gateway(
        self,
        *,
        guard: Guard | None = None,
        home: Path | None = None,
        tls: ssl.SSLContext | None = None,
        **limits: Any,
    ) -> Iterator[str]:
        """The root of a gateway, as a URL."""
        member = as_operator(self.url)
        limited = GatewayLimits(**limits)
        with serving_gateway(member, host=HOST, port=0, guard=guard, home=home, tls=tls, limits=limited) as server:
            yield f"{'https' if tls else 'http'}://{HOST}:{server.port}"

    @contextmanager
    def saying(self, text: str) -> Iterator[None]:
        """Answers say this, and end."""
        self.fleet.text = text
        try:
            yield
        finally:
            self.fleet.text = None

    def until_nothing_is_open(self) -> None:
        """Wait until the orchestrator answers nobody."""
        deadline_s = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline_s:
            with suppress(NoOrchestrator):
                status = self.operator.status(timeout_s=1.0)
                if not status.open_requests and not status.queued_requests:
                    return
            time.sleep(0.01)
        raise AssertionError("a request stays open")


@contextmanager
def gateway_world(folder: Path) -> Iterator[GatewayWorld]:
    """A world with a broker of its own."""
    with SecuredBroker() as broker, ExitStack() as stack:
        yield GatewayWorld(broker, folder, stack)


def openai_client(root: str, key: str = "none") -> openai.OpenAI:
    """OpenAI's own client, which does not try again by itself."""
    return openai.OpenAI(base_url=f"{root}/v1", api_key=key, max_retries=0, timeout=DEADLINE_S)


def langchain_client(root: str, way: str) -> ChatOpenAI:
    """LangChain's own client, by OpenAI's interface ``chat`` or ``responses``."""
    from langchain_openai import ChatOpenAI  # half a second

    return ChatOpenAI(
        model="tiny", base_url=f"{root}/v1", api_key=SecretStr("none"), max_retries=0, timeout=DEADLINE_S,
        temperature=0, use_responses_api=way == "responses",
    )  # fmt: skip
