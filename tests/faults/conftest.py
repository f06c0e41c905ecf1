"""A disk that fails on demand, under a store whose log and journal are moved to their places every few commits."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from service.stores import reserve, schema, sqlite, writer
from tests.faults import story
from tests.stores.disk import Disk, plugged


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """The service says of each failure what it thinks; thousands of times it would hide everything else."""
    logging.disable(logging.ERROR)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture
def small_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints, groups that the thread begins and values in pieces, also in a short story."""
    pragmas = [pragma for pragma in schema.PRAGMAS if not pragma.startswith("wal_autocheckpoint")]
    monkeypatch.setattr(schema, "PRAGMAS", (*pragmas, "wal_autocheckpoint = 12"))
    monkeypatch.setattr(writer, "LARGE", story.LARGE)
    monkeypatch.setattr(sqlite.SQLiteStore.__init__, "__defaults__", (story.JOURNALED, story.PIECE))
    monkeypatch.setattr(reserve, "MOST", reserve.LEAST)


@pytest.fixture
def disk(small_store: None) -> Iterator[Disk]:
    with plugged() as disk:
        yield disk
