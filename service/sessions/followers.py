"""Who follows a session: told when there is something new in its log, and reading it from there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

SHARED = 64  # rows; whoever is further behind reads by itself

Page = list[tuple[int, dict[str, Any]]]  # rows' numbers and what is told of them


class Followers:
    """An event for each follower of each session; none for sessions that nobody follows."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._pages: dict[str, dict[int, Page]] = {}

    def page(self, id: str, after: int, read: Callable[[str, int], Page]) -> Page:
        """What stands above a row, read once for all who have come as far, until there is something new."""
        known = self._pages.setdefault(id, {})
        page = known.get(after)
        if page is None:
            page = read(id, after)
            if len(page) <= SHARED:
                known[after] = page
        return page

    def tell(self, id: str) -> None:
        """There is something new: rows that are durable, or the session's end."""
        self._pages.pop(id, None)
        for news in self._waiting.get(id, ()):
            news.set()

    def tell_all(self) -> None:
        """Wake everybody, because the service stops."""
        for id in self._waiting:
            self.tell(id)

    @contextmanager
    def watch(self, id: str) -> Iterator[asyncio.Event]:
        """An event that is set at each news of a session."""
        news = asyncio.Event()
        self._waiting.setdefault(id, set()).add(news)
        try:
            yield news
        finally:
            self._waiting[id].discard(news)
            if not self._waiting[id]:
                del self._waiting[id]
                self._pages.pop(id, None)
