"""torch: a session's state in torch.optim's own form and back, and an optimizer whose steps a session takes.

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    optimizer.load_state_dict(thalweg.torch.export_state(session))     # goes on there
    session = thalweg.torch.import_state(client, optimizer, model)     # goes on here

    optimizer = thalweg.torch.Optimizer(model.named_parameters(), client, {"like": "torch.optim.AdamW", "lr": 1e-3})

torch is imported when one of these is used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from thalweg import exchange
from thalweg.client import Client, Session
from thalweg.errors import InvalidInput
from thalweg.exchange import Kept, Values
from thalweg.requests import Record
from thalweg.tensors import Array

DIALECT = "torch"

if TYPE_CHECKING:
    from thalweg.training import Optimizer

__all__ = ["Optimizer", "export_state", "import_state"]


def __getattr__(name: str) -> Any:
    if name == "Optimizer":  # it derives from torch's, which importing this module must not need
        exchange.library("torch")
        from thalweg.training import Optimizer

        return Optimizer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def export_state(
    session: Session, step: int | None = None, groups: Sequence[Sequence[str]] | None = None
) -> dict[str, Any]:
    """The state of a session as the `state_dict` that the optimizer of its class in torch loads.

    The parameters are numbered in the session's order; those whose hyperparameters agree are one group, unless
    `groups` names the parameters of each group of the optimizer that is to load it. The parameters themselves are in
    `session.params`. A schedule stays behind: its present value is what the group holds, and torch keeps schedules
    in schedulers. `step` is the newest unless said otherwise.

    Raises InvalidInput, saying why, for a session that has no such class in torch or keeps more than the class does;
    Misuse without torch; NotFound, Gone.
    """
    form, kept = exchange.leave(session, DIALECT, step)
    values_of = exchange.current(session, kept)
    torch = exchange.library("torch")
    made = getattr(torch.optim, form["like"].rpartition(".")[2])
    numbers: dict[str, int] = {}
    listed = []
    for names in _groups(kept, values_of) if groups is None else groups:
        different = {repr(sorted(values_of(name).items())) for name in names}
        if len(different) != 1 or not set(names) <= set(kept.names):
            raise InvalidInput(f"A group of torch's has names of this session, and the same options for all: {names}.")
        arguments = exchange.arguments_of(form, values_of(names[0]))
        # an optimizer of this class says what else a group holds
        (group,) = made([torch.nn.Parameter(torch.zeros(1, 1))], **arguments).state_dict()["param_groups"]
        numbers |= {name: len(numbers) + i for i, name in enumerate(names)}
        listed.append({**group, "params": [numbers[name] for name in names]})
    if len(numbers) != len(kept.names) or sum(len(group["params"]) for group in listed) != len(kept.names):
        raise InvalidInput("The groups have every parameter of the session, each once.")
    state = {
        numbers[name]: _state(torch, form, kept, i, values_of(name))
        for i, name in enumerate(kept.names)
        if kept.counts[i] or form.get("at_once")
    }
    return {"state": {number: held for number, held in sorted(state.items()) if held}, "param_groups": listed}


def _groups(kept: Kept, values_of: Any) -> list[list[str]]:
    found: dict[str, list[str]] = {}
    for name in kept.names:
        found.setdefault(repr(sorted(values_of(name).items())), []).append(name)
    return list(found.values())


def _state(torch: Any, form: Record, kept: Kept, i: int, values: Values) -> dict[str, Any]:
    name, shape, count = kept.names[i], kept.shapes[i], kept.counts[i]
    wide = torch.get_default_dtype() == torch.float64
    found: dict[str, Any] = {}
    for key, kind in form["derived"].items():
        value = exchange.derived(kind, count, values)
        if kind == "count":  # as torch keeps it: in single precision, unless doubles are its default
            value = torch.tensor(float(value), dtype=torch.float64 if wide else torch.float32)
        elif kind != "whole_count":
            value = torch.tensor(value, dtype=getattr(torch, kept.dtype))
        found[key] = value
    for slot, parts in kept.slots.items():
        told = form["slots"][slot]
        if exchange.fits(told, shape):
            found[told["called"]] = torch.from_numpy(np.array(exchange.theirs(told, parts[name])))
    return found


def import_state(
    client: Client,
    optimizer: Any,
    params: Any = None,
    *,
    id: str | None = None,
    step: int | None = None,
    durability: str | None = None,
    ttl_seconds: float | None = None,
    labels: Mapping[str, str] | None = None,
) -> Session:
    """A session that goes on from where an optimizer of torch.optim stands.

    `params` gives the names: a module, or pairs of name and parameter; without it the optimizer must have been made
    from named parameters. Its groups become groups of the session. `step` is the number of the last step that was
    taken; by default it is what the optimizer counted, which torch's SGD and Muon do not. The rest is as for
    `client.load`.

    Raises InvalidInput, saying why, for an optimizer that the service has not, for parameters of several dtypes, and
    for names that are missing; Invalid for what the service refuses.
    """
    torch = exchange.library("torch")
    name = type(optimizer).__name__
    if getattr(torch.optim, name, None) is not type(optimizer):
        raise InvalidInput(f"{type(optimizer).__module__}.{name} is no class of torch.optim, whose state is known.")
    path = f"torch.optim.{name}"
    form = exchange.form_of(exchange.entry(client, path), DIALECT)
    names = parameter_names(optimizer.param_groups, params)
    params = {names[p]: _array(p) for group in optimizer.param_groups for p in group["params"]}
    held = [
        {key: value for key, value in optimizer.state.get(p, {}).items() if value is not None}
        for group in optimizer.param_groups
        for p in group["params"]
    ]
    counts = [_count(form, state) for state in held]
    specification, overrides = _specification(form, path, optimizer.param_groups, names)
    options: Record = {"durability": durability, "ttl_seconds": ttl_seconds, "labels": labels}
    dtype = exchange.dtype_of(params)
    if not any(held) and not step:
        return client.sessions.create(specification, params, id=id, dtype=dtype, groups=overrides, **options)
    if "step" not in form["derived"] and step:
        counts = [step if state or not any(held) else 0 for state in held]
    kept = Kept(
        optimizer=specification,
        names=tuple(params),
        shapes=tuple(array.shape for array in params.values()),
        dtype=dtype,
        step=max(counts) if step is None else step,
        updates=max(counts),
        counts=tuple(counts),
        params=params,
        slots=_slots(form, params, held, dtype, _values(form, optimizer.param_groups)),
        groups=overrides,
    )
    return exchange.enter(client, kept, id, **options)


def parameter_names(groups: Sequence[Mapping[str, Any]], params: Any = None) -> dict[Any, str]:
    """The name of each parameter in torch's groups. Raises InvalidInput for one without, and for two with the same."""
    if params is not None:
        found = params.named_parameters() if hasattr(params, "named_parameters") else params
        named = {p: name for name, p in (found.items() if isinstance(found, Mapping) else found)}
    else:
        pairs = (zip(group["params"], group["param_names"], strict=True) for group in groups if "param_names" in group)
        named = dict(chain.from_iterable(pairs))
    moved = [p for group in groups for p in group["params"]]
    if any(p not in named for p in moved):
        raise InvalidInput("A parameter of the optimizer has no name; give the module, or its named_parameters().")
    if len({named[p] for p in moved}) != len(moved):
        raise InvalidInput("Two parameters of the optimizer have the same name.")
    return {p: named[p] for p in moved}


