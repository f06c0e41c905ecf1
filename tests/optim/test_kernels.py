"""NumPy and the compiled loop: the same function, the same bits."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

from service.optim import kernels, loops
from service.optim.kernels import Decay, Form, compiled, run_compiled, run_numpy, update
from service.optim.optimizer import Optimizer, build
from service.optim.rule import Rule, divide, where
from service.optim.specification import resolve
from service.optim.state import State
from service.optim.tensors import DTYPES, Array, single
from tests.optim.table import DIALECTS, LOSS, SPECIFICATIONS, bits, inside

DTYPE = pytest.mark.parametrize("dtype", DTYPES)
PREFIXES = {"none": None, "coupled": Decay(1.0, -1.0, 0.1), "decoupled": Decay(0.99, 1.0, 0.0)}
SIZES = (0, 1, 2, 3, 7, 8, 9, 63, 64, 65, 1023, 100_003)


class Sample(NamedTuple):
    """A rule and what its dialect hands to it."""

    rule: Rule
    scalars: Callable[[int], Any]


ELEMENTWISE = {label: s for label, s in SPECIFICATIONS.items() if resolve(s).rule.span == "element"}


def _samples() -> dict[str, Sample]:
    """One specification of each elementwise rule; the last one, which has the most options on."""
    found = {}
    for specification in ELEMENTWISE.values():
        spec = resolve(specification)
        found[spec.rule.update.__name__] = Sample(spec.rule, lambda t, s=spec: s.dialect.scalars(s.values, t))
    return found


SAMPLES = _samples()
RULE = pytest.mark.parametrize("sample", SAMPLES.values(), ids=SAMPLES)


def awkward(size: int, dtype: str, seed: int, largest: float) -> Array:
    """Numbers of every size up to `largest`: both zeros, denormals, what underflows or overflows when squared."""
    kind = np.finfo(DTYPES[dtype])
    random = np.random.default_rng(seed)
    exponents = random.uniform(np.log10(float(kind.smallest_subnormal)), np.log10(largest), size)
    with np.errstate(all="ignore"):
        values = (random.choice([-1.0, 1.0], size) * 10.0**exponents).astype(DTYPES[dtype])
        values[::3] = random.normal(size=values[::3].size)
        values[5::11], values[6::11] = 0.0, -0.0
        values[7::31], values[8::37] = kind.smallest_subnormal, -kind.smallest_normal / 3
        values[9::41] = min(largest, float(kind.max) / 2)
    values.flags.writeable = False
    return values


IN_PLACE = "float32"  # the type in which loops that overwrite their inputs are made too; a compile takes its time


def loop_for(sample: Sample, dtype: str, decaying: bool) -> Any:
    return compiled(sample.rule, Form(DTYPES[dtype].char, decaying), type(sample.scalars(1)))


def agree(one: tuple[Array, ...], other: tuple[Array, ...], dtype: str) -> None:
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert a.dtype == b.dtype == DTYPES[dtype]
        assert a.shape == b.shape
        assert bits(a) == bits(b)


def both(sample: Sample, dtype: str, size: int, largest: float, before: Decay | None, steps: int) -> None:
    """Runs the rule for several steps both ways, on read-only inputs, and compares the bits after each."""
    loop = loop_for(sample, dtype, before is not None)
    state = (awkward(size, dtype, 1, largest), *(np.zeros(size, DTYPES[dtype]) for _ in sample.rule.slots))
    for t in range(1, steps + 1):
        for array in state:
            array.flags.writeable = False
        g, c = awkward(size, dtype, 100 + t, largest), sample.scalars(t)
        plain = run_numpy(sample.rule, state[0], g, state[1:], c, before)
        fused = run_compiled(loop, state[0], g, state[1:], c, before)
        agree(plain, fused, dtype)
        state = plain


def step_everywhere(optimizer: Optimizer, state: State, g: Array, monkeypatch: pytest.MonkeyPatch) -> State:
    """One step in NumPy and one in the loop, which must be the same bits."""
    with monkeypatch.context() as patch:
        patch.setattr(kernels, "AVAILABLE", False)
        plain = optimizer.step(state, g).state
    with monkeypatch.context() as patch:
        patch.setattr(kernels, "THRESHOLD", 0)
        patch.setattr(kernels, "run_numpy", None)
        fused = optimizer.step(state, g).state
        dtype = optimizer.layout.as_json()["dtype"]
        agree((plain.params, *plain.slots), (fused.params, *fused.slots), dtype)
        if dtype == IN_PLACE:
            again = State(state.step, state.params.copy(), tuple(slot.copy() for slot in state.slots), state.counts)
            over = optimizer.step(again, g, into=again).state
            agree((plain.params, *plain.slots), (over.params, *over.slots), dtype)
            assert over.params is again.params
    return plain


@DTYPE
@pytest.mark.parametrize("specification", ELEMENTWISE.values(), ids=ELEMENTWISE)
def test_every_form_of_every_optimizer_gives_the_same_bits_both_ways(
    specification: dict[str, Any], dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    optimizer = build(specification, single(257, dtype))
    spec = optimizer.specification
    for in_place in (False, True) if dtype == IN_PLACE else (False,):
        form = Form(DTYPES[dtype].char, optimizer.decaying, in_place)
        compiled(spec.rule, form, type(spec.dialect.scalars(spec.values, 1)))
    state = optimizer.init(awkward(257, dtype, 2, 1e3))
    for t in range(4):
        state = step_everywhere(optimizer, state, awkward(257, dtype, t, 1e3), monkeypatch)


@DTYPE
@RULE
def test_every_size(sample: Sample, dtype: str) -> None:
    for size in SIZES:
        both(sample, dtype, size, 1e3, None, steps=3)


@DTYPE
@RULE
@pytest.mark.parametrize("before", PREFIXES.values(), ids=PREFIXES)
def test_numbers_at_the_ends_of_the_range(sample: Sample, dtype: str, before: Decay | None) -> None:
    largest = {"float64": (1e150, 1e300), "float32": (1e18, float(np.finfo(np.float32).max) / 2)}
    for limit in largest[dtype]:
        both(sample, dtype, 1023, limit, before, steps=6)


@DTYPE
@RULE
def test_zeros_stay_what_they_are(sample: Sample, dtype: str) -> None:
    loop = loop_for(sample, dtype, False)
    zeros = np.array([0.0, -0.0, 0.0, -0.0], DTYPES[dtype])
    slots = tuple(np.zeros(4, DTYPES[dtype]) for _ in sample.rule.slots)
    plain = run_numpy(sample.rule, zeros, zeros[::-1], slots, sample.scalars(1))
    agree(plain, run_compiled(loop, zeros, zeros[::-1], slots, sample.scalars(1)), dtype)
    assert all(np.isfinite(array).all() for array in plain)


@RULE
def test_a_rule_is_written_without_literals(sample: Sample) -> None:
    code = sample.rule.update.__code__
    assert set(code.co_consts) <= {None, sample.rule.update.__doc__}
    assert sample.rule.update.__doc__


@RULE
@DTYPE
def test_scalars_are_doubles_and_as_many_as_the_rule_names(sample: Sample, dtype: str) -> None:
    c = sample.scalars(3)
    assert all(type(value) is float for value in c)
    narrow = kernels.cast(c, DTYPES[dtype])
    assert type(narrow) is type(c)
    assert all(np.asarray(value).dtype == DTYPES[dtype] for value in narrow)


@pytest.mark.parametrize("specification", DIALECTS.values(), ids=DIALECTS)
def test_no_hyperparameter_in_its_range_and_no_count_makes_the_scalars_raise(specification: dict[str, Any]) -> None:
    """Nor a rate that has underflowed to zero; infinities and NaN are numbers that the session refuses later."""
    spec = resolve(specification)
    for h in spec.algorithm.hyperparameters:
        if h.kind != "number" or h.name not in spec.values:
            continue
        highest = min(h.high, float(np.nextafter(h.below, 0.0)), 1e308)
        lowest = max(h.low, float(np.nextafter(h.above, np.inf)), 0.0)
        for value in {lowest, highest, inside(h, 0.5), 0.0 if h.name == "learning_rate" else lowest}:
            for t in (1, 2, 3, 7, 1000, 10**6, 10**12):
                c = spec.dialect.scalars({**spec.values, "loss": LOSS, h.name: value}, t)
                if spec.rule.span == "element":  # the others take what they need as it is
                    assert all(type(scalar) is float for scalar in c)


def test_a_scalar_past_the_range_of_the_type_becomes_an_infinity() -> None:
    c = kernels.Decay(1e300, -1e300, 1e-300)
    with np.errstate(over="ignore"):
        assert tuple(map(float, kernels.cast(c, DTYPES["float32"]))) == (np.inf, -np.inf, 0.0)
    one = np.ones(3, np.float32)
    out = run_numpy(SAMPLES["sgd"].rule, one, one, (), SAMPLES["sgd"].scalars(1), c)
    assert np.isposinf(out[0]).all()


@pytest.mark.parametrize("view", ["read-only", "unaligned", "strided"])
def test_no_view_of_the_inputs_makes_another_loop(view: str) -> None:
    sample = SAMPLES["adam"]
    loop = loop_for(sample, "float64", False)
    values = awkward(33, "float64", 1, 1e3)
    if view == "read-only":
        g = np.frombuffer(values.tobytes())
    elif view == "unaligned":
        g = np.frombuffer(b"1234" + values.tobytes(), offset=4)
        assert not g.flags.aligned
    else:
        g = np.repeat(values, 2)[::2]
    inputs = (np.ones(33), g, (np.zeros(33), np.zeros(33)), sample.scalars(1))
    agree(run_numpy(sample.rule, *inputs), run_compiled(loop, *inputs), "float64")
    assert len(loop.signatures) == 1


@pytest.mark.parametrize("condition", [True, False])
def test_where_and_divide_are_selects(condition: bool) -> None:
    x = np.array([1.0, -0.0, 0.0, np.inf, 3.0, np.nan, 2.0])
    y = np.array([2.0, 4.0, 0.0, -0.0, np.inf, 1.0, np.nan])
    wanted = np.array([0.5, -0.0, 0.0, 0.0, 0.0, np.nan, np.nan])
    with np.errstate(all="ignore"):
        assert bits(divide(x, y, 0.0)) == bits(wanted)
        full = divide(x[:2], y[:2], 0.0)
    assert bits(full) == bits(wanted[:2])
    assert bits(where(np.full(7, condition), x, y)) == bits(x if condition else y)


class Rate(NamedTuple):
    rate: float
    zero: float


class Waiting:
    """A rule of this test's own, so that no loop is ready for it."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.rule = Rule(function)
        self.key = (function, Form("d", False))

    def until_ready(self) -> Any:
        deadline = time.monotonic() + 60
        while self.key not in loops._made:
            assert time.monotonic() < deadline, "the loop was never made"
            time.sleep(0.01)
        return loops._made[self.key]


