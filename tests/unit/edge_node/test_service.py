"""The node's loop over a bus in memory."""

from __future__ import annotations

import threading
from pathlib import Path

from broker.bus import Event
from broker.memory import MemoryBroker, MemoryBus
from edge_node.config import NodeConfig
from edge_node.service import NodeService
from tests.support.polling import DEADLINE_S

NEVER_S = 3_600.0


class Decoding(NodeService):
    """Every message is an answer's step, and each token comes back to the node itself."""

    def __init__(self, home: Path) -> None:
        broker = MemoryBroker()
        config = NodeConfig(name="n", broker_url="mqtt://nowhere", home=home, heartbeat_interval_s=NEVER_S)
        super().__init__(config, make_bus=lambda client_id, will: MemoryBus(broker, client_id=client_id, will=will))
        self.steps = 0

    def _short_way(self, event: Event) -> bool:
        self.steps += 1
        if self.steps == 1:
            self.leave("asked by another thread in mid-step")
        self._own.append(event)
        return True


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
