"""What is left of a session that was deleted or has expired: why, when, and how a list shows it."""

from __future__ import annotations

from typing import Any

from service.errors import Gone
from service.sessions import log

_SHOWN = ("created", "labels", "optimizer")


def tombstone(head: dict[str, Any], state: str, step: int, now: float) -> bytes:
    """The word that is left of a session; `state` is "deleted" or "expired"."""
    return log.encode({"state": state, "time": now, "step": step} | {key: head[key] for key in _SHOWN})


def gone(id: str, left: bytes) -> Gone:
    """The error for an erased session, by its tombstone (empty where an early release left none)."""
    if left and log.decode(left)["state"] == "expired":
        return Gone(f"The session {id} has expired, and its id cannot be used again; create a new one.")
    return Gone(f"The session {id} was deleted, and its id cannot be used again; create a new one.")
