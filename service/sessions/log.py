"""What stands in a session's log: events, their payloads, and snapshots of the fold.

An event is a small JSON object; its payload, the raw little-endian gradient in layout order, is what the fold needs
and the metrics do not, so that it may be forgotten while the event stays. A snapshot is a safetensors file of the
state, after the SHA-256 of it: what is damaged is refused.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import orjson
import safetensors
import safetensors.numpy

from service.optim.optimizer import State
from service.optim.tensors import Array, Layout

FORMAT = 1
DIGEST_BYTES = 32


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


def step_digest(values: Array, absent: tuple[int, ...], loss: float | None) -> str:
    """What makes a step the same step: its gradient as it was sent, what was absent, and the loss.

    The form on the wire, white space and what is to be returned are not part of it.
    """
    digest = hashlib.sha256(values.data)
    if absent:
        digest.update(struct.pack(f"<{len(absent)}q", *absent))
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


def pack(snapshot: Snapshot, slot_names: tuple[str, ...]) -> bytes:
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
    body = safetensors.numpy.save(tensors, {"thalweg": orjson.dumps(facts).decode()})
    return hashlib.sha256(body).digest() + body


def unpack(blob: bytes, layout: Layout) -> Snapshot:
    """The snapshot of these bytes. Raises Damaged when they are not what `pack` wrote."""
    body = blob[DIGEST_BYTES:]
    if hashlib.sha256(body).digest() != blob[:DIGEST_BYTES]:
        raise Damaged("the digest does not match")
    try:
        (length,) = struct.unpack_from("<Q", body)
        facts = orjson.loads(orjson.loads(body[8 : 8 + length])["__metadata__"]["thalweg"])
        tensors = safetensors.numpy.load(body)
    except (struct.error, ValueError, KeyError, safetensors.SafetensorError) as error:
        raise Damaged(str(error)) from None
    if facts["format"] != FORMAT:
        raise Damaged(f"format {facts['format']}, this service reads {FORMAT}")
    slots = tuple(tensors[f"slot/{name}"] for name in facts["slots"])  # safetensors keeps no order
    counts = facts["counts"]
    state = State(facts["updates"], tensors["params"], slots, counts if isinstance(counts, int) else tuple(counts))
    if any(array.shape != (layout.size,) or array.dtype != layout.dtype for array in (state.params, *slots)):
        raise Damaged("the tensors do not fit the session's layout")
    timeline = tuple((int(first), int(offset)) for first, offset in facts["timeline"])
    return Snapshot(facts["number"], facts["step"], timeline, facts["optimizer"], state)


def gradient(payload: bytes, layout: Layout) -> Array:
    """The flat gradient of a payload, read-only."""
    return np.frombuffer(payload, layout.dtype)
