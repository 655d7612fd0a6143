"""Memory that a model's weights take in a process of its own: one session of all of it, opened and run (Linux).

A session takes memory for its graph, too, some 10 MB for SmolLM2: what one takes that packs no weights and has run
nothing is not theirs. Pages of mapped files count where they were touched since the session was opened; an answer
touches more of them, which the system may take back. Linux 6.18 has all of a folio resident with the first byte of it
that is touched, and one of a file that was just written is as large as a write was, up to 2 MiB: files are read anew.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import harness  # noqa: F401  (puts the repository on the path)
import numpy as np
from onnx import TensorProto, helper
from rings import LocalChain

from broker.heap import trim
from edge_node.runtime.process_heap import ask_for_huge_pages, let_go_of_file_pages
from orchestrator.model.model import Model
from orchestrator.model.segment_run import open_graph
from tests.support.segments import segment_spec

PROMPT_IDS, ANSWER_TOKENS, CONTEXT_TOKENS = [1, 2, 3, 4], 48, 64
"""Few at once, for the sake of weights: activations and KV cache should hardly count."""


@dataclass(frozen=True)
class Resident:
    """Bytes that a process with a model holds more than before.

    Attributes:
        own_bytes: that belong to it alone.
        session_bytes: of these, what a session takes without weights; 0 for halves, of which a session makes floats,
            packed or not, so that it never is without them. Some 12 MB of what they take are the session's, then.
        file_bytes: pages of files, which others may share.
        answered_file_bytes: such pages after an answer of ``ANSWER_TOKENS``.
    """

    own_bytes: int
    session_bytes: int
    file_bytes: int
    answered_file_bytes: int

    @property
    def weight_bytes(self) -> int:
        return self.own_bytes - self.session_bytes + self.file_bytes


def resident_of(model: Model) -> Resident:
    """What fresh processes grow by, including a KV cache of a few positions.

    Raises:
        RuntimeError: one failed.
    """
    for blob in model.manifest.blobs_of(0, model.manifest.num_units):
        _forget_cached(model.blobs_folder / blob.sha256)
    own_bytes, file_bytes, answered_file_bytes = _measure_apart(model, "weights")
    (session_bytes,) = (0,) if model.manifest.precision == "fp16" else _measure_apart(model, "session")
    return Resident(own_bytes, session_bytes, file_bytes, answered_file_bytes)


def _measure_apart(model: Model, what: str) -> list[int]:
    command = [sys.executable, __file__, str(model.folder), str(model.blobs_folder), what]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    found: list[int] = json.loads(done.stdout)
    return found


def _forget_cached(path: Path) -> None:
    """Have the system read a file from its disk when it is wanted next."""
    with path.open("rb") as file:
        os.fsync(file.fileno())  # what is not written yet is kept
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _now() -> tuple[int, int]:
    """Anonymous bytes, and those of files."""
    fields = {}
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]:
        name, kilobytes = line.split()[:2]
        fields[name] = int(kilobytes) * 1024
    return fields["Anonymous:"], fields["Rss:"] - fields["Anonymous:"]


def _run_something() -> None:
    """Have ONNX Runtime in memory."""
    info = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    doubled = helper.make_node("Add", ["x", "x"], ["y"])
    graph = helper.make_graph([doubled], "something", [info], [helper.make_tensor_value_info("y", 1, [1])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    open_graph(model.SerializeToString(), Path()).run(None, {"x": np.ones(1, np.float32)})


def _measure(folder: Path, blobs_folder: Path, what: str) -> list[int]:
    ask_for_huge_pages()
    model = Model(folder, blobs_folder)
    spec = segment_spec(model, 0, model.manifest.num_units, context_tokens=CONTEXT_TOKENS)  # assembled: not its work
    _run_something()
    own_bytes, file_bytes = _now()
    if what == "session":
        session = open_graph(blobs_folder / spec.graph.sha256, blobs_folder, prepack=False)
        trim()
        grown = [_now()[0] - own_bytes]
        del session
        return grown
    chain = LocalChain(model, context_tokens=CONTEXT_TOKENS, chunk_tokens=len(PROMPT_IDS))
    trim()  # as a node does when it has opened a segment
    let_go_of_file_pages(blobs_folder)
    chain.last_logits(PROMPT_IDS, 0)
    opened = _now()
    chain.greedy(PROMPT_IDS, ANSWER_TOKENS)
    return [opened[0] - own_bytes, opened[1] - file_bytes, _now()[1] - file_bytes]


if __name__ == "__main__":
    print(json.dumps(_measure(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])))
