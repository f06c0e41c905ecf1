"""Whether arrays travel as JSON or as bytes."""

from __future__ import annotations

from typing import Literal, TypeAlias

from thalweg.errors import InvalidInput
from thalweg.safetensors import carries
from thalweg.tensors import Shapes, size

Form: TypeAlias = Literal["json", "bytes"]

# Numbers from which arrays travel as bytes. Measured there and back over a socket of one machine, bytes take as long as
# JSON at about 1,000 numbers with orjson, and at about 250 without it.
BINARY_FROM = 512


def in_bytes(form: Form | None, layout: Shapes | None) -> bool:
    """Whether arrays of this layout travel as bytes: where `form` says so, or by their number. Raises InvalidInput."""
    if form not in (None, "json", "bytes"):
        raise InvalidInput(f"form is 'json' or 'bytes', or None to choose by size; found {form!r}.")
    if form == "json" or layout is None or (isinstance(layout, dict) and not carries(layout)):
        return False
    return form == "bytes" or size(layout) >= BINARY_FROM
