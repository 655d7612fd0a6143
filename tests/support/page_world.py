"""A fleet with real nodes, a gateway on its host, and a browser in front of it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from broker.credential import FILE
from orchestrator.client import Client
from orchestrator.gateway.access import Guard
from orchestrator.gateway.server import serving_gateway
from orchestrator.model.store import ModelStore
from tests.support.fleet_world import HOST, FleetWorld
from tests.support.nodes import NodeProcess, running_nodes, start_node
from tests.support.served_fleet import served_fleet
from tests.support.services import QUICK, apply, patient_client, wait_until_serving

NODES = ("kitchen-phone", "old-tablet", "pi")
OWNER = "owner"
TWIN = "twin"
SLOW = ("--emulate-speed", "0.02")
QUICKER = {"old-tablet": ("--emulate-speed", "0.2")}
"""No plan for throughput does without it."""
ENDS = (("embed", "kitchen-phone"), ("head", "pi"))


@dataclass(frozen=True)
class PageWorld:
    """The gateway's root, and what is behind it."""

    root: str
    home: Path
    fleet: FleetWorld
    nodes: dict[str, NodeProcess]
    operator: Client

    def use_all(self) -> None:
        """Have all nodes in one ring, the quick one in the middle."""
        apply(self.operator, objective="throughput", pins=ENDS)
        assert [stage.node for stage in self.operator.plan().stages] == list(NODES)

    def restart(self, name: str) -> None:
        """Start a node that was ended, and have all in one ring again."""
        self.nodes[name] = start_node(name, None, self.home / name, *SLOW, *QUICKER.get(name, ()))
        while not any(node.node == name and node.state == "online" for node in self.operator.nodes().nodes):
            self.operator.events(0.05)
        self.use_all()

    @contextmanager
    def gateway(self, guard: Guard) -> Iterator[str]:
        """The root of another gateway."""
        owner = self.fleet.members[OWNER].broker()
        with serving_gateway(owner, host=HOST, port=0, guard=guard, home=self.home) as server:
            yield f"http://{HOST}:{server.port}"


def two_models(home: Path, tiny_store: ModelStore) -> ModelStore:
    """A store of its own for a home, with ``tiny`` and the same once more by another name."""
    shutil.copytree(tiny_store.home, home / "models")
    store = ModelStore(home / "models")
    store.add(str(tiny_store.home.parent / "checkpoint"), name=TWIN, precision="fp32", profile="exact")
    return store


@contextmanager
def page_world(home: Path, tiny_store: ModelStore) -> Iterator[PageWorld]:
    """A world whose nodes are slow, so that an answer takes a while."""
    store = two_models(home, tiny_store)
    roles = {OWNER: "operator", **dict.fromkeys(NODES, "node")}
    settings = {"model": "tiny", "timing": QUICK, "wire_dtype": "fp32", "slots": 4, "min_nodes": len(NODES)}
    with ExitStack() as stack:
        fleet = stack.enter_context(served_fleet(home, store, roles, **settings))  # type: ignore[arg-type]
        for name in NODES:
            (home / name).mkdir()
            fleet.members[name].save(home / name / FILE)
        nodes = stack.enter_context(running_nodes(NODES, None, home, *SLOW, each=QUICKER))
        owner = fleet.members[OWNER].broker()
        operator = stack.enter_context(patient_client(owner))
        wait_until_serving(operator)
        server = stack.enter_context(serving_gateway(owner, host=HOST, port=0, home=home))
        world = PageWorld(f"http://{HOST}:{server.port}", home, fleet, nodes, operator)
        world.use_all()
        yield world
