"""A session's state as one file, to be kept, moved and read anywhere: safetensors that describe themselves.

    params/layer.weight             the parameters, each in its shape
    slots/first_moment/layer.weight a slot of the optimizer, likewise, where it has a part for each parameter
    slots/best                      a slot that is one array for all

A single array without a name is `params`, its slots `slots/first_moment`. `__metadata__` holds JSON texts:
`checkpoint`, the version of this form; `thalweg`, the release that wrote it; `optimizer`, `transforms` and `groups`,
resolved; `layout`, `step`, `updates` and `counts`; `session`, what else the session was created with; and `digest`.

The digest is the SHA-256 of the metadata and of each tensor's name, dtype, shape and bytes, all in the order of their
names, so that a file still is what it was when another program has put its tensors in another order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service import __version__
from service.errors import Invalid
from service.optim.hyperparameters import escape
from service.optim.optimizer import Optimizer
from service.optim.state import State
from service.optim.tensors import DTYPES, Array, Layout, all_finite
from service.sessions.aggregation import MAX_WORKERS, Plan
from service.sessions.log import Snapshot
from service.sessions.session import DURABILITY, Session, bind
from service.sessions.timeline import beginning
from service.wire import safetensors
from service.wire.json import dumps
from service.wire.safetensors import File, Tensor

VERSION = 1
KINDS = {DTYPES["float64"]: "F64", DTYPES["float32"]: "F32"}
CHOSEN = ("id", "labels", "durability", "ttl_seconds")  # what whoever sends a checkpoint may say about the session

ENTRY_BYTES = 80  # what the header has of a tensor besides its name and shape, at most
OTHER_BYTES = 1 << 20  # what it has besides tensors, specification and layout, at most: labels for the most part

Count = Annotated[int, Field(ge=0, lt=1 << 53)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Layout(_Strict):
    names: list[str]
    shapes: list[list[Count]]
    dtype: Literal["float64", "float32"]
    named: bool


class _Plan(_Strict):
    workers: int = Field(ge=1, le=MAX_WORKERS)
    mode: Literal["mean", "sum"]
    timeout_seconds: float = Field(gt=0)
    quorum: int = Field(ge=1)


class _Head(_Strict):
    non_finite: Literal["reject", "skip", "zero"]
    durability: str = Field(pattern=DURABILITY)
    labels: dict[str, str]
    aggregate: _Plan | None = None


class _Facts(_Strict):
    """The metadata of a checkpoint."""

    checkpoint: int
    thalweg: str
    optimizer: dict[str, Any]
    transforms: list[Any]
    groups: list[Any]
    layout: _Layout
    step: Count
    updates: Count
    counts: Count | list[Count]
    session: _Head


class Restoration(NamedTuple):
    """A session to be made of a checkpoint: its head, but for times and titles, and where it stands."""

    head: dict[str, Any]
    first: Snapshot


def pack(session: Session) -> list[bytes | memoryview]:
    """The file, in pieces: the header, and the arrays where they lie."""
    head, state = session.head, session.state
    kept: dict[str, Any] = {
        key: head[key] for key in ("non_finite", "durability", "labels", "aggregate") if key in head
    }
    facts = {
        "checkpoint": VERSION,
        "thalweg": __version__,
        **session.optimizer.as_json(),
        "layout": session.layout.as_json(),
        "step": session.step,
        "updates": state.step,
        "counts": state.counts,
        "session": kept,
    }
    arrays = [np.ascontiguousarray(array) for array in (state.params, *state.slots)]
    metadata = {key: dumps(value).decode() for key, value in facts.items()}
    tensors: dict[str, Tensor] = {}
    end = 0
    for name, shape, dtype in _parts(session.optimizer):
        start, end = end, end + int(np.prod(shape, dtype=object)) * dtype.itemsize
        tensors[name] = Tensor(KINDS[dtype], shape, start, end)
    chunks = [array.view(np.uint8).data for array in arrays]
    metadata["digest"] = dumps(_digest(metadata, tensors, _stretches(chunks))).decode()
    entries: dict[str, Any] = {safetensors.METADATA: metadata}
    entries |= {
        name: {"dtype": t.kind, "shape": t.shape, "data_offsets": (t.start, t.stop)} for name, t in tensors.items()
    }
    text = orjson.dumps(entries)
    text += b" " * (-len(text) % safetensors.ALIGNMENT)
    return [len(text).to_bytes(8, "little") + text, *chunks]


def check_header(optimizer: Optimizer) -> None:
    """Raises Invalid where a checkpoint would have a longer header than is read, so that none is made in vain."""
    facts = dumps({**optimizer.as_json(), "layout": optimizer.layout.as_json()})
    tensors = [len(dumps(name)) + len(dumps(shape)) + ENTRY_BYTES for name, shape, _ in _parts(optimizer)]
    size = len(dumps(facts.decode())) + sum(tensors) + OTHER_BYTES  # the facts are a text in it
    if size > safetensors.MAX_CREATION_HEADER_BYTES:
        raise Invalid(
            f"The parameters' names and shapes, with the specification, would take {size} bytes of a checkpoint's "
            f"header, of which {safetensors.MAX_CREATION_HEADER_BYTES} are read. Send fewer, larger arrays.",
            pointer="/params",
        )


def recognised(file: File) -> bool:
    """Whether a file says that it is a checkpoint."""
    return "checkpoint" in file.metadata


def chosen(file: File) -> dict[str, Any]:
    """What the sender says about the session in the metadata. Raises Invalid with a pointer."""
    mine = {key: text for key, text in file.metadata.items() if key in CHOSEN}
    return safetensors.fields(file._replace(metadata=mine))


def restore(file: File, changes: Mapping[str, Any]) -> Restoration:
    """What a checkpoint holds. `changes` are other labels, durability or time to live.

    Raises Invalid with the reason: another version, damaged, something missing or left over.
    """
    metadata = {key: text for key, text in file.metadata.items() if key not in CHOSEN}
    fields = safetensors.fields(file._replace(metadata=metadata))
    version = fields["checkpoint"]
    if version != VERSION:
        shown = version if type(version) is int else "another"
        raise Invalid(
            f"This checkpoint has format {shown}, this service reads {VERSION}; use a release that reads it.",
            pointer="/checkpoint",
        )
    digest = fields.pop("digest", None)
    covered = {key: metadata[key] for key in fields}
    if digest != _digest(covered, file.tensors, lambda t: [file.data[t.start : t.stop]]):
        raise Invalid(
            "The checkpoint is damaged: its digest does not match its contents; read it anew.", pointer="/digest"
        )
    try:
        facts = _Facts.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        pointer = "".join(f"/{escape(str(part))}" for part in first["loc"])
        raise Invalid(
            f"The checkpoint's metadata are not as a service writes them: {first['msg']}.", pointer=pointer
        ) from None
    layout = _layout(facts.layout, file)
    resolved = {"optimizer": facts.optimizer, "transforms": facts.transforms, "groups": facts.groups}
    optimizer = bind(resolved, layout)
    check_header(optimizer)
    params, *slots = _arrays(file, optimizer)
    if not all_finite(params):
        raise Invalid("The checkpoint's params hold numbers that are not finite.", pointer="/params")
    counts = facts.counts if isinstance(facts.counts, int) else tuple(facts.counts)
    if isinstance(counts, tuple) and len(counts) != len(layout.names):
        raise Invalid("counts has one number for each parameter, or is one for all.", pointer="/counts")
    state = State(facts.updates, params, tuple(slots), counts)
    head = {"layout": layout.as_json(), "ttl_seconds": None, **facts.session.model_dump(exclude_none=True)}
    if facts.session.aggregate is not None:
        head["aggregate"] = Plan(**facts.session.aggregate.model_dump())._asdict()
    head |= {"begins": facts.step, **changes}
    return Restoration(head, Snapshot(0, facts.step, beginning(facts.step), optimizer.as_json(), state))


def _parts(optimizer: Optimizer) -> list[tuple[str, tuple[int, ...], np.dtype[Any]]]:
    """Name, shape and dtype of each tensor in the file, in the order of the state's arrays."""
    layout = optimizer.layout
    found = [(_name("params", n), s, layout.dtype) for n, s in zip(layout.names, layout.shapes, strict=True)]
    for place in optimizer.places:
        owners = layout.names if place.of_tensors else ("",)
        for name, shape in zip(owners, place.shapes, strict=True):
            found.append((_name(f"slots/{place.name}", name), tuple(shape), place.dtype))
    return found


