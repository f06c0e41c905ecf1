"""The short way of the WebSocket protocol does what the library does, wherever the bytes are cut."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from uvicorn.config import Config
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.frames import Frame, Opcode

from service.sockets import Socket

MOST = 70_000  # bytes of a message: more than 16 bits can say
REQUEST = (
    b"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


class Transport(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False
        self.paused = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def write(self, data: Any) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        assert not self.paused
        self.paused = True

    def resume_reading(self) -> None:
        assert self.paused
        self.paused = False


async def opened(kind: type[WebSocketsSansIOProtocol], early: bytes = b"") -> tuple[Any, Transport]:
    """A connection that has been accepted; `early` is what comes before it is."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.Event().wait()

    config = Config(app, ws_max_size=MOST, ws_per_message_deflate=False, ws_ping_interval=None, log_config=None)
    config.load()
    transport = Transport()
    connection: Any = kind(config, ServerState(), {})
    connection.connection_made(transport)
    connection.data_received(REQUEST)
    await connection.receive()  # websocket.connect
    if early:
        connection.data_received(early)
    await connection.send({"type": "websocket.accept"})
    transport.written = b""
    return connection, transport


async def closed(connection: Any) -> None:
    """End the application of a connection."""
    for task in connection.tasks:
        task.cancel()
    await asyncio.gather(*connection.tasks, return_exceptions=True)


async def outcome(kind: type[WebSocketsSansIOProtocol], pieces: list[bytes], early: bytes = b"") -> Any:
    """What becomes of bytes that come in these pieces: what the application is told, and what is written."""
    connection, transport = await opened(kind, early)
    for piece in pieces:
        if not transport.closed:  # a transport that is closed reads no more
            connection.data_received(piece)
    told = []
    while not connection.queue.empty():
        told.append({name: value for name, value in (await connection.receive()).items() if name != "reason"})
    await closed(connection)
    return told, transport.written, transport.closed, transport.paused, connection.conn.state


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    """The data in pieces."""
    places = sorted({c % (len(data) + 1) for c in cuts} | {0, len(data)})
    return [data[a:b] for a, b in pairwise(places)] or [b""]


texts = st.text(max_size=200).map(str.encode)
lengths = st.sampled_from((0, 1, 124, 125, 126, 127, 128, 65_535, 65_536, MOST, MOST + 1))
payloads = st.one_of(texts, lengths.map(lambda n: b"x" * n))
messages = st.builds(Frame, st.sampled_from((Opcode.TEXT, Opcode.BINARY)), payloads)
others = st.builds(
    Frame,
    st.sampled_from(tuple(Opcode)),
    st.one_of(texts.map(lambda text: text[:100]), st.sampled_from((b"", b"\x03\xe8", b"\x03\xe8why", b"\x00"))),
    st.booleans(),
)
masked = st.one_of(messages, messages, others).map(lambda frame: b"" if _refused(frame) else frame.serialize(mask=True))
raw = st.binary(max_size=20)
ill = st.tuples(st.integers(0, 255), st.integers(0, 255), st.binary(max_size=140)).map(
    lambda parts: bytes(parts[:2]) + parts[2]
)
frames = st.lists(masked, max_size=8)
noise = st.lists(st.one_of(texts.map(lambda text: Frame(Opcode.TEXT, text).serialize(mask=True)), raw, ill), max_size=6)
# uvicorn forgets the messages that came in one piece with a mistake: what it is compared with gets frame by frame, or
# byte by byte where nobody can say what a frame is
wire = st.one_of(frames, noise.map(lambda parts: [bytes((byte,)) for byte in b"".join(parts)]))


def _refused(frame: Frame) -> bool:
    """Whether the library would not even write it."""
    try:
        frame.check()
    except Exception:
        return True
    return False


def _utf8_end(written: bytes) -> bytes:
    """What was written before a close with 1007, whose reason is our own."""
    at = written.find(b"\x03\xef")
    return written if at < 0 else written[: at - 2]


