"""A disk that SQLite believes in: it counts what is synchronised, fails on demand, and forgets at a power cut."""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw

SECTOR = 512


class Disk(apsw.VFS):
    """SQLite's default file system while it is `plugged`, on top of the real one.

    syncs       how often each file was synchronised
    fault       called with "write" or "sync" and the file's name before it is done; it may raise
    """

    def __init__(self) -> None:
        self.syncs: Counter[str] = Counter()
        self.fault: Callable[[str, str], None] = lambda operation, name: None
        self._durable: dict[str, bytearray] = {}
        self._pending: dict[str, list[tuple[int, bytes]]] = {}
        super().__init__("disk", "unix", makedefault=True)

    def xOpen(self, name: apsw.URIFilename | str | None, flags: list[int]) -> apsw.VFSFile:
        return _File(self, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:
        super().xDelete(filename, syncdir)
        self._durable.pop(Path(filename).name, None)
        self._pending.pop(Path(filename).name, None)

    def unsynced(self, name: str) -> int:
        """Bytes of a file that a power cut may take."""
        return sum(len(data) for _, data in self._pending.get(name, ()))

    def cut(self, directory: Path, rng: random.Random) -> None:
        """The files as a power cut leaves them: what was synchronised, and of the rest any sectors."""
        directory.mkdir()
        for name in self._durable.keys() | self._pending.keys():
            content = bytearray(self._durable.get(name, b""))
            for offset, data in self._pending.get(name, ()):
                for start in range(offset - offset % SECTOR, offset + len(data), SECTOR):
                    if rng.random() < 0.5:
                        low, high = max(start, offset), min(start + SECTOR, offset + len(data))
                        _put(content, low, data[low - offset : high - offset])
            (directory / name).write_bytes(content)

    def _written(self, name: str, data: bytes, offset: int) -> None:
        self.fault("write", name)
        self._pending.setdefault(name, []).append((offset, bytes(data)))

    def _truncated(self, name: str, size: int) -> None:
        # as if synchronised: shrinking is not what is tried here
        self._synced(name)
        del self._durable[name][size:]

    def _synced(self, name: str) -> None:
        content = self._durable.setdefault(name, bytearray())
        for offset, data in self._pending.pop(name, ()):
            _put(content, offset, data)


class _File(apsw.VFSFile):
    def __init__(self, disk: Disk, name: apsw.URIFilename | str | None, flags: list[int]) -> None:
        self._disk = disk
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        self._name = Path(path).name if path else ""
        super().__init__("unix", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:
        self._disk._written(self._name, data, offset)
        super().xWrite(data, offset)

    def xTruncate(self, newsize: int) -> None:
        super().xTruncate(newsize)
        self._disk._truncated(self._name, newsize)

    def xSync(self, flags: int) -> None:
        self._disk.fault("sync", self._name)
        super().xSync(flags)
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
