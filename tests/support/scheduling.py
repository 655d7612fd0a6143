"""Which tests stay together when several processes share them."""

from __future__ import annotations

from xdist.scheduler import LoadScopeScheduling

TOGETHER = {
    "tests/integration/test_cli_live.py": "added model",
    "tests/integration/test_nothing_leaves.py": "added model",
    "tests/integration/test_model_families.py": "model families",
    "tests/integration/test_node_environment.py": "node environment",
}
"""Files whose fixtures take long: one process makes them. Every other test goes to whichever process is free."""


class Scheduling(LoadScopeScheduling):
    """Hands tests out one by one, but those that share what is slow to make all at once, before the others."""

    def _split_scope(self, nodeid: str) -> str:
        return TOGETHER.get(nodeid.split("::", 1)[0], nodeid)
