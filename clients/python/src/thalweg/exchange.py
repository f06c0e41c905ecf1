"""Sessions to and from what a library keeps itself: what torch, optax and Keras have in common here.

A session's checkpoint holds the optimizer's slots under the service's names. The catalogue entry of the optimizer says
under `exchange` what each library calls them, so that no table of names stands in this client.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from thalweg import catalogue, safetensors, sessions, text
from thalweg.client import Client, Session
from thalweg.errors import InvalidInput, Misuse, UnexpectedAnswer
from thalweg.requests import Answer, Call, Record, member
from thalweg.tensors import DTYPES, Array, stored
from thalweg.version import __version__

VERSION = 1  # of the form of checkpoints that is read and written here
Values = Mapping[str, Any]
Slots = dict[str, dict[str, Array]]
"""By slot, the array of each parameter that has one; under "" the one that is for all."""


@dataclass(frozen=True)
class Kept:
    """A session's state, as its checkpoint has it.

    optimizer  its specification: in ours resolved, in one that is to be sent in any words that the service takes
    names      of the parameters, in order; a single array without a name is called ""
    counts     the updates of each parameter
    """

    optimizer: Record
    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtype: str
    step: int
    updates: int
    counts: tuple[int, ...]
    params: Mapping[str, Array]
    slots: Slots
    groups: Sequence[Record] = ()
    strange: Sequence[str] = ()  # tensors of the file that the form does not know

    def values(self, name: str) -> Values:
        """The hyperparameters of a parameter, those of its groups among them."""
        found = {key: value for key, value in self.optimizer.items() if key not in ("name", "dialect")}
        for group in self.groups:
            if fnmatchcase(name, group["match"]):
                found |= {key: value for key, value in group.items() if key not in ("match", "frozen")}
        return found


def library(name: str) -> Any:
    """A library that only these functions need. Raises Misuse where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise Misuse(f"This needs {name}, which cannot be imported: {error}.") from error


# The mapping


def entry(client: Client, name: str) -> Record:
    """The catalogue entry of an optimizer, by the service's name or by a library's class path. Raises NotFound."""
    return client._sender.send(catalogue.optimizer(name))


def form_of(told: Record, dialect: str) -> Record:
    """What a catalogue entry says of one library. Raises InvalidInput with the reason where nothing can be moved."""
    form: Record | None = told.get("exchange", {}).get(dialect)
    if form is None:
        raise InvalidInput(f"{told['name']} is not in {dialect}, so that its state cannot move to or from there.")
    if "stays" in form:
        raise InvalidInput(f"The state of {told['name']} cannot be moved to or from {dialect}: {form['stays']}.")
    return form


