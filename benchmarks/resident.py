"""Memory that a model takes in a process of its own: one session of all of it, opened and run (Linux).

What ONNX Runtime takes itself is not the model's: it has run another graph before. Pages of files that are mapped count where
they were touched since the session was opened; each answer touches more of them, which the system may take back.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import harness  # noqa: F401  (puts the repository on the path)
from rings import LocalChain

from edge_node.runtime.process_heap import ask_for_huge_pages, let_go_of_file_pages, trim
from orchestrator.model.model import Model


@dataclass(frozen=True)
class Resident:
    """Bytes that a process holds more than before: its own, and pages of files, which others may share."""

    anonymous_bytes: int
    file_bytes: int

    @property
    def all_bytes(self) -> int:
        return self.anonymous_bytes + self.file_bytes


def resident_of(model: Model) -> Resident:
    """What a fresh process grows by, including a KV cache of 64 positions.

    Raises:
        RuntimeError: it failed.
    """
    command = [sys.executable, __file__, str(model.folder), str(model.blobs_folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    return Resident(**json.loads(done.stdout))


def _now() -> Resident:
    fields = {}
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]:
        name, kilobytes = line.split()[:2]
        fields[name] = int(kilobytes) * 1024
    return Resident(fields["Anonymous:"], fields["Rss:"] - fields["Anonymous:"])


def _measure(folder: Path, blobs_folder: Path) -> Resident:
    ask_for_huge_pages()
    model = Model(folder, blobs_folder)
    model.segment(0, model.manifest.num_units)  # assembled before: that is the orchestrator's work
    before = _now()
    chain = LocalChain(model, context_tokens=64)
    trim()  # as a node does when it has opened a segment
    let_go_of_file_pages(model.blobs_folder)
    chain.logits([1, 2, 3, 4], 0)
    after = _now()
    return Resident(after.anonymous_bytes - before.anonymous_bytes, after.file_bytes - before.file_bytes)


if __name__ == "__main__":
    found = _measure(Path(sys.argv[1]), Path(sys.argv[2]))
    print(json.dumps({"anonymous_bytes": found.anonymous_bytes, "file_bytes": found.file_bytes}))
