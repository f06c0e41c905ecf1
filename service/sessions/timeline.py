"""Where the steps of a session stand in its log.

Rows are only ever added; steps, patches and rewinds each take one. The living line is what a session is made of: the
steps that no rewind took back. A timeline maps its steps to their rows, as (first step, offset) pairs in ascending
order: step s stands in row s + offset, by the last pair whose first step is at most s. The first pair's first step is
the one after that with which the session began: 1, or more for one that continues another.
"""

from __future__ import annotations

from collections.abc import Iterator

Timeline = tuple[tuple[int, int], ...]


def beginning(step: int) -> Timeline:
    """The timeline of a session that begins after a step, with an empty log."""
    return ((step + 1, -step),)


def begins(timeline: Timeline) -> int:
    """The step with which the session began."""
    return timeline[0][0] - 1


def row_of(timeline: Timeline, step: int) -> int:
    """The number of the row in which a step stands, or the next one will; above the step it began with."""
    return step + next(offset for first, offset in reversed(timeline) if first <= step)


def row_before_next(timeline: Timeline, step: int) -> int:
    """The last row of a step: its own, or that of a patch or rewind between it and the next."""
    return row_of(timeline, step + 1) - 1


def turned(timeline: Timeline, step: int, number: int) -> Timeline:
    """The timeline after row `number`, which is no step and leaves the session at `step`."""
    return (*(pair for pair in timeline if pair[0] <= step), (step + 1, number - step))


def stretches(timeline: Timeline, first: int, last: int) -> Iterator[tuple[int, int, int]]:
    """The steps `first` ... `last`, as (first step, last step, offset) of each stretch of adjoining rows."""
    ends = [*(pair[0] - 1 for pair in timeline[1:]), last]
    for (start, offset), end in zip(timeline, ends, strict=True):
        if max(start, first) <= min(end, last):
            yield max(start, first), min(end, last), offset


def oldest(timeline: Timeline, last: int, row: int) -> int:
    """The first step whose last row is at or after `row`; `last`, the newest, if there is none."""
    for start, end, offset in stretches(timeline, begins(timeline) + 1, last):
        if row < end + offset:
            return max(start, row + 1 - offset) - 1
    return last
