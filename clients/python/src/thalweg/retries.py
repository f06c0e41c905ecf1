"""When a request is sent again. Every request of this client may be: a step carries its number, a create its id, and
the rest changes nothing or says what shall be."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime

import httpx

from thalweg.errors import ConnectionFailed, InvalidInput, ThalwegError, problem
from thalweg.requests import Answer, Request

# The request never left, whatever else is true.
UNSENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError)
# The request itself is at fault; the next one would be as well.
HOPELESS = (httpx.UnsupportedProtocol, httpx.LocalProtocolError)


@dataclass(frozen=True, slots=True)
class Retries:
    """How often and how patiently a request is sent again.

    `limit`: at most so many repetitions after the first attempt; 0 for none.
    `first`, `longest`: the n-th pause is drawn evenly between 0 and `min(longest, first * 2**(n - 1))` seconds.
    `patience`: the longest Retry-After that is waited for; a longer one is raised instead.
    """

    limit: int = 5
    first: float = 0.1
    longest: float = 5.0
    patience: float = 60.0

    def __post_init__(self) -> None:
        if not (self.limit >= 0 and self.first >= 0 and self.longest >= 0 and self.patience >= 0):
            raise InvalidInput(f"The numbers of {self} must not be negative.")

    def pause(self, attempts: int, *, asked: float | None, draw: float) -> float | None:
        """Seconds to wait after so many attempts; None to give up. `draw` lies between 0 and 1."""
        if attempts > self.limit:
            return None
        if asked is not None:
            return asked if asked <= self.patience else None
        return draw * min(self.longest, self.first * 2.0 ** min(attempts - 1, 60))


def repeatable(status: int) -> bool:
    """Whether this answer says that the same request may do better later."""
    return status in (408, 409, 425, 429) or 500 <= status <= 599


def retry_after(header: str | None, now: float) -> float | None:
    """Seconds that a Retry-After header asks for, as a number or as a date; None where it says nothing readable."""
    if header is None:
        return None
    if re.fullmatch(r"\d{1,9}(\.\d+)?", header.strip(), re.ASCII):
        return float(header)
    try:
        date = parsedate_to_datetime(header)
    except ValueError:
        return None
    return max(0.0, (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now)


class Attempts:
    """What has become of one request so far. `answered` and `lost` say how long to wait, or raise what is final."""

    __slots__ = ("address", "count", "draw", "maybe_done", "now", "request", "retries")

    def __init__(
        self, request: Request, retries: Retries, address: str, draw: Callable[[], float], now: Callable[[], float]
    ) -> None:
        self.request, self.retries, self.address, self.draw, self.now = request, retries, address, draw, now
        self.count = 0
        self.maybe_done = False

    def answered(self, answer: Answer) -> float | None:
        """None when the answer may be read, else the pause before the next attempt."""
        status = answer.status_code
        if 200 <= status <= 299 or (status in (404, 410) and self.maybe_done and self.request.gone_is_done):
            return None
        self.count += 1
        asked = retry_after(answer.headers.get("retry-after"), self.now())
        error = problem(status, bytes(answer.content), request_id=answer.headers.get("x-request-id"), retry_after=asked)
        if "location" in answer.headers:  # never followed: a redirected POST may arrive as a GET
            error.advice = f"It points to {answer.headers['location']}; is base_url right?"
        if not repeatable(status):
            self.maybe_done = False  # a plain no settles it
            raise self._final(error)
        self.maybe_done |= status >= 500
        pause = self.retries.pause(self.count, asked=asked, draw=self.draw())
        if pause is None:
            raise self._final(error)
        return pause

    def lost(self, error: httpx.RequestError) -> float:
        """The pause before the next attempt, when one brought no answer."""
        self.count += 1
        self.maybe_done |= not isinstance(error, UNSENT + HOPELESS)
        pause = None
        if not isinstance(error, HOPELESS):
            pause = self.retries.pause(self.count, asked=None, draw=self.draw())
        if pause is None:
            raise self._final(self._silence(error)) from error
        return pause

    def _silence(self, error: httpx.RequestError) -> ConnectionFailed:
        said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        times = "1 attempt" if self.count == 1 else f"{self.count} attempts"
        failed = ConnectionFailed(f"No answer from {self.address} after {times} ({said}).")
        if not self.maybe_done:
            failed.advice = "Nothing was carried out. Is the service running at this address?"
        return failed

    def _final(self, error: ThalwegError) -> ThalwegError:
        error.attempts = self.count
        if self.maybe_done and self.request.again:
            error.outcome_unknown = True
            error.advice = f"The outcome is unknown. {self.request.again}"
        return error