def test_a_large_array_takes_numpy_until_a_thread_has_made_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    def halfway(p: Any, g: Any, c: Rate) -> Any:
        return (p - c.rate * where(g > c.zero, g, p),)

    waiting, used = Waiting(halfway), []
    for name in ("run_numpy", "run_compiled"):
        run = getattr(kernels, name)
        monkeypatch.setattr(kernels, name, lambda *a, name=name, run=run: (used.append(name), run(*a))[1])
    p = awkward(kernels.THRESHOLD, "float64", 1, 1e3)
    g = awkward(kernels.THRESHOLD, "float64", 2, 1e3)
    first = update(waiting.rule, p, g, (), Rate(0.5, 0.0))
    assert used == ["run_numpy"]
    waiting.until_ready()
    second = update(waiting.rule, p, g, (), Rate(0.5, 0.0))
    assert used == ["run_numpy", "run_compiled"]
    agree(first, second, "float64")


def test_a_small_array_never_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops, "_made", {})
    monkeypatch.setattr(loops, "_underway", set())
    sample, small = SAMPLES["adam"], kernels.THRESHOLD - 1
    zeros = np.zeros(small)
    update(sample.rule, zeros, zeros, (zeros, zeros), sample.scalars(1))
    assert not loops._underway
    assert not loops._made


