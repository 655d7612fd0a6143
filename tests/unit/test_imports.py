"""What may import what: a phone must not need what only the orchestrator has."""

from __future__ import annotations

import ast
import functools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from schemas import usage_reports
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
HEAVY = {
    "torch", "pyomo", "onnx", "pydantic", "transformers", "tokenizers", "starlette", "fastapi", "uvicorn",
    "huggingface_hub", "gguf", "onnxruntime_genai", "onnx_ir", "jinja2", "highspy", "scipy", "llguidance",
    "orchestrator",
}  # fmt: skip

REPORTING = {"onnxruntime", "onnxruntime_genai", "huggingface_hub", "transformers", "accelerate"}
"""They send usage reports to their makers, or did."""

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
    return module.endswith(".__main__")


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
        if name not in allowed
    ]
    assert wrong == []


@pytest.mark.parametrize("package", ["edge_node", "orchestrator"])
def test_usage_reports_are_off_before_any_library_is_imported(package: str) -> None:
    first = [type(node) for node in ast.parse((ROOT / package / "__init__.py").read_text("utf-8")).body]
    assert first == [ast.Expr, ast.ImportFrom, ast.Expr]  # docstring, import, call
    script = f"import json, os, {package}; print(json.dumps(dict(os.environ)))"
    told_otherwise = {**os.environ, **dict.fromkeys(usage_reports.OFF, "0")}
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=told_otherwise, capture_output=True, check=True)
    assert json.loads(done.stdout).items() >= usage_reports.OFF.items()


def test_what_reports_is_imported_by_packages_that_turn_that_off() -> None:
    others = [path for package in ("schemas", "broker", "benchmarks") for path in sources(package)]
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in others
        for line, name in imported_packages(path)
        if name in REPORTING
    ]
    assert wrong == []


# --- arrows between folders ---------------------------------------------------------------------------------------

ROOMS = {
    "edge_node": {
        "errors": "",
        "stage_spec": "",
        "effects": "stage_spec",
        "work": "stage_spec",
        "requests": "work",
        "wire": "effects errors stage_spec work",
        "storage": "errors",
        "migration": "effects requests stage_spec wire",
        "stage": "effects errors migration requests stage_spec wire work",
        "runtime": "effects errors stage stage_spec storage wire work",
        "core": "effects migration stage stage_spec work",
        "config": "",
        "notices": "",
        "telemetry": "config core effects errors runtime stage_spec storage wire",
        "guest": "config errors storage telemetry",
        "service": "config core effects errors guest notices runtime storage telemetry wire",
        "cli": "config errors guest runtime service storage telemetry",
        "__main__": "cli",
    },
    "orchestrator": {
        "errors": "",
        "timing": "",
        "text": "",
        "model": "errors text",
        "planning": "text",
        "planning.solver": "planning text",
        "planning.moves": "planning planning.solver",
        "planning.standby": "planning planning.solver",
        "planning.explain": "planning planning.solver text",
        "planning.simulation": "planning planning.explain planning.solver planning.standby text",
        "effects": "planning",
        "events": "effects model planning",
        "fleet": "effects model planning text",
        "deployment": "effects events fleet model planning planning.moves text timing",
        "requests": "deployment effects events model timing",
        "balancing": "deployment effects fleet planning planning.moves planning.simulation planning.solver",
        "replanning": "balancing deployment effects fleet model planning planning.solver text timing",
        "pipelines": "balancing deployment effects events fleet model planning planning.solver"
        " replanning requests text timing",
        "control_plane": "deployment effects fleet pipelines replanning requests timing",
        "operator_api": "control_plane deployment effects fleet pipelines planning planning.moves planning.solver"
        " replanning requests text",
        "core": "control_plane effects events operator_api text",
        "identity": "errors",
        "service": "control_plane core deployment effects errors events fleet identity model operator_api pipelines"
        " planning planning.explain planning.simulation planning.solver planning.standby replanning timing",
        "client": "errors",
        "gateway": "client errors identity model service text",
        "commands": "balancing client errors fleet gateway identity model planning planning.explain"
        " planning.simulation planning.solver replanning service text timing",
        "cli": "commands",
    },
}
"""Which room of a package may import from which others: the core and its ports on the ground floor, shells on top. A
room is a folder or, beside the folders, a module; a folder of planning is one of its own."""


