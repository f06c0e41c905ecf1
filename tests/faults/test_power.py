"""The power is cut before every single operation on the disk, in a story of a few sessions.

What was written and not synchronised is lost: all of it, none of it, or any sectors.
"""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import apsw
import pytest

from service.stores.base import Row
from service.stores.schema import SCHEMA_VERSION
from service.stores.sqlite import SQLiteStore
from tests.faults.story import Story, begin, living, resume
from tests.stores.disk import Disk
from tests.stores.test_expiry import OLD

SEED = int(os.environ["TEST_SEED"])
SHARES = (0.0, 0.5, 0.5, 0.9, 1.0)


async def test_a_power_cut_at_any_moment_takes_nothing_that_was_promised(disk: Disk, tmp_path: Path) -> None:
    rng = random.Random(SEED)
    print(f"TEST_SEED={SEED}")  # noqa: T201
    images: list[tuple[Story, Path]] = []
    story = begin()

    def fault(operation: str, name: str) -> None:
        if operation in ("write", "sync", "truncate", "delete"):
            image = tmp_path / str(len(images))
            disk.cut(image, rng, rng.choice(SHARES))
            images.append((story.copy(), image))

    disk.fault = fault
    async with living(SQLiteStore(tmp_path / "data")) as engine:
        await story.go_on(engine)
    disk.fault = lambda operation, name: None
    assert len(images) > 200
    for known, image in images:
        await resume(known, image)
        shutil.rmtree(image)
    assert sum(known.lost for known, _ in images) > 0, "no cut took anything; it tries nothing"


@pytest.mark.parametrize("there", ["nothing", "a file of the first version"])
def test_a_start_that_is_cut_off_anywhere_is_made_good_by_the_next(disk: Disk, tmp_path: Path, there: str) -> None:
    """By a kill, which keeps all that was written, or by a power cut; at the first start or where tables change."""
    rng = random.Random(SEED)
    print(f"TEST_SEED={SEED}")  # noqa: T201
    data = tmp_path / "data"
    data.mkdir()
    if there != "nothing":
        connection = apsw.Connection(str(data / "thalweg.sqlite"))
        connection.execute(OLD)
        connection.close()
    images: list[Path] = []

    def fault(operation: str, name: str) -> None:
        for share in (rng.choice(SHARES), 1.0):
            images.append(tmp_path / str(len(images)))
            disk.cut(images[-1], rng, share)

    disk.fault = fault
    SQLiteStore(data).close()
    disk.fault = lambda operation, name: None
    assert len(images) > 20
    for image in images:
        store = SQLiteStore(image)
        assert store._reader().pragma("integrity_check") == "ok"
        assert store._reader().pragma("user_version") == SCHEMA_VERSION
        assert store.count() == (0 if there == "nothing" else 2)
        assert store.rows("a", 0, 9) == ([] if there == "nothing" else [Row(1, b"e", b"p"), Row(2, b"f", None)])
        store.close()
