"""How a client's method is made from a function that returns a call.

`optimizer = sends(catalogue.optimizer)` in a class body is the method `optimizer(self, name)` with the arguments and
the docstring of that function, sending its call through `self._sender`. So both clients have the same methods, and
each is written once.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, Concatenate, ParamSpec, TypeVar

from thalweg.pages import Page
from thalweg.requests import Call

P = ParamSpec("P")
T = TypeVar("T")
M = TypeVar("M", bound=Callable[..., Any])


def sends(build: Callable[P, Call[T]]) -> Callable[Concatenate[Any, P], T]:
    """A method that returns what the call's answer holds."""

    def method(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:
        value: T = self._sender.send(build(*args, **kwargs))
        return value

    return like(build, method)


def awaits(build: Callable[P, Call[T]]) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]:
    """As `sends`, to be awaited."""

    async def method(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:
        value: T = await self._sender.send(build(*args, **kwargs))
        return value

    return like(build, method)


def iterates(build: Callable[P, Call[Page[T]]]) -> Callable[Concatenate[Any, P], Iterator[T]]:
    """A method that returns an iterator over the items of all pages; each page is asked for when it is reached."""

    def method(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        items: Iterator[T] = self._sender.pages(build(*args, **kwargs))
        return items

    return like(build, method)


def async_iterates(build: Callable[P, Call[Page[T]]]) -> Callable[Concatenate[Any, P], AsyncIterator[T]]:
    """As `iterates`, for `async for`."""

    def method(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[T]:
        items: AsyncIterator[T] = self._sender.pages(build(*args, **kwargs))
        return items

    return like(build, method)


def collects(build: Callable[P, Call[Page[T]]]) -> Callable[Concatenate[Any, P], list[T]]:
    """A method that returns the items of all pages as one list: for lists that are short."""

    def method(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> list[T]:
        return list(self._sender.pages(build(*args, **kwargs)))

    return like(build, method)


def async_collects(build: Callable[P, Call[Page[T]]]) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, list[T]]]:
    """As `collects`, to be awaited."""

    async def method(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> list[T]:
        return [item async for item in self._sender.pages(build(*args, **kwargs))]

    return like(build, method)


def like(build: Callable[..., Any], method: M) -> M:
    """`method` under the name of `build`, so that help() and editors show the arguments instead of `*args`."""
    signature = inspect.signature(build)
    owner = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    shown = signature.replace(
        parameters=[owner, *signature.parameters.values()], return_annotation=inspect.Signature.empty
    )
    method.__name__, method.__doc__, method.__module__ = build.__name__, build.__doc__, build.__module__
    setattr(method, "__signature__", shown)  # noqa: B010  (the type of a callable knows no such attribute)
    return method