@functools.cache
def imported(module: str, text: str) -> frozenset[str]:
    """Every name that a module imports: at its top, in functions, under TYPE_CHECKING."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(text, module)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}: imports are absolute"
            names |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(names)


def texts() -> dict[str, str]:
    """By dotted name: the modules of all packages."""
    paths = [path for package in PACKAGES for path in sources(package)]
    return {module_name(path): path.read_text(encoding="utf-8") for path in paths}


def arrows(modules: dict[str, str]) -> dict[str, set[str]]:
    """What each module imports of the others; a package's own file only where nothing in it is meant."""
    found = {}
    for module, text in modules.items():
        names = imported(module, text) & modules.keys() - {module}
        found[module] = {name for name in names if not any(other.startswith(f"{name}.") for other in names)}
    return found


def room(module: str) -> tuple[str, str]:
    """(package, room) of a module; rooms are told apart where they have a table."""
    package, *rest = module.split(".")
    if package not in ROOMS or not rest:
        return package, ""
    longer = ".".join(rest[:2])
    return package, longer if longer in ROOMS[package] else rest[0]


def wrong_arrows(modules: dict[str, str]) -> list[str]:
    """Imports from a room that the table does not allow."""
    wrong = []
    for module, targets in arrows(modules).items():
        package, own = room(module)
        for target in sorted(targets):
            other_package, other = room(target)
            if other_package != package or other in ("", own) or not own:
                continue
            if other not in ROOMS[package].get(own, "").split():
                wrong.append(f"{module} imports {target}: {own or package} may not import from {other}")
    return wrong


def circles(modules: dict[str, str]) -> list[list[str]]:
    """Groups of modules that import each other, whatever the way round (Tarjan's strongly connected components)."""
    edges = arrows(modules)
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        order[module] = lowest[module] = len(order)
        stack.append(module)
        for target in edges[module]:
            if target not in order:
                visit(target)
                lowest[module] = min(lowest[module], lowest[target])
            elif target in stack:
                lowest[module] = min(lowest[module], order[target])
        if lowest[module] == order[module]:
            at = stack.index(module)
            group = sorted(stack[at:])
            del stack[at:]
            if len(group) > 1:
                found.append(group)

    for module in edges:
        if module not in order:
            visit(module)
    return found


def test_every_room_is_in_the_table() -> None:
    rooms = {room(module) for module in texts()}
    assert {(package, name) for package, name in rooms if name} == {
        (package, name) for package, table in ROOMS.items() for name in table
    }


def test_the_table_itself_has_no_circle() -> None:
    for package, table in ROOMS.items():
        below: set[str] = set()
        left = {name: set(targets.split()) for name, targets in table.items()}
        while ready := [name for name, targets in left.items() if targets <= below]:
            below.update(ready)
            for name in ready:
                del left[name]
        assert left == {}, package


def test_arrows_between_folders_are_the_allowed_ones() -> None:
    assert wrong_arrows(texts()) == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circles(texts()) == []


@pytest.mark.parametrize(
    ("module", "line", "wrong", "circle"),
    [
        ("orchestrator.planning.cost", "from orchestrator.core import Core", True, True),
        ("edge_node.wire.frames", "from edge_node import service", True, True),
        ("edge_node.effects", "import edge_node.work", True, False),
        ("schemas.contract", "import schemas.registry", False, True),
    ],
)
@pytest.mark.parametrize("form", ["{}", "if TYPE_CHECKING:\n    {}", "def late() -> None:\n    {}"])
def test_a_wrong_import_is_found(module: str, line: str, wrong: bool, circle: bool, form: str) -> None:
    modules = texts()
    modules[module] += f"\n\n{form.format(line)}\n"
    assert [found for found in wrong_arrows(modules) if found.startswith(f"{module} imports")] != [] or not wrong
    assert any(module in group for group in circles(modules)) is circle
