"""A node as its device's owner has to do with it: when it rests and leaves, and how it is."""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from broker.bus import Bus
from edge_node.config import NodeConfig
from edge_node.guest.conditions import Condition, Watched, WifiMonitor
from edge_node.guest.control import ControlServer
from edge_node.guest.drain import BROKER_PATIENCE_S, Drain
from edge_node.guest.notification import Notification
from edge_node.guest.pause import PauseFile
from edge_node.guest.rest import Rest
from edge_node.guest.state import NodeState, State
from edge_node.guest.step import Step
from edge_node.telemetry.battery import BatteryMonitor
from edge_node.telemetry.round_trip import PATIENCE_S
from schemas.closing import Closing
from schemas.messages import Heartbeat

_LOOK_S = 2.0
"""Between two looks at the conditions."""
_LOOK_TIMEOUT_S = 2.0
"""A node that computes for longer looks later."""
_log = logging.getLogger(__name__)


class Guest(Closing):
    """Heeds the owner. For the thread that serves, but for what the control socket asks."""

    def __init__(self, config: NodeConfig, memory_bytes: int, *, say: Callable[[str], None], wake: Callable[[], None]):
        """``say`` tells the owner a line; ``wake`` has `look` called soon."""
        self._home, self._say, self._wake = config.home, say, wake
        self.battery = BatteryMonitor(config.condition_look_s if config.only_charging else None)
        self._drain, self._rest = Drain(config.drain_timeout_s), Rest(config.drain_timeout_s)
        self._pause = PauseFile(config.home)
        self._look_s = config.condition_look_s or _LOOK_S
        self._looked_s = -math.inf
        self._wifi = WifiMonitor(config.condition_look_s) if config.only_wifi else None
        self._conditions = self._conditions_of(config)
        self._started_s = time.monotonic()
        self._cut_off_since_s: float | None = self._started_s
        self._state = NodeState(
            node=config.name, state="no broker", pid=os.getpid(), limit_bytes=memory_bytes, tokens=0
        )
        """Replaced, never changed: the control thread reads it."""
        self._serves = False
        self._turn = threading.Condition()
        self._asked = self._looking = self._done = 0
        """How often the control's thread has asked for a look; which of these is being seen to, and which was."""
        self._notification: Notification | None = None
        self._control: ControlServer | None = None
        self.look(self._started_s)

    def _conditions_of(self, config: NodeConfig) -> list[Watched]:
        pace = {"off_s": config.condition_off_s, "on_s": config.condition_on_s}
        found: list[Watched] = []
        if config.only_charging:
            unknown = "--only-charging: this device does not say whether it is on a charger: it serves all the same"
            found.append((Condition("charging", "it is not on a charger", unknown, **pace), self._is_charging))
        if self._wifi:
            unknown = "--only-wifi: this device does not say whether it is in a Wi-Fi: it serves all the same"
            found.append((Condition("wifi", "it is in no Wi-Fi", unknown, **pace), self._wifi.read))
        return found

    def _is_charging(self) -> bool | None:
        battery = self.battery.read()
        return battery.charging if battery else None

    def start(self) -> None:
        """Be there for the owner."""
        try:
            self._control = ControlServer(self._home, self._answer)
        except OSError as error:
            reason = error.strerror or str(error)
            _log.warning("'linguabus-node status' can't ask this node: no socket in %s: %s", self._home, reason)
        self._notification = Notification(self._state.node, self._home)

    def close(self) -> None:
        """Be gone for the owner. Idempotent."""
        for one in (self._control, self._notification, self._wifi):
            if one:
                one.close()
        self.battery.close()

    # --- what the owner wants ---------------------------------------------------------------------------------

    @property
    def leaving(self) -> str:
        """Why the node is to end; empty while it is not."""
        return self._drain.reason

    @property
    def resting(self) -> str:
        """Why it wants no layers for now; empty while it does."""
        return self._rest.reason

    @property
    def ends_by_s(self) -> float | None:
        """When a node that was asked to end does so at the latest; None before it has begun to."""
        return self._drain.ends_by_s

    def leave(self, reason: str) -> None:
        """The node is to end. May be called from a signal handler or another thread."""
        self._drain.reason = reason

    def rest(self, kind: str, reason: str) -> None:
        """The node is to rest for a reason of this kind; empty: not for that any more."""
        self._rest.because(kind, reason)

    def look(self, now_s: float) -> None:
        """Look at the pause and at the conditions."""
        self._looking, self._looked_s = self._asked, now_s
        pause = self._pause.read()
        self.rest("pause", pause.reason if pause else "")
        for condition, read in self._conditions:
            reason, line = condition.heard(read(), now_s)
            self.rest(condition.kind, reason)
            if line:
                self._say(line)

    def step(self, has_layers: bool, now_s: float, *, silent_s: float) -> Step:
        """What to do now, since `look`. ``silent_s``: for how long the broker has not answered."""
        self._serves = True
        if now_s >= self._look_due_s():
            self.look(now_s)
        if self._drain.reason:
            step = self._drain.step(has_layers, now_s, silent_s=silent_s)
        else:
            step = self._rest.step(has_layers, now_s)
        if step.line:
            self._say(step.line)
        if self._done != self._looking:
            with self._turn:
                self._done = self._looking
                self._turn.notify_all()
        return step

    def due_s(self, has_layers: bool, silent_since_s: float | None) -> float | None:
        """When ``step`` next has something to do by time alone."""
        if not self._drain.reason:
            rests_s = self._rest.due_s(has_layers)
            return min(self._look_due_s(), math.inf if rests_s is None else rests_s)
        due = [self._drain.ends_by_s, None if silent_since_s is None else silent_since_s + BROKER_PATIENCE_S]
        return min((at_s for at_s in due if at_s is not None), default=None)

    def _look_due_s(self) -> float:
        """When the conditions are to be looked at next; what else there is to see, somebody says."""
        return self._looked_s + self._look_s if self._conditions else math.inf

    # --- what the owner sees ----------------------------------------------------------------------------------

    def note(self, beat: Heartbeat, bus: Bus, *, runs: str, silent_since_s: float | None) -> None:
        """Note how the node is, with each heartbeat."""
        now_s = time.monotonic()
        silent = silent_since_s is not None and now_s - silent_since_s > PATIENCE_S
        if bus.connected and not silent:
            self._cut_off_since_s = None
        elif self._cut_off_since_s is None:
            self._cut_off_since_s = silent_since_s if silent else now_s
        self._state = replace(
            self._state,
            runs=runs,
            tokens=beat.tokens,
            rss_bytes=beat.rss_bytes,
            bytes_in=beat.received_bytes,
            bytes_out=beat.sent_bytes,
            battery_percent=beat.battery_percent,
            charging=beat.charging,
        )
        if self._notification:
            self._notification.show(self.state(), is_paused=self._pause.read() is not None, now_s=now_s)

    def state(self) -> NodeState:
        """How the node is now. For any thread."""
        now_s, cut_off_since_s, known = time.monotonic(), self._cut_off_since_s, self._state
        return replace(
            known,
            state=self._word(known.runs, cut_off_since_s),
            why=self.leaving or self.resting,
            no_broker_s=None if cut_off_since_s is None else now_s - cut_off_since_s,
            uptime_s=now_s - self._started_s,
        )

    def _word(self, runs: str, cut_off_since_s: float | None) -> State:
        if self.leaving:
            return "leaving"
        if self.resting:
            return "resting"
        if cut_off_since_s is not None:
            return "no broker"
        return "serving" if runs else "idle"

    def _answer(self, asked: str) -> NodeState:
        """What the owner is told, in the control's thread."""
        if asked == "look" and not self._serves:
            self.look(time.monotonic())  # who waits for the broker looks at nothing
        elif asked == "look":
            with self._turn:
                self._asked = mine = self._asked + 1
            self._wake()
            with self._turn:
                self._turn.wait_for(lambda: self._done >= mine, _LOOK_TIMEOUT_S)
        return self.state()
