"""Line searches as state machines: each is told the value and the slope at its trial, and says where to look next.

A search is a tuple of numbers, so that it can be stored between two evaluations. Its arithmetic is of NumPy scalars,
which divide by zero as the libraries' do: a trial that is not a number is for the caller to refuse.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

SUFFICIENT, CURVATURE = 1e-4, 0.9  # c₁ and c₂ of the strong Wolfe conditions
SMALLEST_BRACKET = 1e-9  # times the largest element of the direction
NEW, START = 2, 3  # beside 0 and 1, the gradients of the bracket that a search may ask to keep


class Wolfe(NamedTuple):
    """torch's search for a step that satisfies the strong Wolfe conditions.

    value, slope   at the start of the line
    longest        the largest element of the direction, in size
    trial          the step length that is to be evaluated next, and at the end the one to take
    t0, f0, s0     step length, value and slope at one end of the bracket; before there is one, of the last trial
    t1, f1, s1     the same at its other end
    zooming        whether there is a bracket
    trials         evaluations but one
    allowed        how many there may be of them
    low            which end of the bracket is the lower
    stalled        whether the last trial was close to an end of the bracket
    """

    value: float
    slope: float
    longest: float
    trial: float
    t0: float
    f0: float
    s0: float
    t1: float = 0.0
    f1: float = 0.0
    s1: float = 0.0
    zooming: float = 0.0
    trials: float = 0.0
    allowed: float = 0.0
    low: float = 0.0
    stalled: float = 0.0


Trial = tuple[Any, Any, Any]  # step length, value, slope


class Found(NamedTuple):
    """What an evaluation came to: the search, whether it is over, and which gradients to keep as those of its ends.

    At the end, `search.trial` is the step length, `value` the value there, and `keep[0]` the gradient.
    """

    search: Any
    over: bool
    value: float = 0.0
    keep: tuple[int, int] = (0, 1)


def cubic(x1: Any, f1: Any, g1: Any, x2: Any, f2: Any, g2: Any, low: Any, high: Any) -> Any:
    """Where the cubic with these values and slopes at two points is least, within the bounds (Nocedal, Wright 3.59)."""
    d1 = g1 + g2 - 3 * np.float64(f1 - f2) / (x1 - x2)
    square = d1 * d1 - g1 * g2
    if not square >= 0:
        return (low + high) / 2.0
    d2 = np.sqrt(square)
    if x1 <= x2:
        least = x2 - (x2 - x1) * ((g2 + d2 - d1) / (g2 - g1 + 2 * d2))
    else:
        least = x1 - (x1 - x2) * ((g1 + d2 - d1) / (g1 - g2 + 2 * d2))
    return min(max(least, low), high)


def wolfe(s: Wolfe, f: Any, slope: Any) -> Found:
    """The search after the value and the slope at its trial."""
    if s.zooming:
        return _narrowed(s._replace(trials=s.trials + 1.0), f, slope)
    t = s.trial
    if s.trials >= s.allowed:
        ends = s._replace(t0=0.0, f0=s.value, s0=s.slope, t1=t, f1=f, s1=slope)
        return _taken(_ordered(ends), (START, NEW))
    too_high = f > s.value + SUFFICIENT * t * s.slope or (s.trials > 1.0 and f >= s.f0)
    if not too_high and abs(slope) <= -CURVATURE * s.slope:
        return Found(s, True, f, (NEW, NEW))
    if too_high or slope >= 0:
        return _next_trial(_ordered(s._replace(zooming=1.0, t1=t, f1=f, s1=slope)), (0, NEW))
    farther = cubic(s.t0, s.f0, s.s0, t, f, slope, t + 0.01 * (t - s.t0), t * 10)
    return Found(s._replace(trial=farther, t0=t, f0=f, s0=slope, trials=s.trials + 1.0), False, keep=(NEW, NEW))


def _ordered(s: Wolfe) -> Wolfe:
    return s._replace(low=0.0 if s.f0 <= s.f1 else 1.0)


def _taken(s: Wolfe, keep: tuple[int, int]) -> Found:
    """The end of the search, at the lower end of the bracket."""
    t, f = (s.t1, s.f1) if s.low else (s.t0, s.f0)
    return Found(s._replace(trial=t), True, f, (keep[int(s.low)], keep[1 - int(s.low)]))


def _next_trial(s: Wolfe, keep: tuple[int, int]) -> Found:
    """Where to look in the bracket: at the cubic's minimum, unless that hugs an end for the second time."""
    if s.trials >= s.allowed or abs(s.t1 - s.t0) * s.longest < SMALLEST_BRACKET:
        return _taken(s, keep)
    left, right = min(s.t0, s.t1), max(s.t0, s.t1)
    t = cubic(s.t0, s.f0, s.s0, s.t1, s.f1, s.s1, left, right)
    margin, stalled = 0.1 * (right - left), False
    if min(right - t, t - left) < margin:
        if s.stalled or t >= right or t <= left:
            t = right - margin if abs(t - right) < abs(t - left) else left + margin
        else:
            stalled = True
    return Found(s._replace(trial=t, stalled=float(stalled)), False, keep=keep)


