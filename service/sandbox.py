"""The sandbox: optimizers set loose on a benchmark function, and the paths they take.

    for run in run(plan("rosenbrock", [-1.2, 1.0], 200, [{"name": "adam", "learning_rate": 0.02}])):
        print(run.label, run.status, run.best.value)

A run is the fold that a session is, with the function in the client's place, and has the session's bits. Its record
always speaks of the function itself: values and gradient norms are the true ones at the points reached, whichever
gradient the optimizer was given, and stop rules look at those. A divergence is a result: the record ends at the last
point where the parameters, the value, the gradient and the optimizer's state are all finite.

Points are recorded a block of steps at a time, and what is said of them (values, norms, stop rules) is worked out for
a whole block at once; one point has the same bits alone and in a block. The steps themselves run in plain Python
numbers where there are few coordinates (see `kernels.in_floats`): 10,000 of them are a matter of milliseconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np

from service.errors import Invalid, NonFinite, unknown
from service.functions import catalogue
from service.functions.base import Array, Function
from service.optim import kernels
from service.optim.hyperparameters import REQUIRED, Hyperparameter, escape, fill
from service.optim.kernels import decay
from service.optim.optimizer import Optimizer, build, decay_scalars
from service.optim.state import State
from service.optim.tensors import all_finite, norm, single

MAX_OPTIMIZERS = 64
MAX_NUMBERS = 2_000_000  # recorded in one request; as JSON about 20 bytes each
MAX_LABEL = 80  # characters
BLOCK = 512  # steps between two looks at what they came to
FEW = 6  # coordinates; up to so many, plain numbers are faster than arrays

Status = Literal["completed", "converged", "diverged"]

_H = Hyperparameter("h", "How far to either side of the point the function is asked.", above=0.0)
_SIGMA = Hyperparameter("sigma", "Standard deviation of what is added to each coordinate.", low=0.0)
_SEED = Hyperparameter("seed", "Seed of the noise (PCG64); every optimizer meets the same.", "integer", low=0)
SOURCES: dict[str, tuple[tuple[Hyperparameter, ...], Mapping[str, Any]]] = {
    "analytic": ((), {}),
    "central_difference": ((_H,), {"h": 1e-7}),
    "noisy": ((_SIGMA, _SEED), {"sigma": REQUIRED, "seed": 0}),
}
STOPS: dict[str, Hyperparameter] = {
    rule.name: rule
    for rule in (
        Hyperparameter("gradient_norm", "Stop where the gradient's norm is at most this.", low=0.0),
        Hyperparameter("value", "Stop where the function's value is at most this."),
        Hyperparameter("distance", "Stop at most so far from the nearest global minimum.", low=0.0),
        Hyperparameter("update_norm", "Stop after a step that is at most so long.", low=0.0),
    )
}


@dataclass(frozen=True)
class Lane:
    """One optimizer of a request, and what it is called there."""

    label: str
    optimizer: Optimizer

    def as_json(self) -> dict[str, Any]:
        """The resolved optimizer with its transforms, as a client may post it again."""
        resolved = self.optimizer.as_json()
        transforms = {"transforms": resolved["transforms"]} if resolved["transforms"] else {}
        return {**resolved["optimizer"], **transforms}

    @cached_property
    def in_floats(self) -> Callable[..., Any] | None:
        """The rule on plain numbers, where that gives the same and is faster."""
        if self.optimizer.layout.size > FEW or not self.optimizer.plain:
            return None
        return kernels.in_floats(self.optimizer.rule.update)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A request that can be run: every name known, every number in its range.

    start     (d,), finite, as are the value and the gradient there
    gradient  `{"kind": ..., **arguments}`, what the optimizers are given
    stop      tolerance by stop rule
    """

    function: Function
    start: Array
    steps: int
    lanes: tuple[Lane, ...]
    gradient: Mapping[str, Any]
    record_every: int
    stop: Mapping[str, float]

    @property
    def evaluations(self) -> int:
        """Evaluations of the function that all steps together may take."""
        each = 1 + 2 * len(self.start) if self.gradient["kind"] == "central_difference" else 1
        return sum(self.gradients(lane) for lane in self.lanes) * each

    def gradients(self, lane: Lane) -> int:
        """Gradients that a lane may take in all; one that a transform leaves out is taken too."""
        return self.steps * lane.optimizer.evaluations

    @property
    def longest_record(self) -> int:
        """Points of each path that may be recorded, so that the answer stays within bounds."""
        return MAX_NUMBERS // (len(self.lanes) * (len(self.start) + 3))


