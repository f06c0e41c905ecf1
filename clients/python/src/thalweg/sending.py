"""The two senders, one blocking and one awaiting.

The loop around a request is the only logic that stands here twice, and every decision in it is one of `Attempts`.
"""

from __future__ import annotations

import asyncio
import functools
import os
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import TypeAlias, TypeVar

import httpx

from thalweg.errors import InvalidInput
from thalweg.pages import Page
from thalweg.requests import Call, Request
from thalweg.retries import Attempts, Retries
from thalweg.version import __version__

T = TypeVar("T")
Timeout: TypeAlias = float | httpx.Timeout | None

DEFAULT_URL = "http://127.0.0.1:8000"
DEFAULT_TIMEOUT = 30.0  # seconds; a large body and a busy disk included
DEFAULT_RETRIES = Retries()


def address(base_url: str | None) -> httpx.URL:
    """Where the service is: the argument, else THALWEG_URL, else this machine."""
    text = base_url or os.environ.get("THALWEG_URL") or DEFAULT_URL
    url = parsed(text.rstrip("/"), "base_url")
    if url.scheme not in ("http", "https") or not url.host or url.query or url.fragment:
        raise InvalidInput(f"base_url has the form http://host:port, perhaps with a path; found {text!r}.")
    return url


def parsed(text: str, what: str = "the name or identifier") -> httpx.URL:
    """The address that `text` is."""
    try:
        return httpx.URL(text)
    except httpx.InvalidURL as error:
        raise InvalidInput(f"With {what} as it is, this is not an address: {error}.") from error


class Preparing:
    """From requests as values to requests of httpx: what both senders share."""

    def __init__(
        self, base_url: str | None, timeout: Timeout, retries: Retries | int, headers: Mapping[str, str] | None
    ) -> None:
        url = address(base_url)
        self.base_url = str(url.copy_with(userinfo=b"")).rstrip("/")  # fit to be shown: without a password
        self.headers = httpx.Headers({"user-agent": f"thalweg-client/{__version__}", **(headers or {})})
        self._root = str(url).rstrip("/")
        # Said with each request: not every version of httpx sets it on a request that it did not build.
        self._extensions = {"timeout": httpx.Timeout(timeout).as_dict()}
        self._retries = Retries(limit=retries) if isinstance(retries, int) else retries
        # Parsing an address and joining headers cost as much as all the rest of a small step, and seldom change.
        self._url = functools.lru_cache(maxsize=256)(parsed)
        self._forms: dict[tuple[str, str], httpx.Headers] = {}
        # A generator of its own: a program that seeds `random` gets the same numbers with and without this client.
        self._draw = random.Random().random

    def prepare(self, request: Request) -> httpx.Request:
        """The request in full. Sending it twice sends the same bytes."""
        media_type, content = request.body or ("", None)
        form = self._forms.get((media_type, request.accept))
        if form is None:
            form = httpx.Headers(self.headers)
            form["accept"] = request.accept
            if media_type:
                form["content-type"] = media_type
            self._forms[media_type, request.accept] = form
        url = self._url(self._root + request.path)
        return httpx.Request(request.method, url, headers=form, content=content, extensions=self._extensions)

    def attempts(self, request: Request) -> Attempts:
        """The record of what becomes of `request`."""
        return Attempts(request, self._retries, self.base_url, self._draw, time.time)


class Sender(Preparing):
    """Sends, and waits for the answer."""

    def __init__(
        self,
        base_url: str | None,
        *,
        timeout: Timeout,
        retries: Retries | int,
        transport: httpx.BaseTransport | None,
        headers: Mapping[str, str] | None,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        super().__init__(base_url, timeout, retries, headers)
        self.http = httpx.Client(transport=transport, timeout=timeout, headers=self.headers)
        self.headers = self.http.headers
        self._sleep = sleep

    def send(self, call: Call[T]) -> T:
        """The value of a call, after as many attempts as it takes and the retries allow."""
        request, attempts = self.prepare(call.request), self.attempts(call.request)
        while True:
            try:
                answer = self.http.send(request)
            except httpx.RequestError as error:
                pause: float | None = attempts.lost(error)
            else:
                pause = attempts.answered(answer)
            if pause is None:
                return call.parse(answer)
            self._sleep(pause)

    def pages(self, call: Call[Page[T]]) -> Iterator[T]:
        """The items of a list, page after page."""
        following: Call[Page[T]] | None = call
        while following is not None:
            page = self.send(following)
            yield from page.items
            following = page.following

    def probe(self, path: str) -> bool:
        """Whether this path answers with a success at this moment; tried once."""
        try:
            return self.http.send(self.prepare(Request("GET", path))).is_success
        except httpx.RequestError:
            return False


class AsyncSender(Preparing):
    """Sends, and lets others work until the answer is there."""

    def __init__(
        self,
        base_url: str | None,
        *,
        timeout: Timeout,
        retries: Retries | int,
        transport: httpx.AsyncBaseTransport | None,
        headers: Mapping[str, str] | None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        super().__init__(base_url, timeout, retries, headers)
        self.http = httpx.AsyncClient(transport=transport, timeout=timeout, headers=self.headers)
        self.headers = self.http.headers
        self._sleep = sleep

    async def send(self, call: Call[T]) -> T:
        """As `Sender.send`."""
        request, attempts = self.prepare(call.request), self.attempts(call.request)
        while True:
            try:
                answer = await self.http.send(request)
            except httpx.RequestError as error:
                pause: float | None = attempts.lost(error)
            else:
                pause = attempts.answered(answer)
            if pause is None:
                return call.parse(answer)
            await self._sleep(pause)

    async def pages(self, call: Call[Page[T]]) -> AsyncIterator[T]:
        """As `Sender.pages`."""
        following: Call[Page[T]] | None = call
        while following is not None:
            page = await self.send(following)
            for item in page.items:
                yield item
            following = page.following

    async def probe(self, path: str) -> bool:
        """As `Sender.probe`."""
        try:
            return (await self.http.send(self.prepare(Request("GET", path)))).is_success
        except httpx.RequestError:
            return False
