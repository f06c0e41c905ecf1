"""The import order of the service, in one table: lowest first, and nothing imports upward."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parent.parent
FORBIDDEN = {"utils", "util", "helpers", "helper", "common", "core", "manager", "managers", "misc", "services"}

# A row is a module or a folder with all that is in it. Rows on one line may not import each other;
# inside a folder that is one row, siblings may, without a cycle.
ORDER = """
service
service.errors
service.sockets
service.settings service.optim.tensors service.optim.hyperparameters service.optim.loops
service.optim.matrices
service.optim.rule
service.optim.rules service.optim.state
service.optim.schedules service.optim.catalogue service.optim.kernels service.optim.libraries
service.optim.transforms service.optim.exchange
service.optim.specification
service.optim.groups
service.optim.optimizer
service.optim.together
service.optim.blocks
service.wire
service.functions service.stores
service.sandbox service.sessions
service.figures
service.shell
service.routes
service.express
service.main service.server
service.cli
"""
RANK = {row: i for i, line in enumerate(ORDER.strip().splitlines()) for row in line.split()}


def modules() -> dict[str, Path]:
    """Every module of the service by its dotted name."""
    found = {}
    for path in sorted((ROOT / "service").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def row(module: str) -> str | None:
    """The row that a module stands in: itself, or the nearest folder above it that has one (but the root)."""
    while module not in RANK:
        module = module.rpartition(".")[0]
        if module in ("", "service"):
            return None
    return module


def imports(path: Path, known: set[str]) -> set[str]:
    """The service's own modules that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            base = node.module or ""
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        else:
            continue
        matching = [name for name in names if name in known]
        # `from service.wire import json` names the module, not the package that holds it
        found |= {m for m in matching if not any(other.startswith(m + ".") for other in matching)}
    return found


def test_every_module_has_a_row() -> None:
    packages = {"service.optim"}  # holds rows of its own
    missing = [name for name in modules() if row(name) is None and name not in packages | {"service"}]
    assert not missing, f"no row in ORDER for {missing}"


def test_no_row_is_empty() -> None:
    present = {row(name) or name for name in modules()}
    assert set(RANK) <= present, f"rows without a module: {set(RANK) - present}"


def test_nothing_imports_upward() -> None:
    known = modules()
    wrong = []
    for name, path in known.items():
        for target in imports(path, set(known)):
            mine, theirs = row(name) or "service", row(target) or "service"
            if mine != theirs and RANK[theirs] >= RANK[mine]:
                wrong.append(f"{name} imports {target}")
    assert not wrong, wrong


def test_there_is_no_cycle() -> None:
    known = modules()
    graph = {name: imports(path, set(known)) - {name} for name, path in known.items()}
    tuple(TopologicalSorter(graph).static_order())  # raises CycleError


def test_no_module_is_a_drawer() -> None:
    names = {part for name in modules() for part in name.split(".")}
    client = {path.stem for path in (ROOT / "clients").rglob("*.py")}
    assert not (names | client) & FORBIDDEN


def test_packages_export_nothing() -> None:
    """`import service.optim` must not drag in FastAPI, so that no package imports what is in it."""
    for name, path in modules().items():
        if path.name == "__init__.py":
            assert not imports(path, set(modules())), name


def test_the_mathematics_knows_nothing_of_http() -> None:
    for name, path in modules().items():
        if name.startswith(("service.optim", "service.functions", "service.errors")):
            text = path.read_text()
            assert not any(word in text for word in ("import fastapi", "from fastapi", "starlette", "apsw")), name
