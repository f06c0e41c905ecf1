"""optax: a session's state in the state tree of a transformation, and back.

    state = thalweg.optax.export_state(session, optax.adam(1e-3), params)                       # goes on there
    session = thalweg.optax.import_state(client, {"like": "optax.adam", "learning_rate": 1e-3}, state, params)

Parameters have names in a session and places in a tree: the leaf at params["layer"]["kernel"] is "layer.kernel", and a
tree that is one array has no name. jax is imported when one of these is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from thalweg import exchange
from thalweg.client import Client, Session
from thalweg.errors import InvalidInput
from thalweg.exchange import Kept
from thalweg.requests import Record
from thalweg.tensors import Array

DIALECT = "optax"

__all__ = ["export_state", "import_state"]


def export_state(session: Session, transform: Any, params: Any, step: int | None = None) -> Any:
    """The state of a session as the state of `transform`, which must be that of the session's optimizer in optax.

    `params` is a tree whose leaves have the session's names and shapes; only those are taken from it. A transformation
    that chains others before or after keeps their states as `transform.init` makes them, counts apart. What optax
    keeps in closures, the learning rate and the betas, nobody can look up: giving the same ones is up to the caller.
    `step` is the newest unless said otherwise.

    Raises InvalidInput, saying why, where the session keeps what the transformation does not, or the names differ;
    Misuse without jax; NotFound, Gone.
    """
    form, kept = exchange.leave(session, DIALECT, step)
    jax = exchange.library("jax")
    tree = Tree(jax, params)
    tree.expect(kept)
    wanted = {told["called"]: slot for slot, told in form["slots"].items() if slot in kept.slots}
    found = dict.fromkeys(wanted, 0)

    def fill(field: str, value: Any) -> Any:
        if field in wanted:
            found[field] += 1
            slot = wanted[field]
            told, parts = form["slots"][slot], kept.slots[slot]
            if told.get("shared"):
                return jax.numpy.asarray(exchange.theirs(told, parts[""]), np.asarray(value).dtype)
            return tree.like({name: exchange.theirs(told, part) for name, part in parts.items()}, value)
        if field in form["derived"]:
            follows = exchange.derived(form["derived"][field], kept.updates, kept.optimizer)
            return jax.numpy.asarray(follows, value.dtype)
        return value

    state = _walked(transform.init(params), fill)
    for field, times in found.items():
        if times != 1:
            raise InvalidInput(
                f"{form['like']} keeps {wanted[field]} as {field!r}, of which this transformation's state has {times}; "
                "give the transformation that the session's optimizer is."
            )
    return state


def import_state(
    client: Client,
    optimizer: Mapping[str, Any],
    state: Any,
    params: Any,
    *,
    id: str | None = None,
    step: int | None = None,
    durability: str | None = None,
    ttl_seconds: float | None = None,
    labels: Mapping[str, str] | None = None,
) -> Session:
    """A session that goes on from the state of a transformation.

    `optimizer` says in optax's words which one it is, {"like": "optax.adam", "learning_rate": 1e-3}, as it cannot be
    read from the state. `step` is the number of the last step that was taken; by default it is what the state counted,
    and 0 where optax keeps no count. The rest is as for `client.load`.

    Raises InvalidInput, saying why, for a state that is not of this optimizer, for parameters of several dtypes;
    Invalid for what the service refuses.
    """
    path = optimizer.get("like")
    if not isinstance(path, str) or not path.startswith("optax."):
        raise InvalidInput('Name the optimizer in the words of optax: {"like": "optax.adam", "learning_rate": 0.1}.')
    form = exchange.form_of(exchange.entry(client, path), DIALECT)
    tree = Tree(exchange.library("jax"), params)
    fields: dict[str, list[Any]] = {}

    def note(field: str, value: Any) -> Any:
        fields.setdefault(field, []).append(value)
        return value

    _walked(state, note)
    count = _count(form, fields, step)
    dtype = exchange.dtype_of(tree.leaves)
    kept = Kept(
        optimizer=dict(optimizer),
        names=tuple(tree.leaves),
        shapes=tuple(array.shape for array in tree.leaves.values()),
        dtype=dtype,
        step=count if step is None else step,
        updates=count,
        counts=(count,) * len(tree.leaves),
        params=tree.leaves,
        slots=_slots(form, fields, tree, dtype, exchange.values_of(form, optimizer)),
    )
    options = {"durability": durability, "ttl_seconds": ttl_seconds, "labels": labels}
    return exchange.enter(client, kept, id, **options)


class Tree:
    """A tree of parameters: its leaves by name, and how to make another of its shape."""

    def __init__(self, jax: Any, params: Any) -> None:
        self._jax = jax
        paths, self._structure = jax.tree_util.tree_flatten_with_path(params)
        self.leaves: dict[str, Array] = {".".join(map(_part_of_name, path)): np.array(leaf) for path, leaf in paths}
        if len(self.leaves) != len(paths):
            raise InvalidInput("Two leaves of the tree of parameters have the same name, their keys joined with dots.")

    def expect(self, kept: Kept) -> None:
        """Raises InvalidInput where names or shapes are not those of a session."""
        mine = {name: array.shape for name, array in self.leaves.items()}
        if mine != dict(zip(kept.names, kept.shapes, strict=True)):
            raise InvalidInput(f"The session has {', '.join(kept.names)}, the tree {', '.join(mine)}, in other shapes.")

    def like(self, parts: Mapping[str, Array], value: Any) -> Any:
        """A tree of arrays by name, in the dtypes of `value`, which has the shape of this tree."""
        told, structure = self._jax.tree_util.tree_flatten(value)
        if structure != self._structure:
            raise InvalidInput("The transformation keeps no state for some of the parameters, as if masked.")
        made = [self._jax.numpy.asarray(parts[name], old.dtype) for name, old in zip(self.leaves, told, strict=True)]
        return self._jax.tree_util.tree_unflatten(structure, made)

    def parts(self, value: Any) -> dict[str, Array]:
        """The arrays of a tree of this shape, by name. Raises InvalidInput for another."""
        told, structure = self._jax.tree_util.tree_flatten(value)
        if structure != self._structure:
            raise InvalidInput("The state is not that of these parameters: its tree has another shape.")
        return {name: np.asarray(leaf) for name, leaf in zip(self.leaves, told, strict=True)}


def _part_of_name(key: Any) -> str:
    """A key of a path in a tree: of a dict, a list, an object or a flat one."""
    return str(next(getattr(key, name) for name in ("key", "idx", "name") if hasattr(key, name)))


def _walked(state: Any, visit: Callable[[str, Any], Any]) -> Any:
    """A state with each field of its named tuples as `visit` has it; what a field holds is walked where it is state."""
    if isinstance(state, tuple) and hasattr(state, "_fields"):
        return type(state)(*(_walked(visit(name, value), visit) for name, value in _fields(state)))
    if isinstance(state, tuple | list):
        return type(state)(_walked(part, visit) for part in state)
    return state


def _fields(state: Any) -> Iterator[tuple[str, Any]]:
    return ((name, getattr(state, name)) for name in state._fields)


def _count(form: Record, fields: Mapping[str, list[Any]], step: int | None) -> int:
    """The number of updates, as far as the state tells."""
    for field, kind in form["derived"].items():
        if kind == "count" and field in fields:
            return int(fields[field][0])
    for field, kind in form["derived"].items():
        if kind == "first" and field in fields:
            return 0 if bool(fields[field][0]) else max(step or 1, 1)
    return step or 0


def _slots(
    form: Record, fields: Mapping[str, list[Any]], tree: Tree, dtype: str, values: Mapping[str, Any]
) -> exchange.Slots:
    slots: exchange.Slots = {}
    for slot, told in form["slots"].items():
        found = fields.get(told["called"], [])
        if not found or ("needs" in told and not values.get(told["needs"], True)):
            continue
        if len(found) > 1:
            raise InvalidInput(f"The state has {len(found)} fields called {told['called']!r}; only one can be {slot}.")
        if told.get("shared"):
            slots[slot] = {"": exchange.ours(told, np.asarray(found[0], np.float64), (), "float64")}
        else:
            parts = tree.parts(found[0])
            slots[slot] = {name: exchange.ours(told, parts[name], p.shape, dtype) for name, p in tree.leaves.items()}
    return slots
