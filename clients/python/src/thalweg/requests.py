"""What is asked of the service, as values: nothing here sends anything.

A `Call` is one request and the function that reads its answer. Everything that the API can do is written once, as a
function from arguments to a `Call`; the two clients differ only in how they send it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar
from urllib.parse import quote, urlencode

import httpx
import numpy as np

from thalweg.errors import InvalidInput, UnexpectedAnswer, excerpt
from thalweg.tensors import Checked, to_json

T = TypeVar("T")
Record = dict[str, Any]
"""A JSON object as the service gave it."""

JSON = "application/json"
Query = Iterable[tuple[str, str | int | None]]


class Body(NamedTuple):
    """The bytes of a request, and what they are."""

    media_type: str
    content: bytes


class Request(NamedTuple):
    """One request, complete: sent again, it is the same bytes.

    `again` is empty where nothing is changed. Otherwise it is the sentence that a caller needs who never learned
    whether the request was carried out. `gone_is_done`: after an attempt without an answer, 404 and 410 mean success.
    """

    method: str
    path: str
    body: Body | None = None
    accept: str = JSON
    again: str = ""
    gone_is_done: bool = False


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """A request, and how its answer is read."""

    request: Request
    parse: Callable[[httpx.Response], T]


def path(*segments: str, query: Query = ()) -> str:
    """`/v1/` and the segments, each quoted as one, and those members of the query that are not None."""
    for segment in segments:
        if segment in ("", ".", ".."):  # such a segment would turn into another path on the way
            raise InvalidInput(f"{segment!r} is no identifier or name; it must be at least one letter or digit.")
    asked = urlencode([(name, value) for name, value in query if value is not None], quote_via=quote)
    return "/v1/" + "/".join(quote(segment, safe="") for segment in segments) + (f"?{asked}" if asked else "")


def given(**fields: Any) -> Record:
    """The fields that are not None: what the caller left open is the service's default."""
    return {name: value for name, value in fields.items() if value is not None}


def encode(fields: Record, tensors: Mapping[str, Checked] | None = None) -> Body:
    """The one place where a body gets its form. Arrays come first."""
    arrays = {name: to_json(tree) for name, tree in (tensors or {}).items()}
    try:
        rest = _ENCODER.encode(fields).encode()
        if not arrays:
            return Body(JSON, rest)
        return Body(JSON, _write(arrays)[:-1] + (b"," if fields else b"") + rest[1:])
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInput(f"The arguments cannot be written as JSON: {error}") from error


def decode(answer: httpx.Response) -> Record:
    """The counterpart: the object that an answer holds."""
    try:
        document = _read(answer.content)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict) or answer.status_code == 202:  # 202: accepted, but nothing to read yet
        raise UnexpectedAnswer(
            f"{answer.status_code} without the JSON object that belongs here; is this address Thalweg's? "
            f"It begins: {excerpt(answer.content)}"
        )
    return document


def member(document: Mapping[str, Any], name: str) -> Any:
    """A member that every answer of this kind has."""
    try:
        return document[name]
    except KeyError:
        found = ", ".join(sorted(document)) or "nothing"
        raise UnexpectedAnswer(f"The answer has no {name!r}; it has {found}.") from None


def others(document: Mapping[str, Any], kind: type) -> Record:
    """What an answer holds beyond the fields of `kind`, the value class that it becomes: a newer service says more."""
    known: Mapping[str, Any] = getattr(kind, "__dataclass_fields__")  # noqa: B009  (dataclasses.fields() is slow)
    return {name: value for name, value in document.items() if name not in known}


def reading(address: str) -> Call[Record]:
    """Read the object at `address`."""
    return Call(Request("GET", address), decode)


def named(specification: str | Mapping[str, Any]) -> Mapping[str, Any]:
    """A name alone stands for the specification with that name and all defaults."""
    return {"name": specification} if isinstance(specification, str) else specification


def _plain(value: object) -> Any:
    """What json does not know: numpy's numbers and arrays inside a specification, and mappings that are no dict."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is not a number, text, list or mapping.")


_ENCODER = json.JSONEncoder(allow_nan=False, separators=(",", ":"), default=_plain)

# orjson, where it is installed (the extra `fast`), writes and reads the same numbers about ten times faster.
try:
    import orjson

    _write: Callable[[Any], bytes] = orjson.dumps
    _read: Callable[[bytes], Any] = orjson.loads
except ImportError:

    def _write(value: Any) -> bytes:
        return _ENCODER.encode(value).encode()

    _read = json.loads