def _narrowed(s: Wolfe, f: Any, slope: Any) -> Found:
    """The bracket with the trial as one of its ends."""
    t, low = s.trial, int(s.low)
    ends = [(s.t0, s.f0, s.s0), (s.t1, s.f1, s.s1)]
    keep = [0, 1]
    over = False
    if f > s.value + SUFFICIENT * t * s.slope or f >= ends[low][1]:
        ends[1 - low], keep[1 - low] = (t, f, slope), NEW
        low = 0 if ends[0][1] <= ends[1][1] else 1
    else:
        over = bool(abs(slope) <= -CURVATURE * s.slope)
        if not over and slope * (ends[1 - low][0] - ends[low][0]) >= 0:
            ends[1 - low], keep[1 - low] = ends[low], keep[low]
        ends[low], keep[low] = (t, f, slope), NEW
    (t0, f0, s0), (t1, f1, s1) = ends
    s = s._replace(t0=t0, f0=f0, s0=s0, t1=t1, f1=f1, s1=s1, low=float(low))
    return _taken(s, (keep[0], keep[1])) if over else _next_trial(s, (keep[0], keep[1]))


class Limits(NamedTuple):
    """What optax's search is held to; infinity where there is no longest step, 0 where no approximate decrease."""

    steps: float
    longest: float
    tolerance: float
    growth: float
    sufficient: float
    curvature: float
    approximate: float
    smallest_interval: float


class Zoom(NamedTuple):
    """optax's search: an interval by doubling, then zooming in by cubic, by parabola or by halves.

    value, slope         at the start of the line
    trial                the step length that is to be evaluated next, and at the end the one to take
    t, f, s              step length, value and slope of the last trial
    trials, found        evaluations so far, and whether there is an interval
    low ..., high ...    its ends: step length, value and slope
    reference ...        a third point for the cubic
    safe, safe_value     the best step so far that lowers the value enough
    """

    value: float
    slope: float
    trial: float
    t: float
    f: float
    s: float
    low: float
    low_value: float
    low_slope: float
    high: float
    high_value: float
    high_slope: float
    reference: float
    reference_value: float
    safe: float
    safe_value: float
    trials: float = 0.0
    found: float = 0.0


def begin_zoom(value: Any, slope: Any, guess: float, limits: Limits) -> Zoom:
    """A search that looks at the guess first."""
    end = (0.0, value, slope)
    return Zoom(value, slope, min(guess, limits.longest), *end, *end, *end, 0.0, value, 0.0, value)


def zoom(z: Zoom, f: Any, slope: Any, limits: Limits) -> Found:
    """The search after the value and the slope at its trial."""
    decrease, error = _errors(z, f, slope, limits)
    after = _zoomed(z, f, slope, decrease) if z.found else _grown(z, f, slope, decrease)
    met = decrease <= limits.tolerance
    if met and (not z.found or f < z.safe_value):
        after = after._replace(safe=z.trial, safe_value=f)
    after = after._replace(trials=z.trials + 1.0)
    done = error <= limits.tolerance
    if not z.found:
        done = done or (z.trial >= limits.longest and not after.found)
    if done:
        return Found(after._replace(trial=z.trial), True, f)
    narrow = bool(z.found) and abs(z.high - z.low) <= limits.smallest_interval and after.safe > 0.0
    if after.trials >= limits.steps or narrow:
        back = after.safe > 0.0 or math.isinf(decrease)
        return Found(after._replace(trial=after.safe if back else z.trial), True, f)
    trial = _between(after) if after.found else min(limits.growth * after.t, limits.longest)
    return Found(after._replace(trial=trial), False)