class Best(NamedTuple):
    """The lowest point over all steps, recorded or not; the first of equals."""

    step: int
    value: float
    params: Array


@dataclass(frozen=True, kw_only=True)
class Run:
    """One path, of n recorded points.

    status          "converged" where a stop rule held, "diverged" where a number was no longer finite
    steps           steps taken to finite points; the last one is always recorded
    evaluations     gradients that they took: more than steps where an optimizer chooses its own points or gathers
    recorded_steps  (n,), from 0, which is the start
    params          (n, d)
    values, gradient_norms  (n,), of the function itself
    stopped_by      the stop rule that held
    diverged_at     the step that led out of the finite numbers
    """

    label: str
    optimizer: Mapping[str, Any]
    status: Status
    steps: int
    evaluations: int
    recorded_steps: Array
    params: Array
    values: Array
    gradient_norms: Array
    best: Best
    stopped_by: str | None = None
    diverged_at: int | None = None


# What is asked for


def plan(
    function: str,
    start: Sequence[float] | None,
    steps: int,
    optimizers: Sequence[Any],
    *,
    gradient: Any = "analytic",
    record_every: int = 1,
    stop: Mapping[str, Any] | None = None,
    max_evaluations: int = 1_000_000,
) -> Plan:
    """Check a request; without a start it is the function's own.

    An optimizer is a specification as elsewhere, with a "label" and "transforms" of its own if wanted. Raises Invalid
    with pointers into the request.
    """
    with _at("/function"):
        chosen = catalogue.get(function)
    with _at("/start"):
        point = _start(chosen, start)
    if steps < 1 or record_every < 1:
        name = "steps" if steps < 1 else "record_every"
        raise Invalid(f"{name} must be at least 1.", pointer=f"/{name}")
    made = Plan(
        function=chosen,
        start=point,
        steps=steps,
        lanes=_lanes(optimizers, point.size),
        gradient=_source(gradient),
        record_every=record_every,
        stop=_stop(stop or {}, chosen, point.size),
    )
    _check_cost(made, max_evaluations)
    return made


def _check_cost(made: Plan, max_evaluations: int) -> None:
    """Raises Invalid where the work or the record is more than one request may ask for."""
    if made.evaluations > max_evaluations:
        raise Invalid(
            f"This takes {made.evaluations} evaluations of the function (steps times optimizers, several to a step "
            "where an optimizer searches or gathers, and 1 + 2d as many for central differences); one request may take "
            f"{max_evaluations}. Ask for fewer steps or optimizers.",
            pointer="/steps",
        )
    if made.steps // made.record_every + 2 > made.longest_record:
        raise Invalid(
            f"The record would hold more than {MAX_NUMBERS} numbers; set record_every to at least "
            f"{-(-made.steps // (made.longest_record - 2))}.",
            pointer="/record_every",
        )


@contextmanager
def _at(pointer: str) -> Iterator[None]:
    """Moves the places of what is wrong in here below the pointer."""
    try:
        yield
    except Invalid as error:
        raise error.at(pointer) from None


def _start(function: Function, start: Sequence[float] | None) -> Array:
    d = function.dimensions or max(2, function.minimum_dimension)
    point = np.array(function.start_at(d) if start is None else start, np.float64)
    if point.ndim != 1 or not all_finite(point):
        raise Invalid("A start is a list of finite numbers, one a coordinate.", pointer="")
    function.check_dimension(point.size)
    with np.errstate(all="ignore"):
        finite = math.isfinite(function.value(point)) and math.isfinite(norm(function.gradient(point)))
    if not finite:
        raise NonFinite("The function has no finite value and gradient at this start; start elsewhere.", pointer="")
    return point


