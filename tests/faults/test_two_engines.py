"""Two engines on one store, and a client that asks now one and now the other, while synchronisations fail."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path
from typing import Any

from service.sessions.engine import Engine
from service.stores.sqlite import SQLiteStore
from tests.faults.story import SETTINGS, begin, living, resume
from tests.stores.disk import Disk, Kth

SEED = int(os.environ["TEST_SEED"])


class Either:
    """Any of two engines, each time it is asked for something."""

    def __init__(self, engines: tuple[Engine, Engine], rng: random.Random) -> None:
        self._engines = engines
        self._rng = rng

    def __getattr__(self, name: str) -> Any:
        return getattr(self._rng.choice(self._engines), name)


async def test_take_each_step_once_whoever_is_asked(disk: Disk, tmp_path: Path) -> None:
    print(f"TEST_SEED={SEED}")  # noqa: T201
    rng = disk.rng = random.Random(SEED)
    for k in (1 << 30, *rng.sample(range(5, 50), 12)):
        story, data = begin(tries=20), tmp_path / str(k)
        store = SQLiteStore(data)
        disk.fault = Kth("sync", k)
        async with living(store) as one:
            other = Engine(store, SETTINGS)
            await story.go_on(Either((one, other), rng))  # type: ignore[arg-type]
            await other.close()
        disk.fault = lambda operation, name: None
        await resume(story, data)
        shutil.rmtree(data)
