"""The node's loop over a bus in memory."""

from __future__ import annotations

import mmap
import os
import sys
import threading
from pathlib import Path

import pytest

from broker.address import BrokerAddress
from broker.bus import Delivery, Event
from broker.memory import MemoryBroker, MemoryBus
from edge_node.config import NodeConfig
from edge_node.core import NodeCore
from edge_node.errors import BlobUnavailable
from edge_node.service import NodeService
from edge_node.telemetry import device
from orchestrator.identity.authority import make_authority
from schemas.messages import BlobRef
from tests.support.mapped_files import resident_bytes
from tests.support.polling import DEADLINE_S

NEVER_S = 3_600.0


class Alone(NodeService):
    """A node that nobody hears."""

    def __init__(
        self, home: Path, address: str | BrokerAddress = "mqtt://nowhere", storage_limit_bytes: int | None = None
    ) -> None:
        broker = MemoryBroker()
        config = NodeConfig(
            name="n",
            broker_url=address,
            home=home,
            heartbeat_interval_s=NEVER_S,
            storage_limit_bytes=storage_limit_bytes,
        )
        super().__init__(config, make_bus=lambda client_id, will: MemoryBus(broker, client_id=client_id, will=will))


def test_a_member_fetches_blobs_from_its_fleet_alone(tmp_path: Path) -> None:
    fleet = BrokerAddress("orchestrator.local", 8883, True, "n", "key", authority=make_authority()[1])
    node, blob = Alone(tmp_path, fleet), BlobRef(sha256="0" * 64, size_bytes=1)
    with pytest.raises(BlobUnavailable, match=r"127\.0\.0\.1 is none of the hosts"):
        node._store.fetch([blob], ["https://127.0.0.1:9"], on_progress=lambda *_: None, background=True)
    with pytest.raises(BlobUnavailable, match="https:// only"):
        node._store.fetch([blob], ["http://orchestrator.local:9"], on_progress=lambda *_: None, background=True)


class Decoding(Alone):
    """Every message is an answer's step, and each token comes back to the node itself."""

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.steps = 0

    def _short_way(self, events: list[Event]) -> list[Event]:
        self.steps += 1
        if self.steps == 1:
            self.leave("asked by another thread in mid-step")
        self._own.extend(events)
        return []


def test_a_call_from_another_thread_is_heard_between_a_nodes_own_tokens(tmp_path: Path) -> None:
    node = Decoding(tmp_path)
    thread = threading.Thread(target=node.run)
    thread.start()
    try:
        thread.join(DEADLINE_S)
        assert not thread.is_alive(), f"decodes on after {node.steps} steps"
        assert node.steps == 1
    finally:
        node.stop()
        thread.join()


def test_what_came_before_a_step_is_taken_in_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    node = Alone(tmp_path)
    monkeypatch.setattr(node, "_event", lambda event: seen.append(event.topic))
    monkeypatch.setattr(node._core, "fast_path", lambda topic, *_: seen.append(f"step of {topic}"))
    masks, step = Delivery("masks", b"", 1, False), Delivery("frame", b"", 0, False)
    try:
        assert node._short_way([masks, step]) == [step], "it is none: the long way takes it"
        assert seen == ["masks", "step of frame"]
        monkeypatch.setattr(NodeCore, "has_work", True)
        assert node._short_way([masks, step]) == [step]
        assert seen[2:] == ["masks"], "there is something to compute before it"
    finally:
        node._reporter.close()


def test_an_idle_node_gives_back_what_is_beyond_its_limit(tmp_path: Path) -> None:
    node = Alone(tmp_path, storage_limit_bytes=1500)
    node._bus.connect()
    try:
        for age in range(3):
            blob = node._store.path(f"{age}" * 64)
            blob.write_bytes(bytes(1000))
            os.utime(blob, (age, age))
        node._heartbeat()
        assert [path.name[0] for path in node._store.directory.iterdir()] == ["2"]
    finally:
        node._reporter.close()


@pytest.mark.skipif(sys.platform != "linux", reason="/proc/self/smaps")
def test_a_node_that_comes_near_what_was_planned_lets_go_of_pages_of_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resident = {"now": 100}
    monkeypatch.setattr(device, "resident_bytes", lambda: resident["now"])
    node, size_bytes = Alone(tmp_path), 1 << 20
    folder = node._store.directory.resolve()
    table = folder / "table"
    table.write_bytes(b"x" * size_bytes)
    node._bus.connect(DEADLINE_S)
    with table.open("rb") as file, mmap.mmap(file.fileno(), size_bytes, access=mmap.ACCESS_READ) as mapped:
        steps = [(0, 100, size_bytes), (106, 100, size_bytes), (105, 100, 0)]
        steps += [(105, 102, size_bytes), (105, 103, 0)]  # what is not of files stays: only a growth is looked at again
        for planned_bytes, resident_bytes_now, kept_bytes in steps:
            assert mapped[::4096] == b"x" * (size_bytes // 4096)
            monkeypatch.setattr(NodeCore, "planned_bytes", planned_bytes)
            resident["now"] = resident_bytes_now
            node._heartbeat()
            assert resident_bytes(folder) == {table: kept_bytes}, (planned_bytes, resident_bytes_now)
    node._bus.close()
    node._reporter.close()
    node._guest.close()
