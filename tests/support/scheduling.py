"""Which tests stay together when several processes share them."""

from __future__ import annotations

from xdist.scheduler import LoadScopeScheduling

TOGETHER = {
    "tests/integration/test_cli_live.py": "added model",
    "tests/integration/test_nothing_leaves.py": "added model",
    "tests/integration/test_model_families.py": "model families",
    "tests/integration/test_node_environment.py": "node environment",
    "tests/integration/test_page.py": "page",
    "tests/unit/docs/test_site.py": "site",
}
"""Files whose fixtures take long: one process makes them. Every other test goes to whichever process is free."""


def scope(nodeid: str) -> str:
    """Tests of one scope run in one process, one after the other."""
    return TOGETHER.get(nodeid.split("::", 1)[0], nodeid)


class Scheduling(LoadScopeScheduling):
    """Hands scopes to processes that are free, the largest first."""

    def _split_scope(self, nodeid: str) -> str:
        return scope(nodeid)
