"""What an ONNX decoder computes as it came, in one piece: the truth that it is compared with once cut into units.

Run as ``python -m orchestrator.model.source_graph GRAPH OUT IDS``, in a process of its own because it holds the model
in memory. Weights are those of the graph, activations are float32. ``IDS`` is a JSON file with token ids and
how many of them are prefilled; ``OUT`` becomes a file with the logits [S, V].
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from orchestrator.model.assemble import set_accuracy_level
from orchestrator.model.graph import read_model
from orchestrator.model.manifest import LayerCache
from orchestrator.model.precision import PROFILES
from orchestrator.model.segment_run import SegmentRun, open_graph


def compute(graph: Path, out: Path, request: Path) -> None:
    """Write the logits."""
    import numpy as np

    asked = json.loads(request.read_text("utf-8"))
    layers = [LayerCache(**layer) for layer in asked["layers"]]
    model = read_model(graph)
    for node in model.graph.node:
        set_accuracy_level(node, PROFILES["exact"])
    run = SegmentRun(open_graph(model.SerializeToString(), graph.parent, asked["threads"]), layers)
    logits = [run.step(asked["ids"][start:stop], None) for start, stop in asked["steps"]]
    np.save(out, np.concatenate(logits, axis=1)[0])


if __name__ == "__main__":
    compute(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
