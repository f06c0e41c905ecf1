"""Bodies on their way: large ones are sent from where they are, and received into one buffer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import httpx
import numpy as np

from thalweg.requests import BYTES, SAFETENSORS, Answer, Body, Progress
from thalweg.tensors import Piece

LARGE = 1 << 16  # bytes of a body; a larger one goes piece by piece
PIECE = 1 << 18  # bytes handed to the socket at a time


class Upload(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body on its way, in pieces that are views of it."""

    def __init__(self, body: Body, progress: Progress | None) -> None:
        self._body = body
        self._progress = progress

    def __iter__(self) -> Iterator[bytes]:
        sent = 0
        for piece in self._body.pieces:
            view = memoryview(piece)
            for start in range(0, len(view), PIECE):
                part = view[start : start + PIECE]
                yield part  # type: ignore[misc]  # what is sent need not be bytes, and a copy is saved
                sent += len(part)
                if self._progress is not None:
                    self._progress(sent, self._body.length)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self:
            yield part


class Inbox:
    """An answer on its way into one buffer of the size that it says it has, in which arrays may then be changed."""

    def __init__(self, response: httpx.Response) -> None:
        self._response = response
        self._buffer: Piece = np.empty(int(response.headers["content-length"]), np.uint8).data
        self._filled = 0

    @staticmethod
    def fits(response: httpx.Response) -> bool:
        """Whether the answer is one of numbers, whose size is known, and is still to come."""
        return response.is_success and _numbers(response) and length(response) > 0 and not response.is_stream_consumed

    def take(self, chunk: bytes) -> None:
        """Put what came next behind the rest."""
        end = self._filled + len(chunk)
        if end > len(self._buffer):
            raise httpx.RemoteProtocolError("more came than was announced")
        self._buffer[self._filled : end] = chunk  # type: ignore[index]
        self._filled = end

    def answer(self) -> Answer:
        """The answer, once all is there."""
        if self._filled < len(self._buffer):
            raise httpx.RemoteProtocolError("less came than was announced")
        return Answer(self._response.status_code, self._response.headers, self._buffer)


def whole(response: httpx.Response) -> Answer:
    """An answer that httpx has read; numbers in a copy, so that they may be changed."""
    content: Piece = response.content
    if _numbers(response):
        content = memoryview(bytearray(content))
    return Answer(response.status_code, response.headers, content)


def length(response: httpx.Response) -> int:
    """The bytes that an answer has; 0 where nobody knows before they are here."""
    size = response.headers.get("content-length", "")
    return int(size) if size.isdecimal() and "content-encoding" not in response.headers else 0


def _numbers(response: httpx.Response) -> bool:
    form: str = response.headers.get("content-type", "")
    return form.startswith((SAFETENSORS, BYTES))
