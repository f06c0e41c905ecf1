"""What is asked of the service, as values: nothing here sends anything.

A `Call` is one request and the function that reads its answer. Everything that the API can do is written once, as a
function from arguments to a `Call`; the two clients differ only in how they send it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar
from urllib.parse import quote, urlencode

import httpx
import numpy as np

from thalweg import safetensors, text
from thalweg.errors import InvalidInput, UnexpectedAnswer, excerpt
from thalweg.tensors import DTYPES, Array, Checked, Piece, Shapes, raw, stored, to_json
from thalweg.tensors import size as numbers_in

T = TypeVar("T")
Record = dict[str, Any]
"""A JSON object as the service gave it."""

JSON = "application/json"
SAFETENSORS = safetensors.MEDIA_TYPE
BYTES = "application/octet-stream"
Query = Iterable[tuple[str, str | int | None]]
Progress: TypeAlias = Callable[[int, int], object]
"""Told how many bytes have gone, of how many."""


class Body(NamedTuple):
    """The bytes of a request, and what they are. They come in pieces, the same ones each time; large ones are views of
    the caller's arrays, or are read from a file on the way."""

    media_type: str
    pieces: Iterable[Piece]
    length: int

    @property
    def content(self) -> bytes:
        """The bytes in one piece."""
        return b"".join(self.pieces)


class Request(NamedTuple):
    """One request, complete: sent again, it is the same bytes.

    `again` is empty where nothing is changed. Otherwise it is the sentence that a caller needs who never learned
    whether the request was carried out. `gone_is_done`: after an attempt without an answer, 404 and 410 mean success.
    `progress` is told of the bytes of the body as they go; `expects` is about how many the answer has, where they are
    numbers.
    """

    method: str
    path: str
    body: Body | None = None
    accept: str = JSON
    again: str = ""
    gone_is_done: bool = False
    headers: tuple[tuple[str, str], ...] = ()
    progress: Progress | None = None
    expects: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that has arrived whole."""

    status_code: int
    headers: httpx.Headers
    content: bytes | memoryview


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """A request, and how its answer is read."""

    request: Request
    parse: Callable[[Answer], T]


Script: TypeAlias = Generator[Call[Any], Any, T]
"""Several calls, one after the other: yields each, is sent its value or thrown its error, and returns what comes of it
all. Written once, it is carried out by either client."""


def path(*segments: str, query: Query = ()) -> str:
    """`/v1/` and the segments, each quoted as one, and those members of the query that are not None."""
    for segment in segments:
        if segment in ("", ".", ".."):  # such a segment would turn into another path on the way
            raise InvalidInput(f"{segment!r} is no identifier or name; it must be at least one letter or digit.")
    asked = urlencode([(name, value) for name, value in query if value is not None], quote_via=quote)
    return "/v1/" + "/".join(quote(segment, safe="") for segment in segments) + (f"?{asked}" if asked else "")


def asked(fields: Record) -> list[tuple[str, str]]:
    """Fields as members of a query: texts as they stand, all others in JSON. Raises InvalidInput."""
    return [(name, value if isinstance(value, str) else text.write(value).decode()) for name, value in fields.items()]


def given(**fields: Any) -> Record:
    """The fields that are not None: what the caller left open is the service's default."""
    return {name: value for name, value in fields.items() if value is not None}


def encode(fields: Record, tensors: Mapping[str, Checked] | None = None) -> Body:
    """A body of JSON. Arrays come first. Raises InvalidInput."""
    rest = text.write(fields)
    if tensors:
        arrays = text.write_numbers({name: to_json(tree) for name, tree in tensors.items()})
        rest = arrays[:-1] + (b"," if fields else b"") + rest[1:]
    return Body(JSON, (rest,), len(rest))


def encode_file(fields: Record, name: str, tensors: Checked) -> Body:
    """A body of named tensors, or of a single one called `name`; what has no gradient is left out."""
    named = tensors if isinstance(tensors, dict) else {name: tensors}
    arrays = {key: stored(array) for key, array in named.items() if array is not None}
    return _body(SAFETENSORS, safetensors.write(arrays, fields))


def encode_bytes(array: Array, dtype: str | None) -> Body:
    """A body of one array, as the numbers of the session that they are for; its fields stand in the query."""
    return _body(BYTES, (raw(stored(array, dtype or "float64")),))


def _body(media_type: str, pieces: tuple[Piece, ...]) -> Body:
    return Body(media_type, pieces, sum(map(len, pieces)))


def decode(answer: Answer, arrays: str = "params", layout: Shapes | None = None, dtype: str | None = None) -> Record:
    """The counterpart: the object that an answer in any form holds.

    In the forms that are not JSON its tensors are called `arrays`, and `layout` and `dtype` say what they are.
    """
    form = answer.headers.get("content-type", JSON)
    if form.startswith(SAFETENSORS) and answer.status_code != 202:
        return _named(answer, arrays, layout)
    if form.startswith(BYTES) and answer.status_code != 202:
        return _bare(answer, arrays, layout, dtype)
    try:
        document = text.read(bytes(answer.content))
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict) or answer.status_code == 202:  # 202: accepted, but nothing to read yet
        raise UnexpectedAnswer(
            f"{answer.status_code} without the JSON object that belongs here; is this address Thalweg's? "
            f"It begins: {excerpt(bytes(answer.content[:4096]))}"
        )
    return document


def _named(answer: Answer, arrays: str, layout: Shapes | None) -> Record:
    document, tensors = safetensors.parse(answer.content)
    shapes = document.get("shapes", layout)
    if not tensors:
        return document
    if isinstance(shapes, dict) or (shapes is None and set(tensors) != {arrays}):
        document[arrays] = tensors
    else:
        document[arrays] = member(tensors, arrays)
    return document


def _bare(answer: Answer, arrays: str, layout: Shapes | None, dtype: str | None) -> Record:
    document: Record = {}
    for name, value in answer.headers.items():
        if name.lower().startswith("thalweg-"):
            document[name.lower().removeprefix("thalweg-").replace("-", "_")] = _field(value)
    if answer.content:
        kind = np.dtype(DTYPES.get(dtype or "", np.float64)).newbyteorder("<")
        if layout is None or isinstance(layout, dict) or len(answer.content) != numbers_in(layout) * kind.itemsize:
            raise UnexpectedAnswer(f"{len(answer.content)} bytes came, which are not the numbers of this session.")
        document[arrays] = np.frombuffer(answer.content, kind).reshape(layout)
    return document


def _field(value: str) -> Any:
    try:
        return text.read(value.encode())
    except ValueError:
        return value


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
