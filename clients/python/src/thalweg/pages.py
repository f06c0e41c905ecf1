"""Lists that arrive in pages: a page knows the call that asks for the next one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

from thalweg.errors import UnexpectedAnswer
from thalweg.requests import Answer, Call, Request, decode, member, path

T = TypeVar("T")
Query = Mapping[str, str | int | None]


class Page(NamedTuple, Generic[T]):
    """Some items in order, and the call for those after them."""

    items: list[T]
    following: Call[Page[T]] | None


def listing(
    *segments: str,
    read: Callable[[Any], T],
    fixed: tuple[tuple[str, str], ...] = (),
    query: Query | None = None,
    mark: str = "cursor",
    mark_of: Callable[[T], str | int] | None = None,
) -> Call[Page[T]]:
    """The first page of the list at `segments`.

    The next page is asked for with `mark` set to the answer's `next_cursor`, or to `mark_of` the last item where the
    list counts in numbers of its own; such a list may also say `next_` and its mark. `fixed` holds members of the
    query that may occur more than once.
    """
    asked = dict(query or {})

    def parse(answer: Answer) -> Page[T]:
        document = decode(answer)
        items = [read(item) for item in member(document, "items")]
        cursor = document.get("next_cursor", document.get(f"next_{mark}"))
        if cursor is None or (mark_of and not items):
            return Page(items, None)
        place = mark_of(items[-1]) if mark_of else cursor
        if place == asked.get(mark):  # asking for the same page again would never end
            raise UnexpectedAnswer(f"The list does not move on: its next page is {mark}={place} again.")
        rest = {**asked, mark: place}
        return Page(items, listing(*segments, read=read, fixed=fixed, query=rest, mark=mark, mark_of=mark_of))

    return Call(Request("GET", path(*segments, query=[*fixed, *asked.items()])), parse)