def _name(what: str, parameter: str) -> str:
    return f"{what}/{parameter}" if parameter else what


def _stretches(chunks: list[memoryview]) -> Any:
    """A function from a tensor to its bytes, where the data are in several pieces; none reaches across two."""
    ends = np.cumsum([len(chunk) for chunk in chunks]).tolist()

    def find(tensor: Tensor) -> list[memoryview]:
        if tensor.start == tensor.stop:
            return []
        i = int(np.searchsorted(ends, tensor.start, side="right"))
        begin = ends[i] - len(chunks[i])
        return [chunks[i][tensor.start - begin : tensor.stop - begin]]

    return find


def _digest(metadata: Mapping[str, str], tensors: Mapping[str, Tensor], bytes_of: Any) -> str:
    digest = hashlib.sha256(orjson.dumps(sorted(metadata.items())))
    for name, tensor in sorted(tensors.items()):
        digest.update(orjson.dumps([name, tensor.kind, tensor.shape]))
        for piece in bytes_of(tensor):
            digest.update(piece)
    return digest.hexdigest()


def _layout(given: _Layout, file: File) -> Layout:
    """The layout, whose parameters must be there in their shapes before anything of that size is made."""
    names = given.names
    if len(set(names)) != len(names) or len(given.shapes) != len(names) or not names or (given.named is ("" in names)):
        raise Invalid("The layout has a name and a shape for each parameter.", pointer="/layout")
    layout = Layout(tuple(names), tuple(map(tuple, given.shapes)), DTYPES[given.dtype], given.named)
    for name, shape in zip(layout.names, layout.shapes, strict=True):
        _check(file, _name("params", name), shape, layout.dtype)
    return layout