def test_a_loop_is_made_once_however_many_steps_wait_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []
    monkeypatch.setattr(loops, "_made", {})
    monkeypatch.setattr(loops, "_underway", set())
    monkeypatch.setattr(threading.Thread, "start", lambda thread: started.append(thread.name))
    sample, zeros = SAMPLES["adam"], np.zeros(kernels.THRESHOLD)
    for _ in range(3):
        update(sample.rule, zeros, zeros, (zeros, zeros), sample.scalars(1))
    assert started == ["compile"]


def test_what_cannot_be_compiled_goes_on_in_numpy(caplog: pytest.LogCaptureFixture) -> None:
    def sorting(p: Any, g: Any, c: Rate) -> Any:
        return (np.sort(p - c.rate * g),)

    waiting = Waiting(sorting)
    p = np.arange(kernels.THRESHOLD, dtype=np.float64)
    with caplog.at_level(logging.ERROR, logger="service.optim.loops"):
        first = update(waiting.rule, p, p, (), Rate(2.0, 0.0))
        for thread in threading.enumerate():
            if thread.name == "compile":
                thread.join(60)
    assert "cannot compile sorting" in caplog.text
    agree(first, update(waiting.rule, p, p, (), Rate(2.0, 0.0)), "float64")


def test_everything_works_without_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "AVAILABLE", False)
    monkeypatch.setattr(loops, "ready", None)
    monkeypatch.setattr(kernels, "run_compiled", None)
    optimizer = build({"name": "adam"}, single(kernels.THRESHOLD + 1))
    state = optimizer.init(np.ones(kernels.THRESHOLD + 1))
    after = optimizer.step(state, np.ones(kernels.THRESHOLD + 1)).state
    assert np.allclose(after.params, 0.999)


def test_a_step_into_spare_arrays_writes_them_and_leaves_its_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "THRESHOLD", 0)
    optimizer = build({"name": "adam"}, single(300))
    compiled(optimizer.rule, Form("d", False), type(SAMPLES["adam"].scalars(1)))
    state, g = optimizer.init(np.ones(300)), awkward(300, "float64", 5, 1e3)
    spare = State(0, np.empty(300), tuple(np.empty(300) for _ in state.slots), 0)
    kept = bits(state.params)
    new = optimizer.step(state, g, into=spare).state
    assert new.params is spare.params
    assert bits(state.params) == kept
    plain = optimizer.step(state, g).state
    agree((new.params, *new.slots), (plain.params, *plain.slots), "float64")


def test_arrays_that_cannot_be_written_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "THRESHOLD", 0)
    optimizer = build({"name": "sgd", "learning_rate": 0.1}, single(300))
    compiled(optimizer.rule, Form("d", False), type(SAMPLES["sgd"].scalars(1)))
    frozen = np.ones(300)
    frozen.flags.writeable = False
    state = optimizer.init(frozen)
    new = optimizer.step(state, np.ones(300), into=state).state
    assert new.params is not frozen
    assert (frozen == 1.0).all()
