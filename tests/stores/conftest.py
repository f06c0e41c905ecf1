"""The stores that the contract holds for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from service.stores.base import Store
from service.stores.memory import MemoryStore
from service.stores.sqlite import SQLiteStore
from tests.conftest import Run

MEMBERS: dict[str, Callable[[Path], Store]] = {
    "memory": lambda _: MemoryStore(),
    "sqlite": SQLiteStore,
    "sqlite that moves its journal at every write": lambda data: SQLiteStore(data, journal=1),
    "sqlite whose values are in pieces": lambda data: SQLiteStore(data, piece=3),
}


@pytest.fixture(params=MEMBERS)
def store(request: pytest.FixtureRequest, tmp_path: Path, run: Run) -> Iterator[Store]:
    """An empty store of each kind, closed at the end."""
    store = MEMBERS[request.param](tmp_path / "data")
    yield store
    store.close()