def _arrays(file: File, optimizer: Optimizer) -> list[Array]:
    """The flat arrays of the state. Raises Invalid: a tensor that is missing, is another, or is left over."""
    parts = _parts(optimizer)
    stray = file.tensors.keys() - {name for name, _, _ in parts}
    if stray:
        name = min(stray)
        raise Invalid(f"The optimizer keeps no {name[:80]!r}.", pointer=f"/{escape(name[:256])}")
    found = {name: _check(file, name, shape, dtype) for name, shape, dtype in parts}
    values = iter(found.values())
    sizes = [len(optimizer.layout.names), *(len(place.shapes) for place in optimizer.places)]
    return [np.concatenate([next(values) for _ in range(size)]) for size in sizes]


def _check(file: File, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """The numbers of a tensor, which must be there in this shape and dtype, flat."""
    tensor = file.tensors.get(name)
    if tensor is None:
        raise Invalid(f"The checkpoint has no tensor {name[:80]!r}.", pointer=f"/{escape(name[:256])}")
    if tensor.shape != shape or tensor.kind != KINDS[dtype]:
        raise Invalid(
            f"Expected {KINDS[dtype]} of shape {list(shape)}, found {tensor.kind} of shape {list(tensor.shape)}.",
            pointer=f"/{escape(name[:256])}",
        )
    return np.frombuffer(file.data[tensor.start : tensor.stop], dtype)
