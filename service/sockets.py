"""uvicorn's WebSocket protocol, with a short way for the frames that a stream of steps is made of.

A message is nearly always one small frame: whole, masked, not compressed. Such frames are taken apart here, and written
here; every other one is handed to the library, whole, so that it always stands between two frames and has the same
state as if it had seen all of them. A frame of this kind changes none of it.
"""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Opcode
from websockets.protocol import State

try:  # as the library does; its own form in C is not installed everywhere
    from websockets.speedups import apply_mask
except ImportError:  # pragma: no cover
    from websockets.utils import apply_mask

TEXT, BINARY = 0x81, 0x82  # first byte of a frame that is a whole message
MASKED = 0x80  # in the second byte, beside the length
OPCODES = frozenset(Opcode)
INVALID = 1007  # close code, RFC 6455
END = b"\r\n\r\n"  # of the request


class Socket(WebSocketsSansIOProtocol):
    """One connection."""

    _partial = b""  # the beginning of a frame of the short way, or of a header
    _owed = 0  # bytes that the library has still to get of the frame it is reading
    _direct = False  # whether it is known where frames begin: nothing came between the request and its answer

    def data_received(self, data: bytes) -> None:
        if self.conn.state is State.CONNECTING:
            asked = self.handshake_initiated
            super().data_received(data)
            self._direct = not asked and self.handshake_initiated and data.find(END) == len(data) - len(END)
            return
        if self._partial:
            data, self._partial = self._partial + data, b""
        at = 0
        if self._owed:
            at = min(self._owed, len(data))
            self._owed -= at
            super().data_received(data[:at])
        while self._direct and at < len(data) and self.conn.state is State.OPEN:
            stop = self._message(data, at) or self._other(data, at)
            if not stop:
                self._partial = data[at:]
                return
            at = stop
        if at < len(data) and not self.transport.is_closing():
            super().data_received(data[at:])

    def _message(self, data: bytes, at: int) -> int:
        """Take the small message that begins at a place; where it ends, 0 if there is none or not all of it."""
        left = len(data) - at
        if left < 6 or data[at] not in (TEXT, BINARY):
            return 0
        length, start = data[at + 1] - MASKED, at + 6
        if length == 126:
            length, start = int.from_bytes(data[at + 2 : at + 4], "big"), at + 8
        elif not 0 <= length < 126:
            return 0
        stop = start + length
        if stop > len(data) or length > self._most or self.conn.current_size is not None:
            return 0
        payload = apply_mask(data[start:stop], data[start - 4 : start])
        self.curr_msg_data_type = "text" if data[at] == TEXT else "bytes"
        self.frames = [payload]
        self.send_receive_event_to_app()
        return stop

    def _other(self, data: bytes, at: int) -> int:
        """Hand the frame that begins at a place to the library; where it ends, or the data. 0 while that is not known.

        What is small enough for the short way waits until it is all there.
        """
        left = len(data) - at
        if left < 2:
            return 0
        length = data[at + 1] - MASKED
        if length < 0 or data[at] & 0x0F not in OPCODES:  # the library refuses it at sight
            super().data_received(data[at:])
            return len(data)
        size = 0 if length < 126 else 2 if length == 126 else 8
        if left < 2 + size:
            return 0
        if size:
            length = int.from_bytes(data[at + 2 : at + 2 + size], "big")
        stop = at + 2 + size + 4 + length
        small = size < 8 and length <= self._most and data[at] in (TEXT, BINARY) and self.conn.current_size is None
        if small and stop > len(data):
            return 0
        self._owed = max(0, stop - len(data))
        super().data_received(data[at:stop])
        return min(stop, len(data))

    @property
    def _most(self) -> int:
        """The longest message."""
        return self.config.ws_max_size

    def send_receive_event_to_app(self) -> None:
        """A text that is not UTF-8 ends the connection: it is the client's mistake, not one to be logged here."""
        if self.curr_msg_data_type == "text" and not self.close_sent:
            try:
                text = b"".join(self.frames).decode()
            except UnicodeDecodeError as error:
                self.frames = []
                self.conn.send_close(INVALID, f"A text must be UTF-8, and byte {error.start} of this one is not.")
                self.handle_parser_exception()
                return
            self.frames = []
            self.queue.put_nowait({"type": "websocket.receive", "text": text})
            if not self.read_paused:
                self.read_paused = True
                self.transport.pause_reading()
            return
        super().send_receive_event_to_app()

    async def send(self, message: Any) -> None:
        """A small message is written as one frame; a refusal in HTTP is no mistake of the application to be logged."""
        if message["type"] == "websocket.send" and self._goes() and (body := _body(message)) is not None:
            first, payload = body
            length = len(payload)
            head = bytes((first, length)) if length < 126 else bytes((first, 126)) + length.to_bytes(2, "big")
            self.transport.write(head + payload)
            return
        await super().send(message)
        if message["type"] == "websocket.http.response.body":
            self.handshake_complete = True

    def _goes(self) -> bool:
        """Whether what is sent goes out now."""
        is_open = self.conn.state is State.OPEN and not self.disconnected
        return is_open and not self.close_sent and self.writable.is_set()


def _body(message: Any) -> tuple[int, bytes] | None:
    """The first byte of a frame and its payload; None for a large one."""
    data = message.get("bytes")
    first, payload = (TEXT, message["text"].encode()) if data is None else (BINARY, data)
    return (first, payload) if len(payload) < 1 << 16 else None
