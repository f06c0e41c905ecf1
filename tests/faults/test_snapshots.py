"""Snapshots in the store are cut short and have bits flipped: the state comes from the log, or there is none."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import pytest

from service.errors import Unavailable
from service.sessions.engine import Engine
from service.stores.base import Store
from service.stores.memory import MemoryStore
from tests.faults.story import SETTINGS, STEPS, begin

SEED = int(os.environ["TEST_SEED"])
IDS = ("each", "few", "none", "wide")


def damaged(blob: bytes, rng: random.Random) -> Iterator[bytes]:
    """The snapshot cut at the edges of its parts and at sectors, and with single bits flipped."""
    header = 40 + int.from_bytes(blob[32:40], "little")  # after the digest and the length of the header
    edges = {0, 1, 31, 32, 33, 39, 40, 41, header - 1, header, header + 1, header + 8, len(blob) - 8, len(blob) - 1}
    for end in sorted(edges | set(range(512, len(blob), 512))):
        yield blob[:end]
    for _ in range(24):
        at = rng.randrange(len(blob))
        yield blob[:at] + bytes([blob[at] ^ 1 << rng.randrange(8)]) + blob[at + 1 :]
    yield blob + b"\0"
    yield bytes(len(blob))


async def told() -> Store:
    """The store after the story."""
    store = MemoryStore()
    story, engine = begin(), Engine(store, SETTINGS)
    await story.go_on(engine)
    await engine.close()
    return store


def snapshots(store: Store, id: str) -> list[tuple[int, bytes]]:
    """All that are kept, the newest first."""
    found: list[tuple[int, bytes]] = []
    at_most = 1 << 30
    while (one := store.snapshot(id, at_most)) is not None:
        found.append(one)
        at_most = one[0] - 1
    return found


async def seen(store: Store, id: str) -> bool:
    """Whether a new engine can tell the session's state; it must be the right one."""
    expected = begin().clients[id].expected
    engine = Engine(store, SETTINGS)
    try:
        session = await engine.get(id)
    except Unavailable:
        return False
    finally:
        await engine.close()
    assert session.step == STEPS
    assert session.state.params.tobytes() == expected[STEPS]
    return True


@pytest.mark.parametrize("id", IDS)
async def test_that_are_damaged_never_become_a_state(id: str) -> None:
    rng = random.Random(f"{SEED} {id}")
    print(f"TEST_SEED={SEED}")  # noqa: T201
    store = await told()
    kept = snapshots(store, id)
    assert len(kept) > 1
    for number, blob in kept:
        for other in damaged(blob, rng):
            await store.keep(id, number, other, 0)
            assert await seen(store, id), "the log has what the snapshot had"
        await store.keep(id, number, blob, 0)

    for number, blob in kept[:-1]:  # from the newest on, ever more of them
        await store.keep(id, number, rng.choice(list(damaged(blob, rng))), 0)
        assert await seen(store, id)
    number, blob = kept[-1]
    for other in damaged(blob, rng):
        await store.keep(id, number, other, 0)
        assert not await seen(store, id)
    await store.keep(id, number, blob, 0)
    assert await seen(store, id)
