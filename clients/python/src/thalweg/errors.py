"""Every error that this package raises.

ThalwegError
├── InvalidInput (ValueError)   refused here, before anything was sent: NaN, text where numbers belong, ...
├── Misuse (RuntimeError)       calls in an order that cannot work, such as two steps at once
├── ConnectionFailed            no answer: refused, timed out, cut off
├── UnexpectedAnswer            an answer that Thalweg does not give: is something else at this address?
└── ProblemError                the service said no; one class per `code`
    ├── NotJson                 400 not-json
    ├── Undecodable             400 undecodable
    ├── NotFound                404 not-found
    ├── MethodNotAllowed        405 method-not-allowed
    ├── NotAcceptable           406 not-acceptable
    ├── Conflict                409 conflict                (tried again by itself)
    ├── Gone                    410 gone
    ├── StepMismatch            412 step-mismatch           .current_step says where the session is
    │   └── StepsLost           and this client no longer has the steps since then   .resend_from
    ├── TooLarge                413 too-large
    ├── UnsupportedMediaType    415 unsupported-media-type
    ├── Invalid                 422 invalid                 .errors points at the places
    │   ├── StepReused          422 step-reused             .current_step
    │   └── NonFinite           422 non-finite
    ├── UpgradeRequired         426 upgrade-required
    ├── TooMany                 429 too-many                (tried again by itself) .retry_after
    ├── HeadersTooLarge         431 headers-too-large
    ├── Unavailable             503 unavailable             (tried again by itself) .retry_after
    ├── TimedOut                504 timed-out               (tried again by itself) .missing says which workers
    ├── OutOfSpace              507 out-of-space            (tried again by itself)
    └── Internal                500 internal                (tried again by itself)

Every constructor works with the message alone, so that an error survives pickling on its way out of a worker process.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

EXCERPT = 200  # characters of a foreign answer that a message shows


class Place(NamedTuple):
    """One bad place: a JSON pointer (RFC 6901) into what was sent, and what is wrong there."""

    pointer: str
    detail: str


class ThalwegError(Exception):
    """Root of all errors of this package.

    `outcome_unknown` is true when the request may or may not have been carried out: a retry that repeats it
    exactly is safe then. `attempts` counts how often the request was sent, 0 where it never was.
    """

    def __init__(self, detail: str, *, errors: Iterable[Place] = ()) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = tuple(errors)
        self.attempts = 0
        self.outcome_unknown = False
        self.advice = ""

    def __str__(self) -> str:
        places = [
            f"  at {place.pointer or '/'}" + ("" if place.detail == self.detail else f": {place.detail}")
            for place in self.errors
        ]
        return "\n".join([self.headline(), *places, *([self.advice] if self.advice else [])])

    def headline(self) -> str:
        """The first line of the message."""
        return self.detail


class InvalidInput(ThalwegError, ValueError):
    """The arguments cannot be sent; nothing was. `errors` points at the first bad place."""


class Misuse(ThalwegError, RuntimeError):
    """The call cannot work at this moment; the message says what to do first."""


class ConnectionFailed(ThalwegError):
    """No answer arrived, however often it was tried. `outcome_unknown` says whether the service may have acted."""


class UnexpectedAnswer(ThalwegError):
    """A success that does not look like Thalweg's: often another program at this address."""


class ProblemError(ThalwegError):
    """The service (or something before it) answered with an error.

    `status`, `code`, `title`, `detail`, `errors`, `request_id` and `extensions` are those of the problem document
    (RFC 9457). `code` is empty where the answer was none, for example a proxy's page. `retry_after` is what the
    answer asked for, in seconds.
    """

    status = 0
    code = ""

    def __init__(
        self,
        detail: str,
        *,
        status: int | None = None,
        code: str | None = None,
        title: str = "",
        errors: Iterable[Place] = (),
        request_id: str | None = None,
        retry_after: float | None = None,
        extensions: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail, errors=errors)
        self.status = type(self).status if status is None else status
        self.code = type(self).code if code is None else code
        self.title = title
        self.request_id = request_id
        self.retry_after = retry_after
        self.extensions = dict(extensions or {})

    @property
    def current_step(self) -> int | None:
        """The step at which the session stands, where the answer says it: with StepMismatch and StepReused."""
        current = self.extensions.get("current_step")
        return current if isinstance(current, int) else None

    def headline(self) -> str:
        said = f"{self.status} {self.code}".strip()
        request = f", request {self.request_id}" if self.request_id else ""
        return f"{self.detail} ({said}{request})"


class NotJson(ProblemError):
    """The body is not the JSON that it is said to be."""

    status, code = 400, "not-json"


class Undecodable(ProblemError):
    """The body is not in the encoding that its Content-Encoding says."""

    status, code = 400, "undecodable"


class NotFound(ProblemError):
    """There is nothing of that name."""

    status, code = 404, "not-found"


class MethodNotAllowed(ProblemError):
    """The path exists, the method does not."""

    status, code = 405, "method-not-allowed"


class NotAcceptable(ProblemError):
    """The service does not offer the form that was asked for."""

    status, code = 406, "not-acceptable"


class Conflict(ProblemError):
    """Undecided between several writers, for longer than was waited for."""

    status, code = 409, "conflict"


class Gone(ProblemError):
    """It was here, and will not come back: deleted or expired."""

    status, code = 410, "gone"


