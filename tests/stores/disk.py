"""A disk that SQLite believes in: it counts what is synchronised, fails on demand, and forgets at a power cut."""

from __future__ import annotations

import contextlib
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import apsw

SECTOR = 512
OPERATIONS = ("open", "write", "sync", "truncate", "delete")


class Disk(apsw.VFS):
    """SQLite's default file system until it is unregistered, on top of the real one.

    What is in the directory `holds` is on the medium.

    syncs       how often each file was synchronised
    fault       called with one of OPERATIONS and the file's name before it is done; it may raise
    room        called with the bytes that a file is about to grow by; it may raise
    rng         decides which sectors reach the medium when a synchronisation fails or the power is cut

    After a synchronisation that failed, a system may believe that the pages are clean: any of them is on the medium,
    and a later synchronisation that succeeds says nothing of the others. So it is here.
    """

    def __init__(self, holds: Path | None = None) -> None:
        self.syncs: Counter[str] = Counter()
        self.fault: Callable[[str, str], None] = lambda operation, name: None
        self.room: Callable[[int], None] = lambda growth: None
        self.rng = random.Random(0)
        self.lock = threading.RLock()  # held by each operation, and by whoever wants to see the files between two
        self._durable = {file.name: bytearray(file.read_bytes()) for file in (holds.iterdir() if holds else ())}
        self._pending: dict[str, list[tuple[int, bytes]]] = {}
        super().__init__("disk", "unix", makedefault=True)

    def xOpen(self, name: apsw.URIFilename | str | None, flags: list[int]) -> apsw.VFSFile:
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        self.fault("open", Path(path).name if path else "")
        return _File(self, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:
        with self.lock:
            self.fault("delete", Path(filename).name)
            super().xDelete(filename, syncdir)
            self._durable.pop(Path(filename).name, None)
            self._pending.pop(Path(filename).name, None)

    def unsynced(self, name: str) -> int:
        """Bytes of a file that a power cut may take."""
        return sum(len(data) for _, data in self._pending.get(name, ()))

    def cut(self, directory: Path, rng: random.Random | None = None, share: float = 0.5) -> None:
        """The files as a power cut leaves them: what was synchronised, and of the rest this share of the sectors."""
        directory.mkdir()
        with self.lock:
            for name in self._durable.keys() | self._pending.keys():
                content = bytearray(self._durable.get(name, b""))
                self._scatter(content, self._pending.get(name, ()), rng or self.rng, share)
                (directory / name).write_bytes(content)

    def _scatter(
        self, content: bytearray, writes: Iterable[tuple[int, bytes]], rng: random.Random, share: float
    ) -> None:
        """Some sectors of these writes reach the medium."""
        for offset, data in writes:
            for start in range(offset - offset % SECTOR, offset + len(data), SECTOR):
                if rng.random() < share:
                    low, high = max(start, offset), min(start + SECTOR, offset + len(data))
                    _put(content, low, data[low - offset : high - offset])

    def _written(self, name: str, data: bytes, offset: int) -> None:
        self._pending.setdefault(name, []).append((offset, bytes(data)))

    def _truncated(self, name: str, size: int) -> None:
        # as if synchronised: shrinking is not what is tried here
        self._synced(name)
        del self._durable[name][size:]

    def _synced(self, name: str) -> None:
        content = self._durable.setdefault(name, bytearray())
        for offset, data in self._pending.pop(name, ()):
            _put(content, offset, data)

    def _not_synced(self, name: str) -> None:
        content = self._durable.setdefault(name, bytearray())
        self._scatter(content, self._pending.pop(name, ()), self.rng, 0.5)


class _File(apsw.VFSFile):
    def __init__(self, disk: Disk, name: apsw.URIFilename | str | None, flags: list[int]) -> None:
        self._disk = disk
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        self._name = Path(path).name if path else ""
        super().__init__("unix", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:
        with self._disk.lock:
            self._disk.fault("write", self._name)
            if (growth := offset + len(data) - self.xFileSize()) > 0:
                self._disk.room(growth)
            super().xWrite(data, offset)
            self._disk._written(self._name, data, offset)

    def xTruncate(self, newsize: int) -> None:
        with self._disk.lock:
            self._disk.fault("truncate", self._name)
            super().xTruncate(newsize)
            self._disk._truncated(self._name, newsize)

    def xSync(self, flags: int) -> None:
        with self._disk.lock:
            try:
                self._disk.fault("sync", self._name)  # that is all: what a power cut would leave is kept in the disk
            except apsw.Error:
                self._disk._not_synced(self._name)
                raise
            self._disk.syncs[self._name] += 1
            self._disk._synced(self._name)


def _put(content: bytearray, offset: int, data: bytes) -> None:
    if len(content) < offset + len(data):
        content.extend(bytes(offset + len(data) - len(content)))
    content[offset : offset + len(data)] = data


@contextlib.contextmanager
def plugged() -> Iterator[Disk]:
    """A disk that files opened from now on lie on."""
    disk = Disk()
    try:
        yield disk
    finally:
        disk.unregister()


def failing(operation: str, name: str, times: int = 1 << 30) -> Callable[[str, str], None]:
    """A fault: the next so many operations of this kind on this file fail."""
    left = times

    def fault(at: str, on: str) -> None:
        nonlocal left
        if (at, on) == (operation, name) and left > 0:
            left -= 1
            raise apsw.IOError(f"{operation} of {name} failed, as it was told to")

    return fault


class Kth:
    """A fault: the k-th operation of a kind, over all files, fails, and so do those after it until `times` have."""

    def __init__(self, operation: str, k: int, times: int = 1, error: type[apsw.Error] = apsw.IOError) -> None:
        self.name = ""  # the file, once it happened
        self._operation = operation
        self._left = k
        self._times = times
        self._error = error

    def __call__(self, operation: str, name: str) -> None:
        if operation != self._operation:
            return
        self._left -= 1
        if -self._times < self._left <= 0:
            self.name = self.name or name
            raise self._error(f"{operation} of {name} failed, as it was told to")
