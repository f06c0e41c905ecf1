"""L-BFGS: the direction from the last few steps and changes of the gradient, and how torch and optax go along it.

The rules here choose their own points. Each call is told the value and the gradient at the point that was asked for
and answers the next one; the state holds where the search stands, so that any call may be in another process.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from service.optim.rule import Values, dot, norm, total
from service.optim.rules.line_search import NEW, START, Found, Limits, Wolfe, Zoom, begin_zoom, wolfe, zoom

SMALLEST_CURVATURE = 1e-10  # torch keeps a pair of differences only above it
IDLE, SEARCHING, MOVED = 0.0, 1.0, 2.0  # committed; in a line search; at a fixed step's end within a step


class Torch(NamedTuple):
    """Scalars of the torch rules."""

    learning_rate: float
    max_iterations: float
    max_evaluations: float
    gradient_tolerance: float
    change_tolerance: float
    loss: float


class Optax(NamedTuple):
    """Scalars of the optax rules: `taken` steps were taken; the last eight are the search's `Limits`."""

    learning_rate: float
    taken: float
    scale_first: float
    keep_step: float
    loss: float
    steps: float
    longest: float
    tolerance: float
    growth: float
    sufficient: float
    curvature: float
    approximate: float
    smallest_interval: float


class Progress(NamedTuple):
    """Where a torch rule stands.

    phase               IDLE, SEARCHING or MOVED
    iterations          over all steps
    inner, evaluations  iterations and evaluations in this step
    pairs               differences kept so far, those overwritten among them
    scale               of the identity, from the newest pair
    length              step length of the last iteration
    value               of the function before it
    """

    phase: float
    iterations: float
    inner: float
    evaluations: float
    pairs: float
    scale: float
    length: float
    value: float


class Memory(NamedTuple):
    """The last differences: changes of the gradient (m, n), of the parameters (m, n), and 1 / their product (m,)."""

    gradients: Any
    parameters: Any
    weights: Any

    def with_pair(self, at: int, y: Any, s: Any, weight: float) -> Memory:
        """The memory with the pair in this place, in new arrays."""
        gradients, parameters, weights = self.gradients.copy(), self.parameters.copy(), self.weights.copy()
        gradients[at], parameters[at], weights[at] = y, s, weight
        return Memory(gradients, parameters, weights)


def direction(g: Any, memory: Memory, order: list[int], scale: float) -> Any:
    """H g by the two loops over the pairs, which `order` lists from the oldest on (Nocedal 1980, Algorithm 7.4)."""
    alphas = {}
    for i in reversed(order):
        alphas[i] = float(memory.weights[i]) * dot(memory.parameters[i], g)
        g = g - alphas[i] * memory.gradients[i]
    g = scale * g
    for i in order:
        beta = float(memory.weights[i]) * dot(memory.gradients[i], g)
        g = g + (alphas[i] - beta) * memory.parameters[i]
    return g


def largest(x: Any) -> float:
    """The largest element, in size."""
    return float(np.max(np.abs(x), initial=0.0))


class Line(NamedTuple):
    """The slots of a torch rule between two evaluations, without the memory.

    start      parameters from which the line goes
    direction  along which it goes
    gradient   at the start
    ends       gradients at the ends of the bracket, (2, n)
    search     a `Wolfe`
    """

    start: Any
    direction: Any
    gradient: Any
    ends: Any
    search: Any


def torch_wolfe(p: Any, g: Any, d: Any, before: Any, ys: Any, ss: Any, ws: Any, at: Any, *rest: Any) -> Any:
    """One evaluation of torch.optim.LBFGS with line_search_fn="strong_wolfe"."""
    start, ends, search, c = rest
    now, memory = Progress(*map(float, at)), Memory(ys, ss, ws)
    line = Line(start, d, before, ends, search)
    if now.phase == IDLE:
        return _first(p, g, line, memory, now, c)
    found = wolfe(Wolfe(*search), c.loss, dot(g, d))
    line, gradient = _kept(line, g, found)
    if not found.over:
        return _asked(start + float(found.search.trial) * d, line, memory, now)
    t = float(found.search.trial)
    now = now._replace(evaluations=now.evaluations + 1.0 + float(found.search.trials), length=t)
    return _after(start + t * d, gradient, float(found.value), line, memory, now, c)


def _kept(line: Line, g: Any, found: Found) -> tuple[Line, Any]:
    """The line with the gradients that the search keeps, and the first of them."""
    table = {0: line.ends[0], 1: line.ends[1], NEW: g, START: line.gradient}
    kept = [table[i] for i in found.keep]
    return line._replace(ends=np.stack(kept), search=np.array(found.search, np.float64)), kept[0]


def torch_fixed(p: Any, g: Any, d: Any, before: Any, ys: Any, ss: Any, ws: Any, at: Any, c: Torch) -> Any:
    """One evaluation of torch.optim.LBFGS without a line search."""
    now, memory = Progress(*map(float, at)), Memory(ys, ss, ws)
    line = Line(None, d, before, None, None)
    if now.phase == IDLE:
        return _first(p, g, line, memory, now, c)
    return _after(p, g, c.loss, line, memory, now._replace(evaluations=now.evaluations + 1.0), c)


def _first(p: Any, g: Any, line: Line, memory: Memory, now: Progress, c: Torch) -> Any:
    """The evaluation with which a step begins."""
    if largest(g) <= c.gradient_tolerance:
        return _asked(p, line, memory, now)
    return _iterate(p, g, c.loss, line, memory, now._replace(inner=0.0, evaluations=1.0), c)


