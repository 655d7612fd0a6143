"""The packages that come with an extra of ours, and which of them are missing here."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable

from orchestrator.text.advice import BY_COMPOSE

MODULES = {
    "orchestrator": (
        "cryptography", "fastapi", "h11", "highspy", "jinja2", "llguidance", "numpy", "onnx", "onnxruntime",
        "prometheus_client", "psutil", "pydantic", "pyomo", "segno", "starlette", "tokenizers", "uvicorn",
    ),
    "convert": (
        "accelerate", "gguf", "google.protobuf", "huggingface_hub", "onnx_ir", "onnxruntime_genai", "safetensors",
        "sentencepiece", "torch", "transformers",
    ),
}  # fmt: skip
"""By extra: what is imported of its packages."""


def missing(modules: Iterable[str]) -> list[str]:
    """The modules, out of these, that are not installed; nothing is imported but the packages around them."""
    return [name for name in modules if not _is_installed(name)]


def advice(extras: Iterable[str]) -> str:
    """The packages missing of these extras, and the one command that installs all of them."""
    lacking = {extra: missing(MODULES[extra]) for extra in extras}
    wanted = [extra for extra, names in lacking.items() if names] or list(lacking)
    names = sorted({name for names in lacking.values() for name in names})
    listed = f" ({', '.join(names)})" if names else ""
    elsewhere = f"; with Docker Compose: {BY_COMPOSE}" if wanted == ["convert"] else ""
    return f"Python packages are missing{listed}: pip install 'linguabus[{','.join(wanted)}]'{elsewhere}"


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # the package around it is missing; it is blocked
        return False
