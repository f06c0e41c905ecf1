"""Checkpoints in files: read in pieces while they are sent, and written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from thalweg.errors import InvalidInput
from thalweg.requests import SAFETENSORS, Body, Progress

PIECE = 1 << 18  # bytes that are read at a time


class FilePieces:
    """The bytes of a file, read anew each time that they are asked for."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __iter__(self) -> Iterator[bytes]:
        with self._path.open("rb") as file:
            while piece := file.read(PIECE):
                yield piece


def body(path: str | os.PathLike[str]) -> Body:
    """A body that is a file. Raises InvalidInput where there is none."""
    file = Path(path)
    if not file.is_file():
        raise InvalidInput(f"There is no file {str(file)!r}.")
    return Body(SAFETENSORS, FilePieces(file), file.stat().st_size)


class Download:
    """A file on its way: it has its name only once all of it is on the disk."""

    def __init__(self, path: str | os.PathLike[str], progress: Progress | None) -> None:
        self.path = Path(path)
        self._part = self.path.with_name(f".{self.path.name}.{secrets.token_hex(4)}.part")
        self._progress = progress
        self._file: BinaryIO | None = None
        self._total = self._taken = 0

    def begin(self, total: int) -> None:
        """From the start, also where there was one before; 0 where nobody knows how much will come."""
        self.abandon()
        self._file = self._part.open("wb")
        self._total, self._taken = total, 0

    def take(self, chunk: bytes) -> None:
        """Write what came next."""
        assert self._file is not None
        self._file.write(chunk)
        self._taken += len(chunk)
        if self._progress is not None:
            self._progress(self._taken, max(self._total, self._taken))

    def finish(self) -> Path:
        """All is there: give the file its name."""
        assert self._file is not None
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._file = None
        self._part.replace(self.path)
        return self.path

    def abandon(self) -> None:
        """Leave nothing of what is not finished."""
        if self._file is not None:
            self._file.close()
            self._file = None
            with contextlib.suppress(FileNotFoundError):
                self._part.unlink()