def _iterate(p: Any, g: Any, loss: float, line: Line, memory: Memory, now: Progress, c: Torch) -> Any:
    """One more iteration: its direction and the first point on it."""
    now = now._replace(phase=IDLE, iterations=now.iterations + 1.0, inner=now.inner + 1.0, value=loss)
    if now.iterations == 1.0:
        now = now._replace(scale=1.0)
        d, t = -g, min(1.0, float(np.float64(1.0) / total(np.abs(g)))) * c.learning_rate
    else:
        memory, now = _remembered(g, line, memory, now)
        d, t = direction(-g, memory, _order(now.pairs, memory), now.scale), c.learning_rate
    slope = dot(g, d)
    now = now._replace(length=t)
    line = line._replace(direction=d, gradient=g)
    if slope > -c.change_tolerance:
        return _asked(p, line, memory, now)
    if line.search is None:
        if now.inner < c.max_iterations:
            now = now._replace(phase=MOVED)
        return _asked(p + t * d, line, memory, now)
    allowed = c.max_evaluations - now.evaluations
    search = Wolfe(loss, slope, largest(d), t, 0.0, loss, slope, allowed=allowed)
    line = line._replace(start=p, ends=np.stack([g, g]), search=np.array(search, np.float64))
    return _asked(p + t * d, line, memory, now._replace(phase=SEARCHING))


def _remembered(g: Any, line: Line, memory: Memory, now: Progress) -> tuple[Memory, Progress]:
    """The memory with the last step in it, if the function curves upward along it."""
    y, s = g - line.gradient, now.length * line.direction
    product = dot(y, s)
    if not product > SMALLEST_CURVATURE:
        return memory, now
    memory = memory.with_pair(int(now.pairs) % len(memory.weights), y, s, 1.0 / product)
    return memory, now._replace(pairs=now.pairs + 1.0, scale=float(np.float64(product) / dot(y, y)))


def _order(pairs: float, memory: Memory) -> list[int]:
    size = len(memory.weights)
    return [i % size for i in range(max(0, int(pairs) - size), int(pairs))]


def _after(p: Any, g: Any, loss: float, line: Line, memory: Memory, now: Progress, c: Torch) -> Any:
    """The end of an iteration: of the step too, or on to the next one."""
    if (
        now.inner >= c.max_iterations
        or now.evaluations >= c.max_evaluations
        or largest(g) <= c.gradient_tolerance
        or largest(now.length * line.direction) <= c.change_tolerance
        or abs(loss - now.value) < c.change_tolerance
    ):
        return _asked(p, line, memory, now._replace(phase=IDLE))
    return _iterate(p, g, loss, line, memory, now, c)


def _asked(p: Any, line: Line, memory: Memory, now: Progress) -> Any:
    """The parameters and the slots, in their order."""
    slots = (line.direction, line.gradient, *memory, np.array(now, np.float64))
    return (p, *slots) if line.search is None else (p, *slots, line.start, line.ends, line.search)


def idle(*slots: Any) -> bool:
    """Whether torch's step is complete."""
    return bool(slots[5][0] == IDLE)


def iteration_start(values: Values, p: Any, *slots: Any) -> Any:
    """Where the step began, or its last iteration, while it searches."""
    return slots[6] if slots[5][0] == SEARCHING else p


def optax_direction(p: Any, g: Any, last: Any, before: Any, ys: Any, ss: Any, ws: Any, c: Optax) -> Any:
    """-α H g of optax.lbfgs, with the last step taken into the memory first, whichever way the function curves."""
    size, count, scale = len(ws), int(c.taken), 1.0
    memory = Memory(ys, ss, ws)
    y, s = g - before, p - last
    product, square = np.float64(dot(y, s)), dot(y, y)
    if count:
        weight = 0.0 if product == 0.0 else float(1.0 / product)
        memory = memory.with_pair((count - 1) % size, y, s, weight)
    if c.scale_first:
        scale = (
            float(product / square if square > 0.0 else 1.0) if count else min(1.0, float(1.0 / np.float64(norm(g))))
        )
    return -c.learning_rate * direction(g, memory, [(count + i) % size for i in range(size)], scale), memory


def optax_fixed(p: Any, g: Any, last: Any, before: Any, ys: Any, ss: Any, ws: Any, c: Optax) -> Any:
    """optax.lbfgs with linesearch=None: θ ← θ - α H g."""
    d, memory = optax_direction(p, g, last, before, ys, ss, ws, c)
    return p + d, p, g, *memory


def optax_zoom(p: Any, g: Any, last: Any, before: Any, ys: Any, ss: Any, ws: Any, *rest: Any) -> Any:
    """One evaluation of optax.lbfgs: at the start of a line, or on it."""
    d, at, search, c = rest
    limits = Limits(*c[5:])
    searching, length = map(float, at)
    if not searching:
        d, memory = optax_direction(p, g, last, before, ys, ss, ws, c)
        z = begin_zoom(np.float64(c.loss), np.float64(dot(d, g)), length if c.keep_step else 1.0, limits)
        return p + float(z.trial) * d, p, g, *memory, d, (1.0, length), z
    found = zoom(Zoom(*search), np.float64(c.loss), np.float64(dot(g, d)), limits)
    t = float(found.search.trial)
    at = (0.0, t) if found.over else (1.0, length)
    return last + t * d, last, before, ys, ss, ws, d, at, found.search


def at_rest(*slots: Any) -> bool:
    """Whether optax's step is complete."""
    return not slots[6][0]


def line_start(values: Values, p: Any, last: Any, *slots: Any) -> Any:
    """The parameters after the last step of optax's."""
    return last if slots[5][0] else p
