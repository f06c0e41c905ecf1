"""The list of sessions, those that live and those that are gone: from the store, without loading any."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from service.sessions import log
from service.sessions.live import Live
from service.stores.base import Store


class Listed(NamedTuple):
    """A session in a list; `head` is its tombstone where it is gone, `updated` None where that says nothing."""

    id: str
    state: str
    head: dict[str, Any]
    step: int
    updated: float | None


def heads(
    store: Store, live: Live, before: int | None, limit: int, labels: Sequence[tuple[str, str]], state: str = "active"
) -> tuple[list[Listed], int | None]:
    """Sessions in a state, newest first, that carry all the labels, and the cursor to go on from."""
    found: list[Listed] = []
    erased = state != "active"
    heads = store.heads(before, max(limit, 1000) if labels or erased else limit, erased)
    for cursor, id, raw in heads:
        shown = _listed(store, live, id, raw, erased)
        if shown.state == state and all(shown.head["labels"].get(key) == value for key, value in labels):
            found.append(shown)
        before = cursor
        if len(found) == limit:
            break
    more = bool(heads) and bool(store.heads(before, 1, erased))
    return found, before if more else None


def _listed(store: Store, live: Live, id: str, raw: bytes, erased: bool) -> Listed:
    if erased:
        left: dict[str, Any] = log.decode(raw) if raw else {"state": "deleted", "labels": {}}
        return Listed(id, left["state"], left, left.get("step", 0), left.get("time"))
    head = log.decode(raw)
    last = store.last(id)
    event = log.decode(last.event) if last else {}
    updated = event.get("time", head["created"])
    step = event.get("step", begins_with(head))
    return Listed(id, "expired" if live.expired(head, updated) else "active", head, step, updated)


def begins_with(head: dict[str, Any]) -> int:
    """The step with which a session began."""
    return int(head.get("parent", {}).get("step", head.get("begins", 0)))