def _lanes(optimizers: Sequence[Any], d: int) -> tuple[Lane, ...]:
    if not 1 <= len(optimizers) <= MAX_OPTIMIZERS:
        raise Invalid(f"optimizers must list 1 to {MAX_OPTIMIZERS} of them.", pointer="/optimizers")
    lanes: list[Lane] = []
    for i, item in enumerate(optimizers):
        with _at(f"/optimizers/{i}"):
            lane = _lane(item, d)
        lanes.append(Lane(_unused(lane.label, [other.label for other in lanes]), lane.optimizer))
    return tuple(lanes)


def _lane(item: Any, d: int) -> Lane:
    given = dict(item) if isinstance(item, Mapping) else {}
    label, transforms = given.pop("label", None), given.pop("transforms", [])
    try:
        optimizer = build(given if isinstance(item, Mapping) else item, single(d), transforms)
    except Invalid as error:
        error.places = tuple(p._replace(pointer=p.pointer.removeprefix("/optimizer")) for p in error.places)
        raise
    if label is None:
        return Lane(optimizer.specification.algorithm.name, optimizer)
    if not isinstance(label, str) or not 1 <= len(label) <= MAX_LABEL or not label.isprintable():
        raise Invalid(f"A label is one line of 1 to {MAX_LABEL} characters.", pointer="/label")
    return Lane(label, optimizer)


def _unused(label: str, taken: Sequence[str]) -> str:
    """The label, or the first of "label 2", "label 3", ... that is free."""
    name, n = label, 1
    while name in taken:
        n += 1
        name = f"{label} {n}"
    return name


def _source(gradient: Any) -> Mapping[str, Any]:
    given = {"kind": gradient} if isinstance(gradient, str) else gradient
    kind = given.get("kind") if isinstance(given, Mapping) else None
    if not isinstance(kind, str):
        raise Invalid(f'gradient must be {{"kind": ...}}, one of {", ".join(SOURCES)}.', pointer="/gradient")
    if kind not in SOURCES:
        raise unknown("kind of gradient", kind, list(SOURCES), pointer="/gradient")
    declared, defaults = SOURCES[kind]
    arguments = {key: value for key, value in given.items() if key != "kind"}
    with _at("/gradient"):
        return {"kind": kind, **fill(arguments, declared, defaults, owner=f"The {kind} gradient")}


def _stop(given: Mapping[str, Any], function: Function, d: int) -> Mapping[str, float]:
    for name in given:
        if name not in STOPS:
            raise unknown("stop rule", name, list(STOPS), pointer=f"/stop/{escape(name)}")
    stop = {name: rule.check(given[name], f"/stop/{name}") for name, rule in STOPS.items() if name in given}
    if "distance" in stop and not _global_minima(function, d).size:
        raise Invalid(f"No minimum of {function.name} is known to measure a distance from.", pointer="/stop/distance")
    return stop


def _global_minima(function: Function, d: int) -> Array:
    """The global minima that are known, shape (k, d)."""
    points = [minimum.point for minimum in function.minima_at(d) if minimum.kind == "global"]
    return np.array(points, np.float64).reshape(len(points), d)


# Running


def run(plan: Plan) -> tuple[Run, ...]:
    """The paths of all optimizers, in the order in which they were given. Takes a while: not for an event loop."""
    with np.errstate(all="ignore"):
        return tuple(_follow(plan, lane) for lane in plan.lanes)


def _follow(plan: Plan, lane: Lane) -> Run:
    record = _Record(plan)
    state = lane.optimizer.init(plan.start)
    gradient, noise = _gradient(plan), _noise(plan)
    record.take(plan.start[None], np.zeros(1))
    spent, most = 0, plan.gradients(lane)
    while record.status is None and state.step < plan.steps and spent < most:
        m = min(BLOCK, max(32, state.step), plan.steps - state.step)  # a run that soon stops has gone little further
        if lane.optimizer.partial:
            state, points, counts = _to_commits(lane, state, m, most - spent, plan.function.value, gradient, noise)
        else:
            state, points = _advance(lane, state, m, plan.function.value, gradient, noise(m))
            counts = np.arange(1, m + 1)
        record.take(points, spent + counts[: len(points)])
        spent += int(counts[-1])
    return record.run(lane)