@settings(max_examples=300, deadline=None)
@given(wire, st.lists(st.integers(0, 1 << 20), max_size=12))
def test_any_bytes_cut_anywhere_are_told_and_answered_as_by_the_library(parts: list[bytes], cuts: list[int]) -> None:
    expected = asyncio.run(outcome(WebSocketsSansIOProtocol, parts))
    found = asyncio.run(outcome(Socket, cut(b"".join(parts), cuts)))
    assert found[0] == expected[0]
    assert _utf8_end(found[1]) == _utf8_end(expected[1])
    assert found[2:] == expected[2:]


@settings(max_examples=50, deadline=None)
@given(st.lists(texts, min_size=1, max_size=4), st.lists(st.integers(1, 1 << 20), min_size=1, max_size=6))
def test_so_are_messages_that_begin_before_the_socket_is_accepted(sent: list[bytes], cuts: list[int]) -> None:
    data = b"".join(Frame(Opcode.TEXT, text).serialize(mask=True) for text in sent)
    place = 1 + cuts[0] % len(data)
    pieces = cut(data[place:], cuts[1:])
    expected = asyncio.run(outcome(WebSocketsSansIOProtocol, pieces, data[:place]))
    assert asyncio.run(outcome(Socket, pieces, data[:place])) == expected
    assert [message["text"].encode() for message in expected[0]] == sent


def test_a_frame_that_comes_byte_by_byte_is_one_message() -> None:
    data = Frame(Opcode.TEXT, b"y" * 300).serialize(mask=True) + Frame(Opcode.PING, b"p").serialize(mask=True)
    told, written, *_ = asyncio.run(outcome(Socket, [data[i : i + 1] for i in range(len(data))]))
    assert told == [{"type": "websocket.receive", "text": "y" * 300}]
    assert written == Frame(Opcode.PONG, b"p").serialize(mask=False)


@pytest.mark.parametrize("fragmented", [False, True])
def test_a_text_that_is_no_utf8_closes_with_1007_and_a_reason_and_logs_nothing(
    fragmented: bool, caplog: pytest.LogCaptureFixture
) -> None:
    bad = b"ok\xc3\x28"
    frames = [Frame(Opcode.TEXT, bad)]
    if fragmented:
        frames = [Frame(Opcode.TEXT, bad[:3], fin=False), Frame(Opcode.CONT, bad[3:])]
    first = Frame(Opcode.TEXT, b"{}")
    data = b"".join(frame.serialize(mask=True) for frame in (first, *frames, first))
    told, written, closed_, *_ = asyncio.run(outcome(Socket, [data]))
    assert told == [{"type": "websocket.receive", "text": "{}"}, {"type": "websocket.disconnect", "code": 1007}]
    assert written[2:4] == (1007).to_bytes(2, "big")
    assert b"byte 2" in written
    assert closed_
    assert not caplog.records


@settings(max_examples=50, deadline=None)
@given(st.lists(st.one_of(st.text(max_size=400), st.binary(max_size=400), lengths.map(bytes)), max_size=5))
def test_answers_are_the_bytes_that_the_library_writes(answers: list[str | bytes]) -> None:
    async def written(kind: type[WebSocketsSansIOProtocol]) -> bytes:
        connection, transport = await opened(kind)
        for answer in answers:
            key = "text" if isinstance(answer, str) else "bytes"
            await connection.send({"type": "websocket.send", key: answer})
        await connection.send({"type": "websocket.close", "code": 4404, "reason": "gone"})
        connection.close_timer.cancel()
        await closed(connection)
        return transport.written

    assert asyncio.run(written(Socket)) == asyncio.run(written(WebSocketsSansIOProtocol))


def test_what_comes_after_a_close_of_ours_is_read_to_the_clients_own() -> None:
    async def run() -> tuple[int, bool]:
        connection, transport = await opened(Socket)
        half = Frame(Opcode.TEXT, b"z" * 200).serialize(mask=True)
        connection.data_received(half[:50])
        await connection.send({"type": "websocket.close", "code": 1012, "reason": "stop"})
        connection.data_received(half[50:] + Frame(Opcode.CLOSE, b"\x03\xf4").serialize(mask=True))
        count = connection.queue.qsize()
        await closed(connection)
        return count, transport.closed

    assert asyncio.run(run()) == (1, True)  # the end that the application asked for
