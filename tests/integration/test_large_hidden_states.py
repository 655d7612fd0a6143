"""Hidden states beyond the largest half travel as halves: a Gemma-shaped model whose residual stream is huge."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime

from broker.local_broker import LocalBroker
from orchestrator.model.model import Model
from orchestrator.model.store import ModelStore
from tests.support.in_process import converting_here
from tests.support.nodes import running_nodes
from tests.support.ring import Ring
from tests.support.tiny_models import make_checkpoint

LARGEST_HALF = 65_504.0
SCALE = 2.0**20
PROMPT = list(range(20, 44))


def _scale_residual_stream(checkpoint: Path) -> None:
    """Multiply everything that is added to the residual stream: the norms in between undo it, the logits stay."""
    from safetensors.torch import load_file, save_file

    path = checkpoint / "model.safetensors"
    weights = load_file(path)
    for name in weights:
        if name.endswith(("post_attention_layernorm.weight", "post_feedforward_layernorm.weight")):
            # Gemma multiplies by 1 + weight.
            weights[name] = (1 + weights[name]) * SCALE - 1
    save_file(weights, path, metadata={"format": "pt"})


def _largest_hidden_state(model: Model, stop: int) -> float:
    """Of the prompt, after the units [0, stop)."""
    spec = model.segment(0, stop)
    session = onnxruntime.InferenceSession(str(model.blobs_folder / spec.graph.sha256))
    feeds = {
        "input_ids": np.array([PROMPT]),
        "seqlens_k": np.array([len(PROMPT) - 1], np.int32),
        "total_sequence_length": np.array(len(PROMPT), np.int32),
        "position_ids": np.arange(len(PROMPT))[None],
    }
    for tensor in spec.inputs:
        if tensor.name.startswith("past_key_values."):
            feeds[tensor.name] = np.zeros((1, int(tensor.shape[1]), 0, int(tensor.shape[3])), np.float32)
    (hidden,) = session.run(["hidden_out"], {tensor.name: feeds[tensor.name] for tensor in spec.inputs})
    return float(np.abs(hidden).max())


def test_states_beyond_the_largest_half_travel_as_halves(mosquitto: LocalBroker, tmp_path: Path) -> None:
    checkpoint = make_checkpoint("gemma3", tmp_path / "gemma")
    _scale_residual_stream(checkpoint)
    store = ModelStore(tmp_path / "home")
    with converting_here():
        store.add(str(checkpoint), name="huge", precision="fp32", profile="exact")
    model = store.open("huge")
    assert _largest_hidden_state(model, 4) > LARGEST_HALF
    with running_nodes(["a", "b"], mosquitto.url, tmp_path) as nodes, Ring(mosquitto.url, model) as ring:
        homes = {name: node.home for name, node in nodes.items()}
        texts = {}
        for wire in ("fp32", "fp16"):
            ring.deploy(homes, [0, 4, model.manifest.num_units], wire=wire, context_tokens=128)
            texts[wire] = ring.ask(PROMPT, 24).ids
    assert texts["fp16"] == texts["fp32"]
    assert len(set(texts["fp32"])) > 1
