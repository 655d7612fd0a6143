"""A process that is killed at any moment loses nothing that it said was saved."""

import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.service.database import Database
from schemas.messages import Epoch

WRITER = """
import sys
from pathlib import Path
from orchestrator.effects import SaveTokens
from orchestrator.service.database import Database
from schemas.messages import Epoch
from tests.support.plans import plan_of
from tests.support.scripted_nodes import make_submit

state = Database(Path(sys.argv[1]))
generation = state.next_generation("main")
for counter in range(1, 1_000_000):
    epoch = Epoch(generation=generation, counter=counter)
    state.save_epoch("main", epoch)
    state.save_plan(epoch, plan_of("main", epoch))
    state.begin_request("main", make_submit(generation * 1_000_000 + counter))
    state.add_tokens([SaveTokens(f"{generation * 1_000_000 + counter:016x}", 0, (1, 2, 3), 0.5)])
    print(generation, counter, flush=True)
"""


@pytest.mark.parametrize("lines", [1, 7, 60])
def test_killed_writers_lose_nothing_that_was_acknowledged(tmp_path: Path, lines: int) -> None:
    path = tmp_path / "state.sqlite3"
    requests = 0
    for start in (1, 2):
        command = [sys.executable, "-c", WRITER, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout
            for _ in range(lines):
                generation, counter = (int(part) for part in writer.stdout.readline().split())
            writer.kill()
            last = writer.stdout.read().split("\n")
        for line in last:
            if len(line.split()) == 2:
                generation, counter = (int(part) for part in line.split())
        assert generation == start
        requests += counter
        with Database(path) as state:
            saved = state.epoch("main")
            assert saved is not None
            assert saved >= Epoch(generation=generation, counter=counter)
            assert len(state.plans("main", limit=10_000)) >= min(counter, 1000)
    with Database(path) as state:
        kept = state.requests("main")
        assert len(kept) >= requests
        assert sum(request.tokens == (1, 2, 3) for request in kept) >= requests
        assert state.next_generation("main") == 3
