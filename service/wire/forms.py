"""The three forms of a body, and an answer in each of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from service.optim.tensors import Array, Layout
from service.wire import json as text
from service.wire import raw, safetensors
from service.wire.trees import tree

JSON = text.MEDIA_TYPE
SAFETENSORS = safetensors.MEDIA_TYPE
BYTES = raw.MEDIA_TYPE
FORMS = (JSON, SAFETENSORS, BYTES)
_TYPES = {form: (b"content-type", form.encode()) for form in FORMS}


class Encoded(NamedTuple):
    """Header fields, and the pieces (at least one) that the body is made of, in order; large ones are views."""

    headers: list[tuple[bytes, bytes]]
    chunks: list[bytes | memoryview]

    @property
    def body(self) -> bytes:
        """The body in one piece."""
        return b"".join(self.chunks)


def encode(form: str, fields: Mapping[str, Any], layout: Layout) -> Encoded:
    """An answer: `fields` hold what JSON holds, and at most one flat array of shape (layout.size,).

    Raises NotAcceptable where the layout has a name that the form cannot carry.
    """
    if form == JSON:
        whole = {k: tree(v, layout) if isinstance(v, np.ndarray) else v for k, v in fields.items()}
        return encoded(JSON, [text.dumps(whole)])
    name, array = next(((k, v) for k, v in fields.items() if isinstance(v, np.ndarray)), ("", None))
    others = {k: v for k, v in fields.items() if k != name}
    numbers = [] if array is None else [view(array)]
    if form == SAFETENSORS:
        header = safetensors.header(others, None if array is None else layout, name)
        return encoded(SAFETENSORS, [header, *numbers])
    return encoded(BYTES, numbers or [b""], raw.headers(others))


def view(array: Array) -> memoryview:
    """The bytes of a flat array, not copied."""
    return np.ascontiguousarray(array).view(np.uint8).data


def encoded(form: str, chunks: list[Any], headers: Sequence[tuple[bytes, bytes]] = ()) -> Encoded:
    """An answer of these chunks, at least one."""
    length = len(chunks[0]) if len(chunks) == 1 else sum(map(len, chunks))
    return Encoded([_TYPES[form], (b"content-length", b"%d" % length), *headers], chunks)
