"""What stands in a session's log: events, their payloads, and snapshots of the fold.

An event is a small JSON object; its payload, the raw little-endian gradient in layout order, is what the fold needs
and the metrics do not, so that it may be forgotten while the event stays. Of a tensor whose gradient came by rows the
payload has these rows only; all their numbers stand before the gradient, as 64-bit integers, and how many there are of
which tensor is in the event. A snapshot is a safetensors file of the
state, after the SHA-256 of it: what is damaged is refused.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import orjson

from service.optim.blocks import LARGE
from service.optim.optimizer import Rows
from service.optim.state import State
from service.optim.tensors import Array, Layout
from service.stores.base import Payload
from service.wire.safetensors import ALIGNMENT

FORMAT = 1
DIGEST_BYTES = 32
_LENGTH = struct.Struct("<Q")  # of the header of a safetensors file
_STORED: dict[str, np.dtype[Any]] = {"F64": np.dtype("<f8"), "F32": np.dtype("<f4")}  # what a state is made of
NO_ROWS: Rows = MappingProxyType({})


class Damaged(Exception):
    """A snapshot that is not what was written."""


class Snapshot(NamedTuple):
    """A session after row `number`: all that the fold needs to go on.

    step        the session's step count
    timeline    (first step, offset) pairs: step s stands in row s + offset, by the last pair with first step <= s
    optimizer   the resolved specification with transforms and groups, patches included
    """

    number: int
    step: int
    timeline: tuple[tuple[int, int], ...]
    optimizer: dict[str, Any]
    state: State


def step_digest(values: Array, absent: tuple[int, ...], loss: float | None, rows: Rows = NO_ROWS) -> str:
    """What makes a step the same step: its gradient as it was sent, what was absent, which rows it had, and the loss.

    The form on the wire, white space, the order of rows and what is to be returned are not part of it.
    """
    digest = hashlib.sha256(values.data)
    if absent:
        digest.update(struct.pack(f"<{len(absent)}q", *absent))
    for i, those in rows.items():
        digest.update(struct.pack("<d2q", math.nan, i, len(those)) + those.astype("<i8").tobytes())
    if loss is not None:
        digest.update(struct.pack("<2d", math.nan, loss))  # the NaN keeps it apart from a list of the absent
    return digest.hexdigest()[:32]


def encode(event: Mapping[str, Any]) -> bytes:
    """The bytes of an event."""
    return orjson.dumps(event)


def decode(event: bytes) -> dict[str, Any]:
    """The event of these bytes."""
    value: dict[str, Any] = orjson.loads(event)
    return value


def pack(snapshot: Snapshot, slot_names: tuple[str, ...]) -> Payload:
    """The bytes of a snapshot."""
    state = snapshot.state
    tensors = {"params": state.params} | {f"slot/{n}": s for n, s in zip(slot_names, state.slots, strict=True)}
    facts = {
        "format": FORMAT,
        "number": snapshot.number,
        "step": snapshot.step,
        "timeline": snapshot.timeline,
        "optimizer": snapshot.optimizer,
        "slots": slot_names,
        "updates": state.step,
        "counts": state.counts,
    }
    entries: dict[str, Any] = {"__metadata__": {"thalweg": orjson.dumps(facts).decode()}}
    end = 0
    for name, array in tensors.items():
        start, end = end, end + array.nbytes
        kind = "F64" if array.dtype == _STORED["F64"] else "F32"
        entries[name] = {"dtype": kind, "shape": array.shape, "data_offsets": (start, end)}
    text = orjson.dumps(entries)
    text += b" " * (-len(text) % ALIGNMENT)
    pieces: list[Payload] = [_LENGTH.pack(len(text)) + text]
    pieces += [np.ascontiguousarray(array).view(np.uint8).data for array in tensors.values()]
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return _joined([digest.digest(), *pieces], end)


def _joined(pieces: list[Payload], size: int) -> Payload:
    """The pieces in one, about `size` bytes; many are moved without holding up other threads."""
    if size < LARGE:
        return b"".join(pieces)
    whole = np.empty(sum(map(len, pieces)), np.uint8)
    at = 0
    for piece in pieces:
        whole[at : at + len(piece)] = np.frombuffer(piece, np.uint8)
        at += len(piece)
    return whole.data


def unpack(blob: Payload, layout: Layout) -> Snapshot:
    """The snapshot of these bytes. Raises Damaged when they are not what `pack` wrote."""
    body = memoryview(blob)[DIGEST_BYTES:]
    if hashlib.sha256(body).digest() != blob[:DIGEST_BYTES]:
        raise Damaged("the digest does not match")
    try:
        (length,) = _LENGTH.unpack_from(body)
        entries = orjson.loads(body[_LENGTH.size : _LENGTH.size + length])
        facts = orjson.loads(entries["__metadata__"]["thalweg"])
        data = body[_LENGTH.size + length :]
        params, *slots = (_array(data, entries[name]) for name in ("params", *map("slot/{}".format, facts["slots"])))
    except (struct.error, ValueError, TypeError, KeyError) as error:
        raise Damaged(str(error)) from None
    if facts["format"] != FORMAT:
        raise Damaged(f"format {facts['format']}, this service reads {FORMAT}")
    if params.shape != (layout.size,) or params.dtype != layout.dtype:
        raise Damaged("the tensors do not fit the session's layout")
    counts = facts["counts"]
    state = State(facts["updates"], params, tuple(slots), counts if isinstance(counts, int) else tuple(counts))
    timeline = tuple((int(first), int(offset)) for first, offset in facts["timeline"])
    return Snapshot(facts["number"], facts["step"], timeline, facts["optimizer"], state)


def _array(data: memoryview, entry: dict[str, Any]) -> Array:
    """A copy of one tensor of a safetensors file, which may be written to."""
    start, stop = entry["data_offsets"]
    return np.ndarray(entry["shape"], _STORED[entry["dtype"]], data[start:stop]).copy()


def payload(values: Array, layout: Layout, rows: Rows) -> Payload:
    """The bytes of a flat gradient, of which some tensors have these rows only; a large one's are not copied."""
    if not rows:
        return values.tobytes() if values.size < LARGE else np.ascontiguousarray(values).view(np.uint8).data
    parts = [those.astype("<i8").tobytes() for those in rows.values()]
    for i, (where, shape) in enumerate(zip(layout.slices, layout.shapes, strict=True)):
        part = values[where]
        parts.append((part.reshape(shape)[rows[i]] if i in rows else part).tobytes())
    return b"".join(parts)


def gradient(payload: Payload, layout: Layout, counts: Sequence[tuple[int, int]] = ()) -> tuple[Array, Rows]:
    """The flat gradient of a payload, read-only, and its rows; `counts` are (tensor, number of rows) pairs."""
    if not counts:
        return np.frombuffer(payload, layout.dtype), {}
    rows, at = {}, 0
    for i, count in counts:
        rows[i] = np.frombuffer(payload, "<i8", count, at)
        at += 8 * count
    values = np.zeros(layout.size, layout.dtype)
    for i, (where, shape) in enumerate(zip(layout.slices, layout.shapes, strict=True)):
        part = values[where].reshape(shape)  # a view
        which: Any = rows.get(i, ...)
        wanted = part[which]
        found = np.frombuffer(payload, layout.dtype, wanted.size, at).reshape(wanted.shape)
        part[which] = found
        at += found.nbytes
    return values, rows
