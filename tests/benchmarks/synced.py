"""The least that a durable HTTP service can do: the echo, which before it answers writes the body and calls fsync."""

from __future__ import annotations

import os
import tempfile
from typing import Any

from tests.benchmarks import echo

file, path = tempfile.mkstemp()
os.unlink(path)


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Echo one request; its bytes are on the disk."""

    async def written() -> Any:
        message = await receive()
        if body := message.get("body"):
            os.write(file, body)
            os.fsync(file)
        return message

    await echo.app(scope, written, send)