def _gradient(plan: Plan) -> Callable[[Array], Array]:
    """The gradient that the optimizers are given, noise apart: (d,) -> (d,)."""
    if plan.gradient["kind"] != "central_difference":
        return plan.function.gradient
    value, h = plan.function.value, plan.gradient["h"]
    steps = h * np.eye(plan.start.size)

    def central_difference(x: Array) -> Array:
        slopes: Array = (value(x + steps) - value(x - steps)) / (2 * h)
        return slopes

    return central_difference


def _noise(plan: Plan) -> Callable[[int], Array | None]:
    """The noise of the next m steps, shape (m, d): one sequence, however it is cut into blocks."""
    if plan.gradient["kind"] != "noisy":
        return lambda m: None
    rng = np.random.Generator(np.random.PCG64(plan.gradient["seed"]))
    sigma, d = plan.gradient["sigma"], plan.start.size
    return lambda m: sigma * rng.standard_normal((m, d))


Gradient = Callable[[Array], Array]
Value = Callable[[Array], Any]


def _advance(
    lane: Lane, state: State, m: int, value: Value, gradient: Gradient, noise: Array | None
) -> tuple[State, Array]:
    """m steps: the state after them, and the points they led to, (m, d); NaN from the first non-finite one on."""
    points = np.empty((m, state.params.size))
    if lane.in_floats is not None:
        try:
            after = _by_floats(lane, lane.in_floats, state, gradient, noise, points)
        except (ArithmeticError, ValueError):  # where NumPy says infinity or NaN, Python raises
            after = None
        if after is not None and all_finite(*after.slots):
            return after, points
    return _by_arrays(lane, state, value, gradient, noise, points), points


def _by_arrays(lane: Lane, state: State, value: Value, gradient: Gradient, noise: Array | None, points: Array) -> State:
    """Fill the points by the optimizer's own step; one that needs the loss is told the function's true value."""
    for i in range(len(points)):
        g = gradient(state.params)
        loss = float(value(state.params)) if lane.optimizer.wants != "gradient" else None
        try:
            after = lane.optimizer.step(state, g if noise is None else g + noise[i], loss=loss).state
        except Invalid:  # a transform that met a gradient past the range of a double
            after = None
        if after is None or not all_finite(after.params, *after.slots):
            points[i:] = np.nan
            break
        points[i] = after.params
        state = after
    return state


def _to_commits(
    lane: Lane,
    state: State,
    m: int,
    most: int,
    value: Value,
    gradient: Gradient,
    noise: Callable[[int], Array | None],
) -> tuple[State, Array, Array]:
    """Up to m whole steps of an optimizer that searches or gathers, in at most so many evaluations.

    Gives the state, the points that the steps led to (NaN for one that is not finite, the last), and the evaluations
    that it took to each, with those that led nowhere at the end: one more count than points, unless a step ended it.
    """
    points: list[Array] = []
    counts: list[int] = []
    n = 0
    while n < most and len(points) < m:
        n += 1
        before = state
        state = _by_arrays(lane, before, value, gradient, noise(1), np.empty((1, before.params.size)))
        if state is before:
            points.append(np.full(before.params.size, np.nan))
        elif state.step > before.step:
            points.append(state.params)
        else:
            continue
        counts.append(n)
        if state is before:
            break
    size = state.params.size
    return state, np.array(points).reshape(len(points), size), np.array([*counts, n] if n not in counts else counts)


def _by_floats(
    lane: Lane, rule: Callable[..., Any], state: State, gradient: Gradient, noise: Array | None, points: Array
) -> State:
    """Fill the points by the rule on plain numbers. Raises ArithmeticError, ValueError where they leave the range."""
    spec, decaying = lane.optimizer.specification, lane.optimizer.decaying
    numbers = list(zip(state.params.tolist(), *(slot.tolist() for slot in state.slots), strict=True))
    at = state.params
    for i, point in enumerate(points):
        g = gradient(at) if noise is None else gradient(at) + noise[i]
        values = spec.at(state.step + i)
        c = spec.dialect.scalars(values, state.step + i + 1)
        if decaying:
            before = decay_scalars(spec, values)
            numbers = [rule(*decay(p, h, before), *s, c) for (p, *s), h in zip(numbers, g.tolist(), strict=True)]
        else:
            numbers = [rule(p, h, *s, c) for (p, *s), h in zip(numbers, g.tolist(), strict=True)]
        point[:] = [p for p, *_ in numbers]
        at = point
    n = state.step + len(points)
    return State(n, at.copy(), tuple(np.array(slot) for slot in list(zip(*numbers, strict=True))[1:]), n)


