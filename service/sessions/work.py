"""Work beside the event loop: in the engine's own threads, and behind the answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")
INLINE = 16_384  # elements of work; a step of more runs in the engine's own threads, not on the event loop


class Work:
    """What is under way in one engine.

    threads  two, for what would hold up the event loop
    pending  writes and tasks that nobody waits for; closing does
    """

    def __init__(self) -> None:
        self.threads = ThreadPoolExecutor(2, thread_name_prefix="engine")
        self.pending: set[asyncio.Future[None]] = set()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Something to be done that nobody waits for; closing does."""
        task = asyncio.ensure_future(work)
        self.pending.add(task)
        task.add_done_callback(self.pending.discard)

    async def run(self, size: int, work: Callable[[], T]) -> T:
        """Small work at once; large work in a thread, so that the event loop stays free."""
        if size <= INLINE:
            return work()
        return await self.in_thread(work)

    def in_thread(self, work: Callable[..., T], *arguments: Any) -> asyncio.Future[T]:
        """What comes of it in one of the engine's threads."""
        return asyncio.get_running_loop().run_in_executor(self.threads, work, *arguments)

    async def close(self) -> None:
        """Wait for what is pending, and let go of the threads."""
        while self.pending:
            await asyncio.wait(self.pending)
        self.threads.shutdown()
