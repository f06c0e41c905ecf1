"""The two senders, one blocking and one awaiting.

The loops around a request are the only logic that stands here twice, and every decision in them is one of `Attempts`.
"""

from __future__ import annotations

import asyncio
import functools
import os
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeAlias, TypeVar

import httpx

from thalweg.errors import InvalidInput, ThalwegError
from thalweg.events import SILENCE, Event, Reader
from thalweg.files import Download
from thalweg.forms import Form
from thalweg.pages import Page
from thalweg.requests import Answer, Call, Request, Script
from thalweg.retries import Attempts, Retries
from thalweg.state import REPLAY_BYTES, SessionState
from thalweg.transfer import LARGE, Inbox, Upload, length, whole
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
        self,
        base_url: str | None,
        timeout: Timeout,
        retries: Retries | int,
        headers: Mapping[str, str] | None,
        form: Form | None,
        replay_bytes: int,
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
        self.form = form
        self._replay_bytes = replay_bytes
        # A generator of its own: a program that seeds `random` gets the same numbers with and without this client.
        self._draw = random.Random().random

    def prepare(self, request: Request) -> httpx.Request:
        """The request in full. Sending it twice sends the same bytes."""
        body = request.body
        media_type = body.media_type if body else ""
        form = self._forms.get((media_type, request.accept))
        if form is None:
            form = httpx.Headers(self.headers)
            form["accept"] = request.accept
            if media_type:
                form["content-type"] = media_type
            self._forms[media_type, request.accept] = form
        url = self._url(self._root + request.path)
        if request.headers:
            form = httpx.Headers([*form.multi_items(), *request.headers])
        if body is not None and (body.length > LARGE or request.progress):
            host = ("host", url.netloc.decode("ascii"))  # which httpx adds only to what it measures itself
            form = httpx.Headers([host, *form.multi_items(), ("content-length", str(body.length))])
            upload = Upload(body, request.progress)
            return httpx.Request(request.method, url, headers=form, stream=upload, extensions=self._extensions)
        content = body.content if body else None
        return httpx.Request(request.method, url, headers=form, content=content, extensions=self._extensions)

    def follow(self, request: Request) -> httpx.Request:
        """The request for events, which are waited for longer than other answers."""
        prepared = self.prepare(request)
        timeout = dict(prepared.extensions["timeout"])
        if timeout["read"] is not None:
            timeout["read"] = max(timeout["read"], SILENCE)
        prepared.extensions = {**prepared.extensions, "timeout": timeout}
        return prepared

    def adopt(self, state: SessionState) -> SessionState:
        """A session of this client, with as much room for what may be lost as the client gives it."""
        state.ring.limit = self._replay_bytes
        return state

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
        form: Form | None = None,
        replay_bytes: int = REPLAY_BYTES,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        super().__init__(base_url, timeout, retries, headers, form, replay_bytes)
        self.http = httpx.Client(transport=transport, timeout=timeout, headers=self.headers)
        self.headers = self.http.headers
        self.sleep = sleep

    def send(self, call: Call[T]) -> T:
        """The value of a call, after as many attempts as it takes and the retries allow."""
        request, attempts = self.prepare(call.request), self.attempts(call.request)
        while True:
            try:
                answer = self._receive(request) if call.request.expects > LARGE else whole(self.http.send(request))
            except httpx.RequestError as error:
                pause: float | None = attempts.lost(error)
            else:
                pause = attempts.answered(answer)
            if pause is None:
                return call.parse(answer)
            self.sleep(pause)

    def _receive(self, request: httpx.Request) -> Answer:
        """A large answer, into one buffer."""
        response = self.http.send(request, stream=True)
        try:
            if not Inbox.fits(response):
                response.read()
                return whole(response)
            inbox = Inbox(response)
            for chunk in response.iter_raw():
                inbox.take(chunk)
            return inbox.answer()
        finally:
            response.close()

    def run(self, script: Script[T]) -> T:
        """What comes of a script."""
        try:
            call = next(script)
            while True:
                try:
                    value = self.send(call)
                except ThalwegError as error:
                    call = script.throw(error)
                else:
                    call = script.send(value)
        except StopIteration as done:
            result: T = done.value
            return result
        finally:
            script.close()

    def fetch(self, request: Request, download: Download) -> Path:
        """The file that an answer is, once it is whole; tried as often as `send`."""
        prepared, attempts = self.prepare(request), self.attempts(request)
        try:
            while True:
                try:
                    pause = self._fetch(prepared, attempts, download)
                except httpx.RequestError as error:
                    pause = attempts.lost(error)
                if pause is None:
                    return download.finish()
                self.sleep(pause)
        finally:
            download.abandon()

    def _fetch(self, prepared: httpx.Request, attempts: Attempts, download: Download) -> float | None:
        response = self.http.send(prepared, stream=True)
        try:
            if not response.is_success:
                response.read()
                return attempts.answered(whole(response))
            download.begin(length(response))
            for chunk in response.iter_bytes():
                download.take(chunk)
            return None
        finally:
            response.close()

    def events(self, id: str, after: int | None) -> Iterator[Event]:
        """The events of a session, as they come; a stream that breaks is taken up again where it was."""
        reader = Reader(id, after)
        attempts: Attempts | None = None
        while not reader.ended:
            request = reader.request()
            attempts = attempts or self.attempts(request)
            pause: float | None = None
            try:
                response = self.http.send(self.follow(request), stream=True)
                try:
                    if response.is_success:
                        for chunk in response.iter_bytes():
                            attempts = self.attempts(request)
                            yield from reader.read(chunk)
                    else:
                        response.read()
                        pause = attempts.answered(whole(response))
                finally:
                    response.close()
            except httpx.RequestError as error:
                pause = attempts.lost(error)
            if not reader.ended:
                self.sleep(reader.pause if pause is None else pause)

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
        form: Form | None = None,
        replay_bytes: int = REPLAY_BYTES,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        super().__init__(base_url, timeout, retries, headers, form, replay_bytes)
        self.http = httpx.AsyncClient(transport=transport, timeout=timeout, headers=self.headers)
        self.headers = self.http.headers
        self.sleep = sleep

    async def send(self, call: Call[T]) -> T:
        """As `Sender.send`."""
        request, attempts = self.prepare(call.request), self.attempts(call.request)
        while True:
            try:
                if call.request.expects > LARGE:
                    answer = await self._receive(request)
                else:
                    answer = whole(await self.http.send(request))
            except httpx.RequestError as error:
                pause: float | None = attempts.lost(error)
            else:
                pause = attempts.answered(answer)
            if pause is None:
                return call.parse(answer)
            await self.sleep(pause)

    async def _receive(self, request: httpx.Request) -> Answer:
        """A large answer, into one buffer."""
        response = await self.http.send(request, stream=True)
        try:
            if not Inbox.fits(response):
                await response.aread()
                return whole(response)
            inbox = Inbox(response)
            async for chunk in response.aiter_raw():
                inbox.take(chunk)
            return inbox.answer()
        finally:
            await response.aclose()

    async def run(self, script: Script[T]) -> T:
        """As `Sender.run`."""
        try:
            call = next(script)
            while True:
                try:
                    value = await self.send(call)
                except ThalwegError as error:
                    call = script.throw(error)
                else:
                    call = script.send(value)
        except StopIteration as done:
            result: T = done.value
            return result
        finally:
            script.close()

    async def fetch(self, request: Request, download: Download) -> Path:
        """As `Sender.fetch`."""
        prepared, attempts = self.prepare(request), self.attempts(request)
        try:
            while True:
                try:
                    pause = await self._fetch(prepared, attempts, download)
                except httpx.RequestError as error:
                    pause = attempts.lost(error)
                if pause is None:
                    return download.finish()
                await self.sleep(pause)
        finally:
            download.abandon()

    async def _fetch(self, prepared: httpx.Request, attempts: Attempts, download: Download) -> float | None:
        response = await self.http.send(prepared, stream=True)
        try:
            if not response.is_success:
                await response.aread()
                return attempts.answered(whole(response))
            download.begin(length(response))
            async for chunk in response.aiter_bytes():
                download.take(chunk)
            return None
        finally:
            await response.aclose()

    async def events(self, id: str, after: int | None) -> AsyncIterator[Event]:
        """As `Sender.events`."""
        reader = Reader(id, after)
        attempts: Attempts | None = None
        while not reader.ended:
            request = reader.request()
            attempts = attempts or self.attempts(request)
            pause: float | None = None
            try:
                response = await self.http.send(self.follow(request), stream=True)
                try:
                    if response.is_success:
                        async for chunk in response.aiter_bytes():
                            attempts = self.attempts(request)
                            for event in reader.read(chunk):
                                yield event
                    else:
                        await response.aread()
                        pause = attempts.answered(whole(response))
                finally:
                    await response.aclose()
            except httpx.RequestError as error:
                pause = attempts.lost(error)
            if not reader.ended:
                await self.sleep(reader.pause if pause is None else pause)

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
