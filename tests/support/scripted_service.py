"""The orchestrator's service without models or a planner's second proof, for tests with scripted nodes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from broker.bus import Bus
from orchestrator.errors import OrchestratorError
from orchestrator.service.config import ServiceConfig
from orchestrator.service.database import Database
from orchestrator.service.service import Service
from orchestrator.timing import Timing
from tests.support.orchestrating import BLOB_URL, plan_quickly
from tests.support.polling import DEADLINE_S
from tests.support.scripted_fleet import TinyStore

QUICK = Timing(settle_s=0.1, start_s=0.5, loss_settle_s=0.05, resend_s=0.1)


class ScriptedService:
    """A service on a connected bus, in a thread, and what it ended with."""

    def __init__(
        self,
        bus: Bus,
        folder: Path,
        store: TinyStore,
        timing: Timing = QUICK,
        before: Callable[[ScriptedService], None] = lambda _: None,
        **settings: Any,
    ) -> None:
        """``before`` is called when it is made and does not run yet; ``settings`` are further ones of it."""
        self.stop = threading.Event()
        self.ready = threading.Event()
        self.error: BaseException | None = None
        self.state = Database(folder / "state.sqlite3")
        self.bus = bus
        settings = {"context_tokens": 64, **settings}
        config = ServiceConfig(broker_url="mqtt://127.0.0.1", data_dir=folder, timing=timing, **settings)
        self.service = Service(config, self.bus, store, self.state, blob_urls=(BLOB_URL,), solve=plan_quickly)  # type: ignore[arg-type]
        before(self)
        self.thread = threading.Thread(target=self._run)
        self.thread.start()
        assert self.ready.wait(DEADLINE_S)

    def _run(self) -> None:
        try:
            self.service.run(self.stop, self.ready.set)
        except OrchestratorError as error:
            self.error = error

    def crash(self) -> None:
        """End in the middle of things: nobody is told, and nothing is taken down."""

        def turn() -> bool:
            raise OrchestratorError("it crashed")

        self.service.turn = turn  # type: ignore[method-assign]
        self.bus.wake()
        self.thread.join(DEADLINE_S)
        self.error = None
        self.end()

    def end(self) -> None:
        self.stop.set()
        self.thread.join(DEADLINE_S)
        assert not self.thread.is_alive()
        self.bus.close()
        self.state.close()