class StepMismatch(ProblemError):
    """The step lies past the next one; `session.refresh()` reads where the session is."""

    status, code = 412, "step-mismatch"


class StepsLost(StepMismatch):
    """The service went down and is back at an earlier step, `current_step`, and the steps since then are no longer here
    either. Call `session.refresh()`, then send the gradients of step `resend_from` and of those after it again."""

    @property
    def resend_from(self) -> int | None:
        """The first step that has to be sent again."""
        return None if self.current_step is None else self.current_step + 1


class TooLarge(ProblemError):
    """The body is larger than the service takes."""

    status, code = 413, "too-large"


class UnsupportedMediaType(ProblemError):
    """The service does not read this form of body."""

    status, code = 415, "unsupported-media-type"


class Invalid(ProblemError):
    """Understood and wrong; `errors` points at the places."""

    status, code = 422, "invalid"


class StepReused(Invalid):
    """This step was taken with another body, by this program or another; `session.refresh()` reads what came of it."""

    status, code = 422, "step-reused"


class NonFinite(Invalid):
    """NaN or an infinity, in the input or in what the input would lead to."""

    status, code = 422, "non-finite"


class UpgradeRequired(ProblemError):
    """The path is for WebSockets only."""

    status, code = 426, "upgrade-required"


class TooMany(ProblemError):
    """A limit was reached; `retry_after` says when to come back."""

    status, code = 429, "too-many"


class HeadersTooLarge(ProblemError):
    """The header fields are larger than the service reads."""

    status, code = 431, "headers-too-large"


class Unavailable(ProblemError):
    """Overloaded or stopping; `retry_after` says when to come back."""

    status, code = 503, "unavailable"


class TimedOut(ProblemError):
    """Others on whom the request waited did not come in time; the step was not taken. `arrived` and `missing` are the
    workers that sent their part of it and those that are known and did not."""

    status, code = 504, "timed-out"

    @property
    def arrived(self) -> tuple[str, ...]:
        """The workers whose parts are there."""
        return _texts(self.extensions.get("arrived"))

    @property
    def missing(self) -> tuple[str, ...]:
        """The workers of the step before whose parts are not; `extensions["missing_count"]` counts all."""
        return _texts(self.extensions.get("missing"))


class OutOfSpace(ProblemError):
    """The service's disk is full; nothing was changed."""

    status, code = 507, "out-of-space"


class Internal(ProblemError):
    """The service's fault."""

    status, code = 500, "internal"


KINDS: tuple[type[ProblemError], ...] = (
    NotJson, Undecodable, NotFound, MethodNotAllowed, NotAcceptable, Conflict, Gone, StepMismatch, TooLarge,
    UnsupportedMediaType, Invalid, StepReused, NonFinite, UpgradeRequired, TooMany, HeadersTooLarge, Unavailable,
    TimedOut, OutOfSpace, Internal,
)  # fmt: skip
BY_CODE = {kind.code: kind for kind in KINDS}
BY_STATUS = {kind.status: kind for kind in reversed(KINDS)}  # reversed: of the three 422, `Invalid` stays

STANDARD = {"type", "title", "status", "detail", "instance", "code", "request_id", "errors"}
FROM_HEADER = {"retry_after"}  # which a problem that stands among answers has as a member


def problem(status: int, content: bytes, *, request_id: str | None, retry_after: float | None) -> ProblemError:
    """The error that an answer with this status and body stands for; a body of any kind will do."""
    return from_document(status, _document(content), content, request_id=request_id, retry_after=retry_after)


def from_document(
    status: int,
    document: Mapping[str, Any],
    content: bytes = b"",
    *,
    request_id: str | None = None,
    retry_after: float | None = None,
) -> ProblemError:
    """The error of a problem document that stands among answers, or of an answer's body."""
    code, title, detail = (_text(document, name) for name in ("code", "title", "detail"))
    # A code that a newer service may add still has a status that is known; an answer without one is not Thalweg's.
    kind = BY_CODE.get(code) or (BY_STATUS.get(status) if code else None) or ProblemError
    return kind(
        detail or title or f"The answer was no problem document of Thalweg: {excerpt(content)}",
        status=status,
        code=code,
        title=title,
        errors=_places(document.get("errors")),
        request_id=_text(document, "request_id") or request_id,
        retry_after=_number(document.get("retry_after")) if retry_after is None else retry_after,
        extensions={name: value for name, value in document.items() if name not in STANDARD | FROM_HEADER},
    )


def excerpt(content: bytes) -> str:
    """The beginning of a body that nobody expected, as one readable line."""
    text = re.sub(r"<[^>]*>", " ", content[: 20 * EXCERPT].decode("utf-8", "replace"))
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return (line[: EXCERPT - 3] + "..." if len(line) > EXCERPT else line) or "an empty body"


def _document(content: bytes) -> dict[str, Any]:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _text(document: Mapping[str, Any], name: str) -> str:
    value = document.get(name)
    return value if isinstance(value, str) else ""


def _texts(listed: object) -> tuple[str, ...]:
    return tuple(text for text in listed if isinstance(text, str)) if isinstance(listed, list) else ()


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _places(listed: object) -> Iterable[Place]:
    for place in listed if isinstance(listed, list) else ():
        if isinstance(place, dict):
            yield Place(_text(place, "pointer"), _text(place, "detail"))
