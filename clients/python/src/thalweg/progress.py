"""How far a long upload or download is: told to a function, or shown as one line."""

from __future__ import annotations

import sys
import time
from typing import TextIO

from thalweg.requests import Progress

PAUSE = 0.1  # seconds between two lines
MB = 1e6


def chosen(progress: Progress | bool | None) -> Progress | None:
    """What is told of the bytes: the caller's function; for True a `Bar`; for None and False nobody."""
    if isinstance(progress, bool) or progress is None:
        return Bar() if progress else None
    return progress


class Bar:
    """One line on standard error (or `stream`), written over itself: how much of how many megabytes, and how fast."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._begun = time.monotonic()
        self._shown = 0.0

    def __call__(self, sent: int, total: int) -> None:
        """Show it, at most ten times a second, and the last time for good."""
        now, done = time.monotonic(), sent >= total
        if not done and now - self._shown < PAUSE:
            return
        self._shown = now
        rate = sent / MB / max(now - self._begun, 1e-9)
        share = 100 * sent // total if total else 100
        self._stream.write(f"\r{share:3d} %  {sent / MB:.1f} of {total / MB:.1f} MB  {rate:.1f} MB/s " + "\n" * done)
        self._stream.flush()
