"""When a log gets a snapshot, and which gradients it may then forget.

A snapshot costs as many bytes as the state, and saves the replay of the gradients before it. So one is due after a
number of rows, or after so many bytes of gradients that the snapshots of a session cost at most half of what its
gradients do; but never more than loading should read.
"""

from __future__ import annotations

from service.settings import Settings

WORTH = 2  # a snapshot is worth so many times its bytes in gradients


def due(settings: Settings, rows: int, backlog: int, state: int) -> bool:
    """Whether a snapshot of `state` bytes is due after `rows` with `backlog` bytes of gradients."""
    if rows >= settings.snapshot_every:
        return True
    return backlog >= min(settings.replay_bytes, max(settings.kept_gradient_bytes // 4, WORTH * state))


def spared(settings: Settings) -> int:
    """Bytes of gradients below which no snapshot is due for their sake, however small the state is."""
    return min(settings.replay_bytes, settings.kept_gradient_bytes // 4)


def kept_from(settings: Settings, number: int, gradients: int, backlog: int) -> int:
    """The row whose successors' gradients are to be kept, at row `number`; the newest is always one of them.

    The bound is in bytes; how many rows that is, the last `gradients` with their `backlog` of bytes say.
    """
    if not backlog:
        return 0
    return max(0, number - max(1, settings.kept_gradient_bytes * gradients // backlog))
