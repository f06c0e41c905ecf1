"""Every operation on the disk fails once, and every synchronisation for good, in a story of a few sessions.

Each time: nothing that was acknowledged is lost, nothing is taken twice, and the story comes to the same end, bit for
bit, when it goes on, when the process is killed there, and when the power is cut there.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import shutil
from collections import Counter
from pathlib import Path

import apsw
import pytest

from service.stores.schema import UnsuitableStore
from service.stores.sqlite import SQLiteStore
from tests.faults.story import GaveUp, Story, begin, living, resume
from tests.stores.disk import Disk, Kth

SEED = int(os.environ["TEST_SEED"])


async def attempt(story: Story, data: Path, faults: list[Kth], passing: bool = True) -> None:
    """The story until its end, or until the service refuses for good; a start that fails is made again."""
    try:
        store = SQLiteStore(data)
    except UnsuitableStore:
        assert any(fault.name for fault in faults)
        return
    async with living(store) as engine:
        try:
            await story.go_on(engine)
        except GaveUp:
            assert not store.writable()
            raise
        while passing and not store.writable():  # asking is what finds out
            await asyncio.sleep(0.001)


class Images:
    """The files, and what the clients knew, when somebody was first told of a failure, and again a little later.

    Later is worse: a system that took the pages of a failed synchronisation for clean would have lost them by then.
    """

    def __init__(self, disk: Disk, fault: Kth, story: Story, data: Path, to: Path) -> None:
        self.taken: list[tuple[Story, Path]] = []
        self._calls = 0
        self._disk, self._fault, self._story, self._data, self._to = disk, fault, story, data, to
        story.witness = self

    def __call__(self) -> None:
        self._calls += bool(self._fault.name)
        if self._calls not in (1, 3):
            return
        image = self._to / f"cut {self._calls}"
        with self._disk.lock:
            self._disk.cut(image)
            self.taken.append((self._story.copy(), image))
            if self._calls == 1:
                self.taken.append((self._story.copy(), shutil.copytree(self._data, self._to / "killed")))


def count(disk: Disk) -> Counter[str]:
    """Counts the disk's operations from now on."""
    seen: Counter[str] = Counter()
    disk.fault = lambda operation, name: seen.update([operation])
    return seen


def quiet(operation: str, name: str) -> None:
    """No fault."""


async def undisturbed(disk: Disk, data: Path) -> Counter[str]:
    """How many operations of each kind the story takes."""
    seen = count(disk)
    story = begin()
    await attempt(story, data, [])
    disk.fault = quiet
    assert story.refused == 0
    return seen


@pytest.mark.parametrize("operation", ["sync", "truncate", "delete", "open"])
async def test_any_one_that_fails_loses_nothing(disk: Disk, tmp_path: Path, operation: str) -> None:
    disk.rng = random.Random(SEED)
    refused = 0
    for k in itertools.count(1):
        directory = tmp_path / str(k)
        directory.mkdir()
        story, data = begin(), directory / "data"
        disk.fault = fault = Kth(operation, k)
        images = Images(disk, fault, story, data, directory)
        await attempt(story, data, [fault])
        disk.fault = quiet
        if not fault.name:
            break
        await resume(story, data)
        for known, image in images.taken:
            await resume(known, image)
        refused += bool(story.refused)
        shutil.rmtree(directory)
    fewest, told = {"sync": (40, 20), "truncate": (5, 1), "delete": (2, 0), "open": (5, 1)}[operation]
    assert k > fewest
    assert refused >= told, "hardly anybody was told of a failure"


async def test_any_synchronisation_that_fails_for_good_is_admitted_and_survived(disk: Disk, tmp_path: Path) -> None:
    disk.rng = random.Random(SEED)
    for k in itertools.count(1):
        story, data = begin(tries=1), tmp_path / str(k)
        disk.fault = fault = Kth("sync", k, times=1 << 30)
        with contextlib.suppress(GaveUp):
            await attempt(story, data, [fault], passing=False)
        disk.fault = quiet
        if not fault.name:
            break
        await resume(story, data)
        shutil.rmtree(data)
    assert k > 40


async def test_any_write_that_fails_loses_nothing(disk: Disk, tmp_path: Path) -> None:
    """Each write fails twice over the runs: once for want of room, once for an error of the medium."""
    disk.rng = random.Random(SEED)
    writes = (await undisturbed(disk, tmp_path / "undisturbed"))["write"]
    assert writes > 200
    for k in range(1, writes + 1):
        story, data = begin(), tmp_path / str(k)
        full = Kth("write", k, error=apsw.FullError)
        broken = Kth("write", (k + writes // 2) % writes + 1)

        def fault(operation: str, name: str, full: Kth = full, broken: Kth = broken) -> None:
            full(operation, name)
            broken(operation, name)

        disk.fault = fault
        await attempt(story, data, [full, broken])
        disk.fault = quiet
        await resume(story, data)
        shutil.rmtree(data)
