"""Compiled loops on the disk: kept where they can be, missed where they cannot."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from service.optim import loops

ROOT = Path(__file__).parent.parent.parent
COMPILE = """
import json, time
import numpy as np
from service.optim import kernels
from service.optim.optimizer import build
from service.optim.tensors import single
optimizer = build({"name": "adam"}, single(kernels.THRESHOLD))
spec = optimizer.specification
scalars = type(spec.dialect.scalars(spec.values, 1))
loop = kernels.compiled(optimizer.rule, kernels.Form("d", False, True), scalars)
state = optimizer.init(np.ones(kernels.THRESHOLD))
state = optimizer.step(state, np.ones(kernels.THRESHOLD), into=state).state
print(json.dumps({"hits": sum(loop.stats.cache_hits.values()), "value": float(state.params[0])}))
"""


def in_a_new_process(cache: Path, **more: str) -> dict[str, Any]:
    """What a process says of its first compiled step."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache), **more}
    out = subprocess.run(
        [sys.executable, "-c", COMPILE], capture_output=True, text=True, check=True, cwd=ROOT, env=environment
    )
    told: dict[str, Any] = json.loads(out.stdout)
    return told


def test_the_next_process_has_the_loop_from_the_disk(tmp_path: Path) -> None:
    first, second = in_a_new_process(tmp_path), in_a_new_process(tmp_path)
    assert (first["hits"], second["hits"]) == (0, 1)
    assert first["value"] == second["value"] == 1.0 - 0.001 / (1.0 + 1e-8)


def test_without_a_directory_to_write_to_everything_works(tmp_path: Path) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    assert in_a_new_process(in_the_way / "cache")["value"] < 1.0
    assert in_a_new_process(in_the_way)["value"] < 1.0


def test_a_damaged_entry_is_compiled_again(tmp_path: Path) -> None:
    in_a_new_process(tmp_path)
    damaged = list(tmp_path.rglob("*.nb[ic]"))
    assert damaged
    for path in damaged:
        path.write_bytes(path.read_bytes()[:20])
    assert in_a_new_process(tmp_path)["value"] < 1.0


def test_another_rule_has_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def plus(x: float) -> float:
        return x + 1

    def minus(x: float) -> float:
        return x - 1

    def by_name(x: float) -> float:
        return plus(x)

    places = {loops.place("source", called) for called in ((plus,), (minus,), (by_name,), (plus, minus))}
    places.add(loops.place("other", (plus,)))
    assert len(places) == 5
    assert loops.place("source", (plus,)) in places
    assert len(list((tmp_path / "thalweg").iterdir())) == 5


def test_a_relative_cache_home_is_not_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "somewhere")
    monkeypatch.setenv("HOME", "/home/of/nobody")
    assert loops.directory() == Path("/home/of/nobody/.cache/thalweg")
