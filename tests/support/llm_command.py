"""The command ``llm``, in a home of its own, with the gateway for its model."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import yaml

from tests.support.polling import DEADLINE_S


class LlmCommand:
    """``way``: ``chat`` or ``responses``, the interface of OpenAI's that it asks by."""

    def __init__(self, home: Path, root: str, way: str) -> None:
        model = {
            "model_id": "bus", "model_name": "tiny", "api_base": f"{root}/v1", "responses": way == "responses",
            "supports_tools": True, "supports_schema": True,
        }  # fmt: skip
        (home / "extra-openai-models.yaml").write_text(yaml.safe_dump([model]), "utf-8")
        self._environment = {**os.environ, "LLM_USER_PATH": str(home), "OPENAI_API_KEY": "none"}

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """What becomes of a prompt."""
        return subprocess.run(
            ["llm", "prompt", "--model", "bus", *arguments],
            env=self._environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=DEADLINE_S,
            check=False,
        )  # fmt: skip

    def __call__(self, *arguments: str) -> str:
        """What it prints."""
        done = self.run(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout
