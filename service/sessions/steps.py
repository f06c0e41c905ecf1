"""A step worked out: pure functions from a session and a gradient to what would be written and answered."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from service.errors import NonFinite, Place, StepMismatch
from service.optim import blocks
from service.optim.blocks import LARGE
from service.optim.state import State, Step
from service.optim.tensors import BLOCK, Array, Layout, all_finite, norm
from service.sessions import log
from service.sessions.session import Session
from service.stores.base import Payload
from service.wire.trees import Flat, check_finite, place_of

_NOTHING: dict[str, Any] = {}
_USUAL = frozenset(
    ("kind", "step", "time", "digest", "learning_rate", "gradient_norm", "update_norm", "loss", "absent", "rows")
)
_METRICS = ("step", "time", "learning_rate", "loss", "gradient_norm", "update_norm", "skipped", "zeroed", "committed")


class Computed(NamedTuple):
    """A step worked out but not yet taken; `payload` has the gradient as made finite.

    `updates` are flat, (size,); of a large step, which `answered` can do without, they are None where nobody asked.
    """

    state: State
    updates: Array | None
    payload: Payload
    event: dict[str, Any]
    handled: dict[str, Any]


class Want(NamedTuple):
    """What is wanted of a large step: whether its updates too, and whether it may be written over the state's slots.

    Nobody else may look at them then. They are lost though the step be refused: the session is torn.
    """

    updates: bool = True
    over: bool = False


EVERYTHING = Want()


class Moved(NamedTuple):
    """What a step did: the state after it, the flat updates, its learning rate, and the two lengths."""

    state: State
    updates: Array | None
    learning_rate: float
    gradient_norm: float
    update_norm: float


class Stepped(NamedTuple):
    """The outcome of a step; `params` and `updates` are flat, and None where they were not asked for."""

    layout: Layout
    step: int
    params: Array | None
    updates: Array | None
    learning_rate: float
    gradient_norm: float
    update_norm: float
    durable_step: int
    replayed: bool
    handled: dict[str, Any]


def make_finite(session: Session, flat: Flat) -> tuple[Flat, dict[str, Any]]:
    """The session's policy for numbers that are not finite, and what it did; they never reach the state.

    Raises NonFinite where the policy is to reject them.
    """
    finite = np.isfinite(flat.values)
    if finite.all():
        return flat, {}
    policy = session.head["non_finite"]
    if policy == "reject":
        check_finite(flat.values, session.layout, "/gradients", flat.rows)
    values = np.where(finite, flat.values, session.layout.dtype.type(0))
    handled: dict[str, Any] = {"skipped": True} if policy == "skip" else {"zeroed": int((~finite).sum())}
    return Flat(values, flat.absent, flat.rows), handled


def compute(session: Session, given: Flat, loss: float | None, now: float, want: Want = EVERYTHING) -> Computed:
    """The session's next step; changes nothing but, where that is wanted, the slots.

    Raises NonFinite for the gradient or where the step would overflow.
    """
    if given.values.size >= LARGE:
        return _compute_large(session, given, loss, now, want)
    before = session.state
    flat, handled = given, _NOTHING
    with np.errstate(all="ignore"):
        gradient_norm = length(flat.values)
        if not math.isfinite(gradient_norm):  # a finite norm has no NaN and no infinity in it
            flat, handled = make_finite(session, given)
            gradient_norm = length(flat.values)
        if not math.isfinite(gradient_norm):
            raise _too_long()
        if "skipped" in handled:
            rate = session.optimizer.specification.at(before.step).get("learning_rate", 1.0)
            after, committed = before, False
        else:
            after, rate, committed = _step(session, flat, loss)
        if session.optimizer.partial:
            handled = {**handled, "committed": committed}
        updates = after.params - before.params
        update_norm = length(updates)
        _check(session.layout, after, update_norm)
    moved = Moved(after, updates, rate, gradient_norm, update_norm)
    return recorded(session, given, flat, loss, now, moved, handled)


def _compute_large(session: Session, given: Flat, loss: float | None, now: float, want: Want) -> Computed:
    """The same with little memory and two threads; the digest is made meanwhile."""
    making = blocks.beside(log.step_digest, given.values, given.absent, loss, given.rows)
    before = session.state
    flat, handled = given, _NOTHING
    gradient_norm = blocks.length(flat.values)
    if not math.isfinite(gradient_norm):
        flat, handled = make_finite(session, given)
        gradient_norm = blocks.length(flat.values)
    if not math.isfinite(gradient_norm):
        raise _too_long()
    plain = not flat.absent and not flat.rows and blocks.suits(session.optimizer, before)
    if "skipped" in handled:
        rate = session.optimizer.specification.at(before.step).get("learning_rate", 1.0)
        after, committed, finite, update_norm = before, False, True, 0.0
    elif plain:
        session.torn = want.over
        (after, rate, committed), update_norm, finite = blocks.step(session.optimizer, before, flat.values, want.over)
    else:
        after, rate, committed = _step(session, flat, loss)
        with np.errstate(all="ignore"):
            update_norm, finite = blocks.length(after.params - before.params), False
    if session.optimizer.partial:
        handled = {**handled, "committed": committed}
    with np.errstate(all="ignore"):
        if not (finite and math.isfinite(update_norm)):
            _check(session.layout, after, update_norm)
        updates = after.params - before.params if want.updates else None
    moved = Moved(after, updates, rate, gradient_norm, update_norm)
    return recorded(session, given, flat, loss, now, moved, handled, making.result())


def recorded(
    session: Session,
    given: Flat,
    flat: Flat,
    loss: float | None,
    now: float,
    moved: Moved,
    handled: dict[str, Any] = _NOTHING,
    digest: str = "",
) -> Computed:
    """A step worked out, with what is written of it; `flat` is the gradient as it was made finite."""
    event = {
        "kind": "step",
        "step": session.step + 1,
        "time": now,
        "digest": digest or log.step_digest(given.values, given.absent, loss, given.rows),
        "learning_rate": moved.learning_rate,
        "gradient_norm": moved.gradient_norm,
        "update_norm": moved.update_norm,
        **handled,
    }
    if loss is not None:
        event["loss"] = loss
    if flat.absent:
        event["absent"] = flat.absent
    if flat.rows:
        event["rows"] = [(i, len(rows)) for i, rows in flat.rows.items()]
    payload = log.payload(flat.values, session.layout, flat.rows)
    return Computed(moved.state, moved.updates, payload, event, told(session, event))


def _too_long() -> NonFinite:
    return NonFinite(
        "The gradient's norm is past the range of a double; scale the gradient down.", pointer="/gradients"
    )


def _step(session: Session, flat: Flat, loss: float | None) -> Step:
    try:
        return session.optimizer.step(session.state, flat.values, flat.absent, loss, flat.rows)
    except NonFinite as error:  # a transform that cannot do it
        raise error.at("/gradients") from None


def answered(layout: Layout, done: Computed, returning: str, durable: int) -> Stepped:
    """What is answered to a step that was just taken."""
    event = done.event
    return Stepped(
        layout,
        event["step"],
        done.state.params if returning in ("params", "both") else None,
        done.updates if returning in ("updates", "both") else None,
        event["learning_rate"],
        event["gradient_norm"],
        event["update_norm"],
        durable,
        False,
        done.handled,
    )


def chosen(stepped: Stepped, returning: str) -> Stepped:
    """An outcome that has everything, as one of those who share it asked for it."""
    return stepped._replace(
        params=stepped.params if returning == "params" else None,
        updates=stepped.updates if returning == "updates" else None,
    )


def mismatch(current: int) -> StepMismatch:
    """The error for a step that is not the next one."""
    return StepMismatch(f"The session is at step {current}; send step {current + 1} next.", current_step=current)


def told(session: Session, event: dict[str, Any]) -> dict[str, Any]:
    """What the answer to a step says of it beside the numbers, the first time as later."""
    if event.keys() <= _USUAL and not session.optimizer.partial:
        return _NOTHING
    said: dict[str, Any] = {key: event[key] for key in ("skipped", "zeroed", "committed") if key in event}
    if "parts" in event:
        said["workers"] = len(event["parts"])
    if session.optimizer.partial:
        said["wanted"] = session.optimizer.wants
    return said


def length(flat: Array) -> float:
    """Euclidean norm, as `norm` has it; the common case of a few doubles in the middle of the range goes fast."""
    if flat.size < BLOCK and flat.dtype == np.float64:
        total = float(np.add.reduce(flat * flat))
        if 0.0 < total < math.inf:
            return math.sqrt(total)
    return norm(flat)


def metrics(event: dict[str, Any]) -> dict[str, Any]:
    """What the history tells of a step."""
    return {key: event[key] for key in _METRICS if key in event}


def followed(event: dict[str, Any]) -> dict[str, Any]:
    """What a follower is told of a row."""
    if event["kind"] == "step":
        return {"kind": "step", **metrics(event)}
    return {key: value for key, value in event.items() if key != "from"}


def _check(layout: Layout, state: State, update_norm: float) -> None:
    """Raises NonFinite when a step would leave a number in the state that is not finite.

    A finite norm of the updates means finite parameters; the slots hold squares and are looked at themselves.
    """
    if math.isfinite(update_norm) and all(math.isfinite(slot.dot(slot)) for slot in state.slots):
        return
    if math.isfinite(update_norm) and all_finite(*state.slots):  # finite numbers whose squares are not
        return
    for array in (state.params, *state.slots):
        bad = np.flatnonzero(~np.isfinite(array))
        if bad.size:
            raise NonFinite(
                "This step would overflow the optimizer's state, so that it was not taken; send a smaller gradient or "
                "lower the learning rate.",
                places=[Place(place_of(int(bad[0]), layout, "/gradients"), "the state here would not be finite")],
            )
    raise NonFinite("This step is longer than a double can say; lower the learning rate.", pointer="/gradients")
