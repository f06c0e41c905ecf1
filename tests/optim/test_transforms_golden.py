"""Against the libraries themselves: what they do around a rule, as recorded in tests/golden/transforms.py."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from service.optim.optimizer import Optimizer, build
from service.optim.tensors import DTYPES, Array, Layout
from service.optim.transforms.catalogue import SPELLINGS, parse_list
from service.optim.transforms.form import At
from tests.golden import transforms
from tests.golden.cases import RECORDED, SCALES, SHAPES, STEPS
from tests.golden.transforms import CASES, NOISE_STEPS, NOISES, Case

RECORDS = load_file(transforms.DATA)
INPUTS = load_file(transforms.DATA.with_name("inputs.safetensors"))
CLOSE, ROUNDING = 1e-12, 1e-15  # of the displacement, and of the parameters themselves
CLOSE_IN_FLOAT32 = 2e-5

EVERY_CASE = pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
EVERY_SCALE = pytest.mark.parametrize("scale", SCALES)


def flat(prefix: str, rows: int) -> Array:
    """The tensors of the inputs in layout order, (rows, size)."""
    return np.concatenate([INPUTS[f"{prefix}.{name}"].reshape(rows, -1) for name in SHAPES], axis=1)


INITIAL, GRADIENTS = flat("initial", 1)[0], flat("gradient", STEPS)


def optimizer(case: Case, dtype: str = "float64") -> Optimizer:
    """The case as a client writes it, in the library's own words."""
    layout = Layout(tuple(SHAPES), tuple(SHAPES.values()), DTYPES[dtype])
    return build({"like": case.like, **case.arguments}, layout, case.transforms)


def tables(subject: Optimizer, scale: float) -> tuple[Array, Array]:
    """The parameters and their average after the recorded steps."""
    dtype = subject.layout.dtype
    state, params, averages = subject.init(INITIAL.astype(dtype)), [], []
    for step, row in enumerate(GRADIENTS, 1):
        state = subject.step(state, (scale * row).astype(dtype)).state
        if step in RECORDED:
            params.append(state.params)
            averages.append(subject.view(state, "eval"))
    return np.stack(params).astype(np.float64), np.stack(averages).astype(np.float64)


@EVERY_SCALE
@EVERY_CASE
def test_the_numbers_are_the_librarys(case: Case, scale: float) -> None:
    params, averages = tables(optimizer(case), scale)
    found = {case.key(scale): params} | ({f"{case.key(scale)}.average": averages} if case.averages else {})
    for key, ours in found.items():
        apart = np.linalg.norm(ours - RECORDS[key], axis=1)
        moved = np.linalg.norm(RECORDS[key] - INITIAL, axis=1)
        assert (apart <= CLOSE * moved + ROUNDING * np.linalg.norm(INITIAL)).all(), key


@EVERY_SCALE
@EVERY_CASE
def test_single_precision_follows(case: Case, scale: float) -> None:
    """Every step rounds every parameter, and every average, once."""
    params, averages = tables(optimizer(case, "float32"), scale)
    found = {case.key(scale): params} | ({f"{case.key(scale)}.average": averages} if case.averages else {})
    for key, ours in found.items():
        for step, mine, row in zip(RECORDED, ours, RECORDS[key], strict=True):
            rounding = 2 * step * 2.0**-24 * np.linalg.norm(row)
            assert np.linalg.norm(mine - row) <= CLOSE_IN_FLOAT32 * np.linalg.norm(row - INITIAL) + rounding, key


@EVERY_CASE
def test_the_resolved_list_is_the_same_in_our_words(case: Case) -> None:
    by_like = optimizer(case)
    resolved = json.loads(json.dumps(by_like.as_json()))
    assert all("like" not in transform for transform in resolved["transforms"])
    by_name = build(resolved["optimizer"], by_like.layout, resolved["transforms"], resolved["groups"])
    assert by_name.as_json() == resolved
    for one, other in zip(tables(by_like, 1.0), tables(by_name, 1.0), strict=True):
        assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize("i", range(len(NOISES)))
def test_the_noise_has_optax_deviation(i: int) -> None:
    """The same normal numbers, times the deviation that optax has at each count."""

    def noise(**arguments: Any) -> list[Array]:
        (applied,) = parse_list([{"name": "add_noise", "seed": 3, **arguments}])
        layout = Layout(("x",), ((1000,),), DTYPES["float64"])
        found, slots = [], [np.zeros(1)]
        for n in range(NOISE_STEPS):
            out, slots = applied(np.zeros(1000), np.zeros(1000), At(layout, [0], n), slots)
            assert out is not None
            found.append(out)
        return found

    for ours, unit, theirs in zip(noise(**NOISES[i]), noise(eta=1.0, gamma=0.0), RECORDS[f"noise.{i}"], strict=True):
        assert ours == pytest.approx(unit * theirs, rel=1e-12)
        assert abs(unit.mean()) < 0.15
        assert abs(unit.std() - 1.0) < 0.1


def test_every_spelling_has_a_case() -> None:
    used = {call["like"] for case in CASES for call in case.transforms}
    aliases = {f"torch.optim.swa_utils.get_swa_{kind}avg_fn" for kind in ("", "multi_")}  # AveragedModel's own default
    assert set(SPELLINGS) - aliases - {"optax.add_noise"} <= used


def test_the_file_is_of_this_table() -> None:
    keys = {case.key(scale) for case in CASES for scale in SCALES}
    keys |= {f"{case.key(scale)}.average" for case in CASES for scale in SCALES if case.averages}
    assert set(RECORDS) == keys | {f"noise.{i}" for i in range(len(NOISES))}
    with safe_open(transforms.DATA, "numpy") as file:
        assert json.loads(file.metadata()["made_from"])["cases"] == transforms.mark()
    assert len({case.id for case in CASES}) == len(CASES)
