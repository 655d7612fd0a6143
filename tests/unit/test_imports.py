"""What may import what: a phone must not need what only the orchestrator has."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.repository import ROOT

PACKAGES = ("schemas", "broker", "edge_node", "orchestrator")
ON_NODES = ("schemas", "broker", "edge_node")
MAY_IMPORT = {
    "schemas": {"schemas"},
    "broker": {"broker", "schemas"},
    "edge_node": {"edge_node", "broker", "schemas"},
    "orchestrator": {"orchestrator", "broker", "schemas"},
}
NODE_LIBRARIES = {"paho", "click", "yaml", "numpy", "onnxruntime", "psutil"}
EMBEDDED_BROKER = "broker.embedded_broker"
"""A program of its own, run where the orchestrator's extra is installed; no other module imports it."""
HEAVY = {
    "torch", "pyomo", "onnx", "pydantic", "transformers", "tokenizers", "starlette", "uvicorn", "amqtt",
    "huggingface_hub", "gguf", "onnxruntime_genai", "onnx_ir", "jinja2", "highspy", "scipy", "orchestrator",
}  # fmt: skip

IMPORT_ALL = """
import importlib, json, sys
before = set(sys.modules)
for name in json.loads(sys.argv[1]):
    importlib.import_module(name)
print(json.dumps(sorted({name.partition(".")[0] for name in set(sys.modules) - before})))
"""


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_program(module: str) -> bool:
    return module.endswith(".__main__") or module == EMBEDDED_BROKER


def imported_packages(path: Path) -> Iterator[tuple[int, str]]:
    """(line, top-level package) of every import statement in a file, also those inside functions.

    Relative imports stay in their own package.
    """
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name.partition(".")[0]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.lineno, node.module.partition(".")[0]


def loaded_by_importing(modules: list[str]) -> set[str]:
    """Top-level packages that a fresh interpreter holds after importing ``modules``."""
    command = [sys.executable, "-c", IMPORT_ALL, json.dumps(modules)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


def test_schemas_needs_the_standard_library_alone() -> None:
    loaded = loaded_by_importing([module_name(path) for path in sources("schemas")])
    assert loaded - set(sys.stdlib_module_names) == {"schemas"}


def test_importing_what_runs_on_nodes_loads_nothing_heavy() -> None:
    modules = [module_name(path) for package in ON_NODES for path in sources(package)]
    assert loaded_by_importing([name for name in modules if not is_program(name)]) & HEAVY == set()


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_only_their_own_layer_and_below(package: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in sources(package)
        for line, name in imported_packages(path)
        if name in PACKAGES and name not in MAY_IMPORT[package]
    ]
    assert wrong == []


@pytest.mark.parametrize("package", ON_NODES)
def test_packages_on_nodes_name_only_what_nodes_have(package: str) -> None:
    libraries = set() if package == "schemas" else NODE_LIBRARIES
    allowed = {*sys.stdlib_module_names, *MAY_IMPORT[package], *libraries}
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in sources(package)
        for line, name in imported_packages(path)
        if name not in allowed and not (name == "amqtt" and module_name(path) == EMBEDDED_BROKER)
    ]
    assert wrong == []
