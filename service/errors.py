"""Every error a caller can meet, and the only module that knows status codes.

ThalwegError                    500 internal             the service's fault; the request may have happened
├── NotJson                     400 not-json             the body cannot be read at all
├── Undecodable                 400 undecodable          the body's Content-Encoding cannot be undone
├── NotFound                    404 not-found            no such path, session, optimizer, function
├── MethodNotAllowed            405 method-not-allowed
├── NotAcceptable               406 not-acceptable       no form of the answer that the client accepts
├── Conflict                    409 conflict             undecided: send the same request again
├── Gone                        410 gone                 deleted, expired, or no longer kept
├── StepMismatch                412 step-mismatch        the step lies in the future; `current_step` says where we are
├── TooLarge                    413 too-large
├── UnsupportedMediaType        415 unsupported-media-type
├── Invalid                     422 invalid              understood and wrong: `errors` points at the places
│   ├── StepReused              422 step-reused          this step was taken with another body
│   └── NonFinite               422 non-finite           NaN or an infinity, in the input or in what would come of it
├── UpgradeRequired             426 upgrade-required     the path is for WebSockets
├── TooMany                     429 too-many             a limit was reached; Retry-After says when to come back
├── HeadersTooLarge             431 headers-too-large
├── Unavailable                 503 unavailable          overloaded or stopping; Retry-After says when to come back
├── TimedOut                    504 timed-out            others on whom this request waits did not come in time
└── OutOfSpace                  507 out-of-space         the disk is full; nothing was changed

`detail` is a sentence that says what to do. Lower layers raise these with a JSON pointer relative to the value
they were given; a caller that knows where the value stood adds the prefix with `at`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Self

MAX_PLACES = 10  # a problem lists at most so many places, so that a bad body cannot be amplified


class Place(NamedTuple):
    """One bad place: a JSON pointer (RFC 6901) into the request body, and what is wrong there."""

    pointer: str
    detail: str


class ThalwegError(Exception):
    """Root of all errors here; says 500 unless a subclass knows better."""

    status = 500
    code = "internal"
    title = "Internal error"

    def __init__(
        self,
        detail: str,
        *,
        places: Iterable[Place] = (),
        code: str | None = None,
        retry_after: float | None = None,
        **extensions: Any,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.places = tuple(places)[:MAX_PLACES]
        self.code = code or type(self).code
        self.retry_after = retry_after
        self.extensions = extensions

    def at(self, prefix: str) -> Self:
        """The same error, its places moved below `prefix`."""
        self.places = tuple(Place(prefix + place.pointer, place.detail) for place in self.places)
        return self

    def problem(self, request_id: str) -> dict[str, Any]:
        """The body of the answer, RFC 9457."""
        body: dict[str, Any] = {
            "type": f"urn:thalweg:problem:{self.code}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
            "request_id": request_id,
            **self.extensions,
        }
        if self.places:
            body["errors"] = [place._asdict() for place in self.places]
        return body

    def headers(self) -> dict[str, str]:
        """The headers that belong to this answer."""
        return {} if self.retry_after is None else {"retry-after": str(max(1, round(self.retry_after)))}


class NotJson(ThalwegError):
    """The body is not the JSON that its Content-Type promises."""

    status, code, title = 400, "not-json", "The body is not valid JSON"


class Undecodable(ThalwegError):
    """The body is damaged, cut short, or not in the encoding that its Content-Encoding promises."""

    status, code, title = 400, "undecodable", "The body cannot be decompressed"


class NotFound(ThalwegError):
    """There is nothing of that name."""

    status, code, title = 404, "not-found", "Not found"


class MethodNotAllowed(ThalwegError):
    """The path exists, the method does not."""

    status, code, title = 405, "method-not-allowed", "Method not allowed"

    def headers(self) -> dict[str, str]:
        allow = self.extensions.get("allow")
        return {"allow": ", ".join(allow)} if allow else {}


class NotAcceptable(ThalwegError):
    """None of the forms that the client accepts is offered."""

    status, code, title = 406, "not-acceptable", "Not acceptable"


class Conflict(ThalwegError):
    """Undecided: another request is in the way. Means "try again", never "you are wrong"."""

    status, code, title = 409, "conflict", "Try again"


class Gone(ThalwegError):
    """It was here, and will not come back."""

    status, code, title = 410, "gone", "Gone"


class StepMismatch(ThalwegError):
    """The step asked for lies past the next one."""

    status, code, title = 412, "step-mismatch", "Step mismatch"


class TooLarge(ThalwegError):
    """The body is larger than the service takes."""

    status, code, title = 413, "too-large", "Body too large"


class UnsupportedMediaType(ThalwegError):
    """The body's Content-Type or Content-Encoding is not read here."""

    status, code, title = 415, "unsupported-media-type", "Unsupported media type"

    def headers(self) -> dict[str, str]:
        accepted = self.extensions.get("accept_encoding")
        return {"accept-encoding": accepted} if accepted else {}


class Invalid(ThalwegError):
    """The request was understood and cannot be done as it stands."""

    status, code, title = 422, "invalid", "Invalid request"

    def __init__(self, detail: str, *, pointer: str | None = None, places: Iterable[Place] = (), **more: Any) -> None:
        super().__init__(detail, places=places if pointer is None else (Place(pointer, detail), *places), **more)


class StepReused(Invalid):
    """This step was taken already, with another body."""

    code, title = "step-reused", "Step number reused with another body"


class NonFinite(Invalid):
    """NaN or an infinity, in the input or in what the input would lead to."""

    code, title = "non-finite", "Non-finite number"


class UpgradeRequired(ThalwegError):
    """The path is for WebSockets only."""

    status, code, title = 426, "upgrade-required", "Upgrade required"

    def headers(self) -> dict[str, str]:
        return {"upgrade": "websocket", "connection": "upgrade"}


class TooMany(ThalwegError):
    """A limit was reached."""

    status, code, title = 429, "too-many", "Too many"


class HeadersTooLarge(ThalwegError):
    """The request's header fields are larger than the service reads."""

    status, code, title = 431, "headers-too-large", "Header fields too large"


class Unavailable(ThalwegError):
    """Overloaded, or on the way out."""

    status, code, title = 503, "unavailable", "Unavailable"


class TimedOut(ThalwegError):
    """Those on whom the request waited did not come in time; it was not done."""

    status, code, title = 504, "timed-out", "Timed out"


class OutOfSpace(ThalwegError):
    """There is no room left on the disk."""

    status, code, title = 507, "out-of-space", "The disk is full"


def nearest(word: str, known: Sequence[str]) -> str:
    """`"; did you mean 'x'?"`, or a full stop when no known word is close."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else "."


def unknown(kind: str, word: str, known: Sequence[str], *, pointer: str | None = None) -> Invalid:
    """The error for a name that nothing goes by: the nearest and the accepted ones."""
    listed = ", ".join(known)
    shown = word if len(word) <= 80 else word[:77] + "..."
    return Invalid(f"There is no {kind} {shown!r}{nearest(word, known)} Accepted: {listed}.", pointer=pointer)