def _array(tensor: Any) -> Array:
    if tensor.is_complex() or str(tensor.dtype) not in ("torch.float32", "torch.float64"):
        raise InvalidInput(f"The parameters of a session are float64 or float32, not {tensor.dtype}.")
    array: Array = tensor.detach().cpu().numpy().copy()
    return array


def _count(form: Record, state: Mapping[str, Any]) -> int:
    """The updates of a parameter; where torch does not count them, whether there was any."""
    return int(state["step"]) if "step" in state else int(bool(state) and "step" not in form["derived"])


def _values(form: Record, groups: Sequence[Mapping[str, Any]]) -> list[Values]:
    """The hyperparameters of each parameter."""
    return [exchange.values_of(form, group) for group in groups for _ in group["params"]]


def _specification(
    form: Record, path: str, groups: Sequence[Mapping[str, Any]], names: Mapping[Any, str]
) -> tuple[Record, list[Record]]:
    """The optimizer in torch's words, after the first group, and what is different for the parameters of the others."""
    first = groups[0]
    said = {
        key: [exchange.plain(item) for item in first[key]] if told.get("list") else exchange.plain(first[key])
        for key, told in form["arguments"].items()
        if key in first
    }
    base = exchange.values_of(form, first)
    overrides = []
    for group in groups[1:]:
        values = exchange.values_of(form, group)
        different = {key: value for key, value in values.items() if value != base[key]}
        if different:
            overrides += [{"match": exchange.matching(names[p]), **different} for p in group["params"]]
    return {"like": path, **said}, overrides


def _slots(
    form: Record,
    params: Mapping[str, Array],
    held: Sequence[Mapping[str, Any]],
    dtype: str,
    values: Sequence[Values],
) -> exchange.Slots:
    known = {key for state in held for key in state}
    slots: exchange.Slots = {}
    for slot, told in form["slots"].items():
        if told["called"] in known:
            parts = zip(params.items(), held, values, strict=True)
            slots[slot] = {name: _part(told, p, state, dtype, mine) for (name, p), state, mine in parts}
    return slots


def _part(told: Record, param: Array, state: Mapping[str, Any], dtype: str, values: Values) -> Array:
    if told["called"] in state:
        return exchange.ours(told, state[told["called"]].detach().cpu().numpy(), param.shape, dtype)
    if not exchange.fits(told, param.shape):
        return exchange.empty(dtype)
    if "axes" in told:
        raise InvalidInput("A parameter has no state yet; take one step with a gradient for each, then move.")
    starts = told.get("starts", 0.0)
    return np.full(param.shape, values[starts] if isinstance(starts, str) else starts, param.dtype)
