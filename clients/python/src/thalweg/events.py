"""The events of a session: read from a stream that may break, and taken up again after the last one."""

from __future__ import annotations

from dataclasses import dataclass, field

from thalweg import text
from thalweg.errors import UnexpectedAnswer
from thalweg.requests import Record, Request, path

MEDIA_TYPE = "text/event-stream"
SILENCE = 45.0  # seconds without a word, of which the service says one every 15, after which the stream is given up
PAUSE = 1.0  # seconds before the next stream, where the service names none


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a session.

    kind   "step": it was taken, and is durable; "patch": hyperparameters changed; "rewind": the steps above `step` are
           taken back; "end": the session is deleted, and nothing follows
    step   the step that it speaks of; None for "end"
    data   all that the service said: of a step its time, learning rate, loss and norms
    """

    kind: str
    step: int | None
    data: Record = field(default_factory=dict)


class Reader:
    """Bytes in, events out; knows where to go on after a break."""

    def __init__(self, id: str, after: int | None) -> None:
        self.pause = PAUSE
        self.ended = False
        self._id = id
        self._after = after
        self._last = self._next = ""
        self._rest = b""
        self._name = ""
        self._data: list[str] = []

    def request(self) -> Request:
        """What asks for the events that have not been read."""
        self._rest, self._name, self._data, self._next = b"", "", [], self._last
        query = [("after", self._after)] if self._after is not None and not self._last else []
        headers = (("last-event-id", self._last),) if self._last else ()
        return Request("GET", path("sessions", self._id, "events", query=query), accept=MEDIA_TYPE, headers=headers)

    def read(self, chunk: bytes) -> list[Event]:
        """The events that are complete with this chunk. Raises UnexpectedAnswer."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        found = []
        for line in lines:
            event = self._line(line.removesuffix(b"\r").decode("utf-8", "replace"))
            if event is not None:
                found.append(event)
        return found

    def _line(self, line: str) -> Event | None:
        if not line:
            return self._dispatch()
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._name = value
        elif name == "id":
            self._next = value
        elif name == "retry" and value.isdecimal():
            self.pause = int(value) / 1000
        return None

    def _dispatch(self) -> Event | None:
        kind, lines = self._name or "step", self._data
        self._name, self._data, self._last = "", [], self._next  # only now: a break in the middle loses no event
        if not lines:
            return None
        try:
            data = text.read("\n".join(lines).encode())
            event = Event(kind, data.get("step"), data)
        except (ValueError, AttributeError):
            raise UnexpectedAnswer(f"An event should be a JSON object; it begins: {lines[0][:80]}") from None
        self.ended = kind == "end"
        return event
