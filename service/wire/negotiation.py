"""Which form a body has and which form the answer takes: Content-Type and Accept."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from service.errors import NotAcceptable, UnsupportedMediaType

Headers = Iterable[tuple[bytes, bytes]]


def body_form(headers: Headers, read: Sequence[str]) -> str:
    """The media type of the request's body, one of those that are read here. Raises UnsupportedMediaType."""
    content_type = b""
    for name, value in headers:  # one pass: this is on the hot path
        if name == b"content-type":
            content_type = value
    found = content_type.decode("latin-1")
    if found in read:
        return found
    found = found.split(";", 1)[0].strip().lower()
    if found in read:
        return found
    sent = f"{found[:80]!r}" if found else "nothing"
    raise UnsupportedMediaType(f"Content-Type says {sent}; this path reads {', '.join(read)}.")


def answer_form(headers: Headers, offered: Sequence[str]) -> str:
    """The first offered media type among those that Accept likes best; the first of all without an Accept.

    Raises NotAcceptable.
    """
    accept = [value for name, value in headers if name == b"accept"]
    if not accept or accept == [b"*/*"]:
        return offered[0]
    ranges = [_parse_range(part) for part in b",".join(accept).decode("latin-1").split(",") if part.strip()]
    if not ranges:  # an empty field says as much as none
        return offered[0]
    best, quality = "", 0.0
    for form in offered:
        # the most specific range that matches says how much the form is liked (RFC 9110, 12.5.1)
        matching = max(((len(r), q) for r, q in ranges if _matches(r, form)), default=(0, 0.0))
        if matching[1] > quality:
            best, quality = form, matching[1]
    if not best:
        raise NotAcceptable(f"Accept allows none of what this path answers: {', '.join(offered)}.")
    return best


def _parse_range(part: str) -> tuple[str, float]:
    media, *parameters = (piece.strip() for piece in part.split(";"))
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip().lower() == "q":
            try:
                return media.lower(), float(value)
            except ValueError:
                return media.lower(), 0.0
    return media.lower(), 1.0


def _matches(media_range: str, form: str) -> bool:
    return media_range in (form, "*/*", form.split("/", 1)[0] + "/*")
