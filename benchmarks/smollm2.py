"""SmolLM2-135M-Instruct, int4, as the demo has it."""
from pathlib import Path
from orchestrator.model.store import ModelStore
QUESTION = "What is the capital of France?"
def open_smollm2(profile):
    return ModelStore(Path('/tmp/lab/home')).open('smol-'+profile)
