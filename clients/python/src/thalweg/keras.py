"""Keras: a session's state in the variables of a Keras optimizer, and back.

    optimizer = keras.optimizers.Adam(1e-3)
    optimizer.build(model.trainable_variables)
    thalweg.keras.export_state(session, optimizer)             # goes on there
    session = thalweg.keras.import_state(client, optimizer)    # goes on here

A parameter has the name that is its variable's path, unless `names` gives others. Keras is never imported here: the
optimizer brings it along.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from thalweg import exchange
from thalweg.client import Client, Session
from thalweg.errors import InvalidInput
from thalweg.exchange import Kept
from thalweg.requests import Record
from thalweg.tensors import Array

DIALECT = "keras"
UNMOVED = ("use_ema", "loss_scale_factor", "gradient_accumulation_steps")
CLIPS = ("clipnorm", "clipvalue", "global_clipnorm")

__all__ = ["export_state", "import_state"]


def export_state(session: Session, optimizer: Any, names: Sequence[str] | None = None, step: int | None = None) -> None:
    """Put the state of a session into the variables of a Keras optimizer, which must be built.

    The optimizer is of the session's class and has its options; the learning rate is set where it is a variable.
    `names` are those of the optimizer's variables, in their order. The parameters themselves are in `session.params`.
    `step` is the newest unless said otherwise.

    Raises InvalidInput, saying why, before anything is assigned: another class, other options, other names, state that
    the class has no place for; NotFound, Gone.
    """
    form, kept = exchange.leave(session, DIALECT, step)
    variables = _variables(optimizer, names)
    found = {name: tuple(variable.shape) for name, variable in variables.items()}
    if found != dict(zip(kept.names, kept.shapes, strict=True)):
        raise InvalidInput(
            f"The session has {', '.join(kept.names)}, the optimizer {', '.join(found)}, in other shapes."
        )
    config = optimizer.get_config()
    if _path(optimizer) != form["like"]:
        raise InvalidInput(f"The session is {form['like']}, the optimizer {_path(optimizer)}.")
    values = exchange.current(session, kept)("")
    if kept.groups:
        raise InvalidInput("A Keras optimizer has one set of options for all parameters, and this session has groups.")
    _compare(exchange.arguments_of(form, values), config)
    assigned = [
        (getattr(optimizer, name), exchange.derived(kind, kept.updates, values))
        for name, kind in form["derived"].items()
    ]
    for slot, parts in kept.slots.items():
        told = form["slots"][slot]
        places = getattr(optimizer, told["called"])
        if len(places) != len(variables):
            raise InvalidInput(f"The optimizer keeps no {told['called']}, where this session's {slot} belongs.")
        by_name = zip(variables, places, strict=True)
        assigned += [
            (place, exchange.theirs(told, parts[name])) for name, place in by_name if exchange.fits(told, found[name])
        ]
    for variable, value in assigned:
        variable.assign(value)
    if "learning_rate" in values and not isinstance(config["learning_rate"], Mapping):
        optimizer.learning_rate = values["learning_rate"]


def import_state(
    client: Client,
    optimizer: Any,
    names: Sequence[str] | None = None,
    *,
    id: str | None = None,
    durability: str | None = None,
    ttl_seconds: float | None = None,
    labels: Mapping[str, str] | None = None,
) -> Session:
    """A session that goes on from where a Keras optimizer, which must be built, and its variables stand.

    Its options become the session's, clipping among them. `names` are those of the optimizer's variables, in their
    order; the paths of the variables otherwise. The rest is as for `client.load`.

    Raises InvalidInput, saying why, for averages, gathered gradients and other state that does not move, and for a
    schedule as learning rate; Invalid for what the service refuses.
    """
    path, config = _path(optimizer), optimizer.get_config()
    form = exchange.form_of(exchange.entry(client, path), DIALECT)
    for option in UNMOVED:
        if config.get(option):
            raise InvalidInput(f"The state of {option} does not move; leave it out, or take a step where it is empty.")
    if isinstance(config["learning_rate"], Mapping):
        raise InvalidInput("The optimizer follows a schedule; set a number, move, and give the session the schedule.")
    variables = _variables(optimizer, names)
    params = {name: _array(variable) for name, variable in variables.items()}
    dtype = exchange.dtype_of(params)
    said = {key: exchange.plain(config[key]) for key in (*form["arguments"], *CLIPS) if config.get(key) is not None}
    count = int(optimizer.iterations.numpy())
    kept = Kept(
        optimizer={"like": path, **said},
        names=tuple(params),
        shapes=tuple(array.shape for array in params.values()),
        dtype=dtype,
        step=count,
        updates=count,
        counts=(count,) * len(params),
        params=params,
        slots=_slots(form, optimizer, params, dtype),
    )
    options = {"durability": durability, "ttl_seconds": ttl_seconds, "labels": labels}
    return exchange.enter(client, kept, id, **options)


def _path(optimizer: Any) -> str:
    return f"keras.optimizers.{type(optimizer).__name__}"


def _variables(optimizer: Any, names: Sequence[str] | None) -> dict[str, Any]:
    """The variables that the optimizer moves, by name."""
    if not optimizer.built:
        raise InvalidInput("The optimizer has no variables yet; call optimizer.build(model.trainable_variables).")
    variables = list(optimizer._trainable_variables)
    listed = [variable.path for variable in variables] if names is None else list(names)
    if len(set(listed)) != len(variables) or len(listed) != len(variables):
        raise InvalidInput("Give each variable of the optimizer a name of its own, with `names`.")
    return dict(zip(listed, variables, strict=True))


def _array(variable: Any) -> Array:
    array: Array = np.array(variable.numpy())
    return array


def _compare(arguments: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Raises InvalidInput where the optimizer has other options than the session; the learning rate is set later."""
    for name, value in arguments.items():
        found = config.get(name)
        if name == "learning_rate" or (value or None) == (found or None):
            continue
        close = isinstance(found, float) and isinstance(value, float) and math.isclose(found, value, rel_tol=1e-6)
        if not close:
            raise InvalidInput(f"The optimizer's {name} is {found!r}; the session's is {value!r}.")


def _slots(form: Record, optimizer: Any, params: Mapping[str, Array], dtype: str) -> exchange.Slots:
    slots: exchange.Slots = {}
    for slot, told in form["slots"].items():
        places = getattr(optimizer, told["called"], None) or []
        if len(places) == len(params):
            slots[slot] = {
                name: exchange.ours(told, _array(place), p.shape, dtype)
                if exchange.fits(told, p.shape)
                else exchange.empty(dtype)
                for (name, p), place in zip(params.items(), places, strict=True)
            }
    return slots
