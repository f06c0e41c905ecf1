"""Load for the gRPC peer: unary calls, 64 under way.

    python -m tests.benchmarks.grpc_client 50051 4 64

A client made of grpc.aio takes 120 to 140 µs a step, nearly as much as the server that it measures. This one takes 30
to 60: it speaks as much of HTTP/2 as a unary call needs, with the requests made beforehand. (wrk, which loads the HTTP
services, takes 12 to 25.) The sessions are created, and an answer of each is looked at, through grpc itself. It prints
RESULT with the steps, the µs, p50 and p99 (ms) and failures.
"""

from __future__ import annotations

import selectors
import socket
import statistics
import struct
import sys
import time

from tests.benchmarks.grpc_server import SERVICE, messages
from tests.benchmarks.serving import GRADIENTS, SESSIONS, TEN

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RESET, SETTINGS, PING, AWAY, WINDOW = 0, 1, 3, 4, 6, 7, 8  # RFC 9113, section 6
END_STREAM, END_HEADERS, ACK = 0x1, 0x4, 0x1


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """A frame of HTTP/2 (RFC 9113, section 4.1)."""
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def headers(path: str, authority: str) -> bytes:
    """A request's header section; each field a literal that is not indexed (RFC 7541, section 6.2.2)."""
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": authority,
        "te": "trailers",
        "content-type": "application/grpc",
        "user-agent": "load",
    }
    return b"".join(
        b"\0" + bytes((len(name),)) + name.encode() + bytes((len(value),)) + value.encode()
        for name, value in fields.items()
    )


class Connection:
    """Some streams at a time on one connection; a stream that is answered is followed by another.

    `taken` are the seconds of the calls that were answered, `failed` counts the others.
    """

    def __init__(self, port: int, bodies: list[bytes]) -> None:
        self.taken: list[float] = []
        self.failed = 0
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._head = headers(f"/{SERVICE}/Step", f"127.0.0.1:{port}")
        self._bodies = bodies
        self._next = 1  # client's streams are odd
        self._sent: dict[int, tuple[float, int]] = {}  # by stream: when, and which body
        self._answered: set[int] = set()  # streams that gave a message
        self._rest = b""
        self._out = [PREFACE, frame(SETTINGS, 0, 0, b""), frame(WINDOW, 0, 0, struct.pack(">I", 1 << 30))]
        for which in range(len(bodies)):
            self._ask(which)
        self._send()

    def _ask(self, which: int) -> None:
        stream, self._next = self._next, self._next + 2
        self._out += (
            frame(HEADERS, END_HEADERS, stream, self._head),
            frame(DATA, END_STREAM, stream, self._bodies[which]),
        )
        self._sent[stream] = time.perf_counter(), which

    def _send(self) -> None:
        if self._out:
            self.socket.sendall(b"".join(self._out))
            self._out.clear()

    def receive(self) -> None:
        """Read what is there, and ask again for each call that is over. Raises ConnectionError."""
        received = self.socket.recv(1 << 18)
        if not received:
            raise ConnectionError("the server closed the connection")
        data, at = self._rest + received, 0
        while at + 9 <= len(data):
            end = at + 9 + (data[at] << 16 | data[at + 1] << 8 | data[at + 2])
            if end > len(data):
                break
            self._frame(data[at + 3], data[at + 4], int.from_bytes(data[at + 5 : at + 9], "big"), data[at + 9 : end])
            at = end
        self._rest = data[at:]
        self._send()

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == DATA and payload:
            self._answered.add(stream)
        elif kind == RESET or (kind == HEADERS and flags & END_STREAM):
            sent, which = self._sent.pop(stream)
            if stream in self._answered:
                self._answered.remove(stream)
                self.taken.append(time.perf_counter() - sent)
            else:
                self.failed += 1  # trailers without a message
            self._ask(which)
        elif kind in (SETTINGS, PING) and not flags & ACK:
            self._out.append(frame(kind, ACK, 0, payload if kind == PING else b""))
        elif kind == AWAY:
            raise ConnectionError(f"the server goes away: {payload!r}")


def create(port: int) -> list[bytes]:
    """Create the sessions, look at the answer to a step, and make the requests: with the length before them."""
    import grpc

    request, stepped = messages()
    made = []
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        calls = [
            channel.unary_unary(f"/{SERVICE}/{name}", request.SerializeToString, stepped.FromString)
            for name in ("Create", "Step")
        ]
        for i in range(SESSIONS):
            calls[0](request(session=f"b{i}", values=TEN), wait_for_ready=True)
            step = request(session=f"b{i}", values=GRADIENTS)
            answer = calls[1](step)
            if answer.step != 1 or abs(answer.params[0] - TEN[0] + 0.001) > 1e-9:
                raise SystemExit(f"a wrong answer: {answer}")
            body = step.SerializeToString()
            made.append(struct.pack(">BI", 0, len(body)) + body)
    return made


def load(port: int, seconds: float, connections: int) -> None:
    """Print what came of 64 calls under way on so many connections."""
    bodies = create(port)
    open_ = [Connection(port, bodies[i::connections]) for i in range(connections)]
    with selectors.DefaultSelector() as selector:
        for connection in open_:
            selector.register(connection.socket, selectors.EVENT_READ, connection)
        start = time.perf_counter()
        while time.perf_counter() - start < seconds:
            for key, _ in selector.select(1):
                key.data.receive()
        duration = time.perf_counter() - start
    taken = [second for connection in open_ for second in connection.taken]
    failed = sum(connection.failed for connection in open_)
    centiles = statistics.quantiles(taken, n=100)
    print("RESULT", len(taken), round(duration * 1e6), centiles[49] * 1e3, centiles[98] * 1e3, failed)


if __name__ == "__main__":
    load(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))