def values_of(form: Record, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Our hyperparameters for a class's own arguments; what is not one of them is left out."""
    found: dict[str, Any] = {}
    for name, told in form["arguments"].items():
        if name not in arguments:
            continue
        value = arguments[name]
        if value is None and "null" in told:
            value = told["null"]
        items = value if told.get("list") else [value]
        found |= dict(zip(told["is"], map(plain, items), strict=True))
    return found


def arguments_of(form: Record, values: Values) -> dict[str, Any]:
    """The class's own arguments for our hyperparameters. Raises InvalidInput for what the class cannot be told."""
    for name, only in form["unsaid"].items():
        if values.get(name, only) != only:
            raise InvalidInput(f"{form['like']} knows no {name}; it is as with {name}={only!r}.")
    found: dict[str, Any] = dict(form["fixed"])
    for name, told in form["arguments"].items():
        items = [values[ours] for ours in told["is"]]
        if any(isinstance(item, Mapping) for item in items):
            raise InvalidInput(f"A group follows a schedule for {told['is'][0]}, for which {form['like']} has no word.")
        value = tuple(items) if told.get("list") else items[0]
        found[name] = None if "null" in told and value == told["null"] else value
    return found


def plain(value: Any) -> Any:
    """A hyperparameter as a number, a text or a list: libraries keep some as arrays of one element."""
    if isinstance(value, bool | int | float | str) or value is None:
        return value
    if isinstance(value, Sequence):
        return [plain(item) for item in value]
    return value.item()


def derived(kind: str, count: int, values: Values) -> Any:
    """What follows from the number of updates. Raises UnexpectedAnswer for what only a newer client knows."""
    if kind in ("count", "whole_count"):
        return count
    if kind == "first":
        return count == 0
    if kind == "averaging_share":
        return 1.0 / max(1.0, count - values["averaging_start"])
    if kind == "momentum_product":
        return math.prod(values["beta1"] * (1.0 - 0.5 * 0.96**i) for i in range(1, count + 1))
    raise UnexpectedAnswer(f"The service speaks of state of the kind {kind!r}, which a newer client may know.")


def fits(told: Record, shape: tuple[int, ...]) -> bool:
    """Whether a parameter of this shape has such a slot."""
    least, most = told.get("axes", (0, 64))
    return bool(least <= len(shape) <= most)


# Out


def leave(session: Session, dialect: str, step: int | None) -> tuple[Record, Kept]:
    """The mapping and the state of a session, whose dialect must be this one. Raises InvalidInput, NotFound, Gone."""
    optimizer = session.info["optimizer"]
    if optimizer["dialect"] != dialect:
        raise InvalidInput(
            f"This session follows the dialect {optimizer['dialect']!r}, which is another optimizer than "
            f"{dialect}'s; only a session in the dialect {dialect!r} can go on there."
        )
    told = session._sender.send(catalogue.optimizer(optimizer["name"]))
    form = form_of(told, dialect)

    def parse(answer: Answer) -> Kept:
        return _read(answer, form)

    kept = session._sender.send(Call(sessions.checkpoint(session.id, step), parse))
    if kept.strange:
        raise InvalidInput(f"{form['like']} has no place for {kept.strange[0]!r}, which this session keeps.")
    return form, kept


def _read(answer: Answer, form: Record) -> Kept:
    fields, tensors = safetensors.parse(answer.content)
    if fields.get("checkpoint") != VERSION:
        raise UnexpectedAnswer(f"The checkpoint has another form than {VERSION}; a newer client may read it.")
    layout, counts = member(fields, "layout"), member(fields, "counts")
    names = tuple(layout["names"])
    left = dict(tensors)
    params = {name: left.pop(_key("params", name)) for name in names}
    slots: Slots = {}
    for slot, told in form["slots"].items():
        owners = ("",) if told.get("shared") else names
        keys = {name: _key(f"slots/{slot}", name) for name in owners}
        if all(key in left for key in keys.values()):
            slots[slot] = {name: left.pop(key) for name, key in keys.items()}
    return Kept(
        optimizer=member(fields, "optimizer"),
        names=names,
        shapes=tuple(map(tuple, layout["shapes"])),
        dtype=layout["dtype"],
        step=fields["step"],
        updates=fields["updates"],
        counts=tuple(counts) if isinstance(counts, list) else (counts,) * len(names),
        params=params,
        slots=slots,
        groups=fields["groups"],
        strange=sorted(left),
    )


def current(session: Session, kept: Kept) -> Callable[[str], Values]:
    """The hyperparameters of a parameter with numbers in the place of schedules, of which a library's optimizer holds
    the present value alone."""
    if not any(isinstance(value, Mapping) for value in kept.optimizer.values()):
        return kept.values
    now = session._sender.send(sessions.get(session.id))
    if now["step"] != kept.step:
        raise InvalidInput("This session follows a schedule, whose value is known for its newest step only.")
    numbers = {**kept.optimizer, **now["hyperparameters"]}
    return replace(kept, optimizer=numbers).values


def theirs(told: Record, array: Array) -> Array:
    """A slot of ours as the library has it: a copy, or one number for all."""
    scaled = array * array.dtype.type(told["times"]) if "times" in told else array.copy()
    return scaled.reshape(-1)[0] if told.get("number") and array.size else scaled


def ours(told: Record, array: Array, shape: tuple[int, ...], dtype: str) -> Array:
    """A slot of the library's as we have it, for a parameter of this shape."""
    found = np.asarray(array, DTYPES.get(dtype, np.float64))
    if told.get("number"):
        found = np.full(shape, found.reshape(()))
    return found / found.dtype.type(told["times"]) if "times" in told else found


def empty(dtype: str) -> Array:
    """What ours holds for a parameter that has no such slot."""
    return np.zeros(0, DTYPES.get(dtype, np.float64))


# In


def dtype_of(params: Mapping[str, Array]) -> str:
    """The one dtype of all parameters. Raises InvalidInput for two, and for one that sessions do not have."""
    kinds = {str(array.dtype) for array in params.values()}
    if len(kinds) != 1 or not kinds <= {"float64", "float32"}:
        raise InvalidInput(
            f"The parameters of a session are all float64 or all float32; these are {', '.join(sorted(kinds))}."
        )
    return kinds.pop()


def enter(client: Client, kept: Kept, id: str | None, **options: Any) -> Session:
    """A session that goes on from a state: it is sent as a checkpoint. Raises Invalid, and what `Client.load` does."""
    tensors = {_key("params", name): array for name, array in kept.params.items()}
    for slot, parts in kept.slots.items():
        tensors |= {_key(f"slots/{slot}", name): array for name, array in parts.items()}
    arrays = {name: stored(array) for name, array in tensors.items()}
    fields: Record = {
        "checkpoint": VERSION,
        "thalweg": __version__,
        "optimizer": kept.optimizer,
        "transforms": [],
        "groups": list(kept.groups),
        "layout": {
            "names": kept.names,
            "shapes": kept.shapes,
            "dtype": kept.dtype,
            "named": kept.names != ("",),
        },
        "step": kept.step,
        "updates": kept.updates,
        "counts": kept.counts[0] if len(set(kept.counts)) == 1 else kept.counts,
        "session": {"non_finite": "reject", "durability": "step", "labels": {}},
    }
    fields["digest"] = _digest({name: text.write(value).decode() for name, value in fields.items()}, arrays)
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "checkpoint.safetensors"
        with file.open("wb") as opened:
            opened.writelines(safetensors.write(arrays, fields))
        return client.load(file, id=id, **options)


def _digest(metadata: Mapping[str, str], arrays: Mapping[str, Array]) -> str:
    """The SHA-256 of the metadata and of each tensor, both in the order of their names."""
    digest = hashlib.sha256(_json(sorted(metadata.items())))
    for name, array in sorted(arrays.items()):
        digest.update(_json([name, {8: "F64", 4: "F32"}[array.dtype.itemsize], array.shape]))
        digest.update(array.tobytes())
    return digest.hexdigest()


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _key(what: str, name: str) -> str:
    return f"{what}/{name}" if name else what


def matching(name: str) -> str:
    """A pattern that matches this name alone."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)
