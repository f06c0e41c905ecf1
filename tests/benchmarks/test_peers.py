"""The benchmarks can be read and started without their peers, and are all in the README."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.benchmarks.__main__ import TABLES

HERE = Path(__file__).parent
PEERS = ["torch", "jax", "optax", "ray", "grpc", "google.protobuf"]
IMPORT = """
import importlib, json, sys
peers, modules = map(json.loads, sys.argv[1:])
sys.modules.update(dict.fromkeys(peers))
for module in modules:
    importlib.import_module(module)
"""


def test_every_benchmark_can_be_imported_where_no_peer_is_installed() -> None:
    modules = [f"tests.benchmarks.{path.stem}" for path in sorted(HERE.glob("*.py")) if path != Path(__file__)]
    command = [sys.executable, "-c", IMPORT, json.dumps(PEERS), json.dumps(modules)]
    run = subprocess.run(command, cwd=HERE.parent.parent, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_the_readme_names_every_benchmark() -> None:
    section = (HERE.parent.parent / "README.md").read_text().partition("## Benchmarks")[2].partition("\n## ")[0]
    assert [line.split("`")[1] for line in section.splitlines() if line.startswith("| `")] == list(TABLES)