def _errors(z: Zoom, f: Any, slope: Any, limits: Limits) -> tuple[Any, Any]:
    """How far the trial is from lowering the value enough, and from that and a small slope together."""
    decrease = f - z.value - limits.sufficient * z.trial * z.slope
    if limits.approximate:
        flat = slope - (2 * limits.sufficient - 1.0) * z.slope
        decrease = np.minimum(np.maximum(flat, f - z.value - limits.approximate * abs(z.value)), decrease)
    curvature = abs(slope) - limits.curvature * abs(z.slope)
    decrease, curvature = (math.inf if math.isnan(e) else max(e, 0.0) for e in (decrease, curvature))
    return decrease, max(decrease, curvature)


def _ends(new: Trial, low: Trial, high: Trial, reference: Trial) -> dict[str, Any]:
    """The last trial, the ends of the interval and the third point, by the names of `Zoom`."""
    names = ("t", "f", "s", "low", "low_value", "low_slope", "high", "high_value", "high_slope")
    return dict(zip(names, (*new, *low, *high), strict=True)) | dict(
        zip(("reference", "reference_value"), reference[:2], strict=True)
    )


def _grown(z: Zoom, f: Any, slope: Any, decrease: Any) -> Zoom:
    """The search before there was an interval (Nocedal and Wright, Algorithm 3.5)."""
    new, last = (z.trial, f, slope), (z.t, z.f, z.s)
    high_is_new = decrease > 0.0 or (f >= z.f and z.trials > 0.0)
    low_is_new = slope >= 0.0 and not high_is_new
    low, high = (new, last) if low_is_new else (last, new)
    found = float(high_is_new or low_is_new)
    ends = _ends(new, low, high, low)
    return z._replace(**ends, found=found)


def _zoomed(z: Zoom, f: Any, slope: Any, decrease: Any) -> Zoom:
    """The search within the interval (Algorithm 3.6)."""
    new = (z.trial, f, slope)
    low, high = (z.low, z.low_value, z.low_slope), (z.high, z.high_value, z.high_slope)
    high_is_new = decrease > 0.0 or f >= z.low_value
    high_is_low = slope * (z.high - z.low) >= 0.0 and not high_is_new
    reference = high if high_is_new or high_is_low else low
    high = new if high_is_new else low if high_is_low else high
    low = low if high_is_new else new
    return z._replace(**_ends(new, low, high, reference))


def _between(z: Zoom) -> Any:
    """The cubic's minimum if it is well inside the interval, else the parabola's, else the middle."""
    left, right, width = min(z.low, z.high), max(z.low, z.high), abs(z.high - z.low)
    third = _cubic_minimum(z)
    if left + 0.2 * width < third < right - 0.2 * width:
        return third
    db = np.float64(z.high - z.low)
    second = z.low - z.low_slope / (2.0 * ((z.high_value - z.low_value - z.low_slope * db) / (db * db)))
    if left + 0.1 * width < second < right - 0.1 * width:
        return second
    return (z.low + z.high) / 2.0


def _cubic_minimum(z: Zoom) -> Any:
    """Of the cubic through both ends and the reference, with the lower end's slope.

    On an exact parabola the first coefficient is what the sums were rounded by, and no more.
    """
    db, dc = np.float64(z.high - z.low), np.float64(z.reference - z.low)
    bottom = (db * dc) * (db * dc) * (db - dc)
    fb = z.high_value - z.low_value - z.low_slope * db
    fc = z.reference_value - z.low_value - z.low_slope * dc
    a = (dc * dc * fb - db * db * fc) / bottom
    b = (db * (db * db) * fc - dc * (dc * dc) * fb) / bottom
    return z.low + (-b + np.sqrt(b * b - 3.0 * a * z.low_slope)) / (3.0 * a)