class _Record:
    """What is kept of a path while it is walked: rows of step, value, gradient norm and the d coordinates."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._minima = _global_minima(plan.function, plan.start.size)
        self._kept: list[Array] = []
        self._last = np.full((1, 3 + plan.start.size), np.inf)
        self._taken = 0  # points, the start among them
        self._evaluations = 0
        self._best = Best(0, math.inf, plan.start)
        self._stopped_by: str | None = None
        self.status: Status | None = None

    def take(self, points: Array, evaluations: Array) -> None:
        """The next points, (m, d), and how many evaluations led to each: judge and keep those that are to be kept."""
        if not len(points):
            return
        values = self._plan.function.value(points)
        norms = _lengths(self._plan.function.gradient(points))
        steps = np.arange(self._taken, self._taken + len(points))
        end = _first(~(np.isfinite(points).all(axis=1) & np.isfinite(values) & np.isfinite(norms)))
        if end < len(points):
            self.status = "diverged"
        held = {name: _first(where) for name, where in self._held(points, values, norms).items()}
        first = min(held, key=held.__getitem__, default=None)
        if first is not None and held[first] < end:
            end, self.status, self._stopped_by = held[first] + 1, "converged", first
        if end == 0:
            return
        rows = np.column_stack([steps, values, norms, points])[:end]
        self._kept.append(rows[steps[:end] % self._plan.record_every == 0])
        self._last = rows[-1:]
        self._taken += end
        self._evaluations = int(evaluations[end - 1])
        lowest = rows[np.argmin(rows[:, 1])]
        if lowest[1] < self._best.value:
            self._best = Best(int(lowest[0]), float(lowest[1]), lowest[3:].copy())

    def _held(self, points: Array, values: Array, norms: Array) -> dict[str, Array]:
        """Where each stop rule of the plan holds, (m,) each."""
        stop = self._plan.stop
        measured = {"gradient_norm": norms, "value": values}
        if "distance" in stop:
            measured["distance"] = np.min([_lengths(points - minimum) for minimum in self._minima], axis=0)
        if "update_norm" in stop:
            measured["update_norm"] = _lengths(np.diff(points, axis=0, prepend=self._last[:, 3:]))
        return {name: measured[name] <= tolerance for name, tolerance in stop.items()}

    def run(self, lane: Lane) -> Run:
        """The finished run."""
        steps = self._taken - 1
        if steps % self._plan.record_every:
            self._kept.append(self._last)
        rows = np.concatenate(self._kept)
        return Run(
            label=lane.label,
            optimizer=lane.as_json(),
            status=self.status or "completed",
            steps=steps,
            evaluations=self._evaluations,
            recorded_steps=rows[:, 0].astype(np.int64),
            params=rows[:, 3:].copy(),
            values=rows[:, 1].copy(),
            gradient_norms=rows[:, 2].copy(),
            best=self._best,
            stopped_by=self._stopped_by,
            diverged_at=steps + 1 if self.status == "diverged" else None,
        )


def _first(condition: Array) -> int:
    """The first index where the condition holds; the length where it never does."""
    return int(np.argmax(condition)) if condition.any() else condition.size


def _lengths(rows: Array) -> Array:
    """Euclidean norm of each row, (m, d) -> (m,), with a session's bits."""
    totals = np.add.reduce(rows * rows, axis=1)
    lengths: Array = np.sqrt(totals)
    for i in np.flatnonzero(~((totals > 0.0) & (totals < math.inf))):  # squares that left the range
        lengths[i] = norm(rows[i])
    return lengths
