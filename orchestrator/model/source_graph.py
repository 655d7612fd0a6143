"""What an ONNX decoder computes as it came: the truth that it is compared with once it is cut into units.

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
from orchestrator.model.manifest import LayerCache, parse_json
from orchestrator.model.onnx_files import EMBEDDED, embedding_file, takes_embedded
from orchestrator.model.precision import PROFILES
from orchestrator.model.segment_run import SegmentRun, open_graph
from schemas.segment_tensors import IDS


def compute(graph: Path, out: Path, request: Path) -> None:
    """Write the logits."""
    import numpy as np

    asked = json.loads(request.read_text("utf-8"))
    layers = [parse_json(LayerCache, json.dumps(layer), str(request)) for layer in asked["layers"]]
    model = read_model(graph)
    for node in model.graph.node:
        set_accuracy_level(node, PROFILES["exact"].accuracy_level)
    run = SegmentRun(open_graph(model.SerializeToString(), graph.parent, asked["threads"]), layers)
    embed = open_graph(embedding_file(graph), graph.parent) if takes_embedded(model) else None
    logits = []
    for start, stop in asked["steps"]:
        ids = asked["ids"][start:stop]
        embedded = {} if embed is None else {EMBEDDED: embed.run(None, {IDS: np.array([ids], np.int64)})[0]}
        logits.append(run.step(ids, None, others=embedded))
    np.save(out, np.concatenate(logits, axis=1)[0])


if __name__ == "__main__":
    compute(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
