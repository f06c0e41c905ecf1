"""Room on the disk that is held, so that what frees room can be done when there is none left."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

MOST = 64 << 20  # bytes; what the write-ahead log may grow to, and so what moving it to the file may need
LEAST = 1 << 16


class Reserve:
    """A file of no content. At first it takes half of the room there is, at most `MOST`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._wanted = min(MOST, (self.held() + free(path.parent)) // 2)
        self.take()

    def held(self) -> int:
        """Bytes that are held now."""
        return self._path.stat().st_size if self._path.exists() else 0

    def take(self) -> None:
        """Hold as much as at first, or what there is."""
        size = min(self._wanted, self.held() + free(self._path.parent))
        while size >= LEAST:
            with contextlib.suppress(OSError):
                descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                try:
                    os.posix_fallocate(descriptor, 0, size)
                    return
                finally:
                    os.close(descriptor)
            self.give()  # a part may have been taken
            size //= 2

    def give(self) -> None:
        """Let go of it."""
        with contextlib.suppress(OSError):
            self._path.unlink()


def free(directory: Path) -> int:
    """Bytes that may still be written to a directory's disk."""
    room = os.statvfs(directory)
    return room.f_bavail * room.f_frsize
