"""Content-Type and Accept."""

from __future__ import annotations

import pytest

from service.errors import NotAcceptable, UnsupportedMediaType
from service.wire.negotiation import answer_form, body_form

JSON = "application/json"
TENSORS = "application/vnd.thalweg+safetensors"
BYTES = "application/octet-stream"
OFFERED = (JSON, TENSORS, BYTES)


def headers(**fields: str | list[str]) -> list[tuple[bytes, bytes]]:
    """Header fields as ASGI has them; a list is a field that comes several times."""
    return [
        (name.replace("_", "-").encode(), value.encode("latin-1"))
        for name, values in fields.items()
        for value in ([values] if isinstance(values, str) else values)
    ]


@pytest.mark.parametrize(
    ("content_type", "form"),
    [
        (JSON, JSON),
        ("application/json; charset=utf-8", JSON),
        ("application/json;charset=UTF-8", JSON),
        ("Application/JSON", JSON),
        ("  application/json  ", JSON),
        ("application/json ; charset=utf-8 ; x=y", JSON),
        (TENSORS, TENSORS),
        ("application/vnd.Thalweg+SafeTensors", TENSORS),
        (BYTES, BYTES),
    ],
)
def test_the_body_is_what_content_type_says(content_type: str, form: str) -> None:
    assert body_form(headers(content_type=content_type), OFFERED) == form


@pytest.mark.parametrize(
    "content_type",
    [
        "text/plain",
        "text/json",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/jsonl",
        "application/json, text/plain",
        "application/*",
        "*/*",
        "json",
        ";",
        "",
        "application/json\xff",
        "x" * 10_000,
    ],
)
def test_other_bodies_are_not_read(content_type: str) -> None:
    with pytest.raises(UnsupportedMediaType, match=JSON) as caught:
        body_form(headers(content_type=content_type), OFFERED)
    assert len(caught.value.detail) < 400


def test_without_a_content_type_nothing_is_read() -> None:
    with pytest.raises(UnsupportedMediaType, match="says nothing"):
        body_form(headers(accept="*/*"), OFFERED)


def test_only_what_the_path_reads_is_read() -> None:
    with pytest.raises(UnsupportedMediaType):
        body_form(headers(content_type=TENSORS), (JSON,))


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        ("*/*", JSON),
        ("application/*", JSON),
        (JSON, JSON),
        (TENSORS, TENSORS),
        (BYTES, BYTES),
        ("APPLICATION/JSON", JSON),
        ("application/json; charset=utf-8", JSON),
        (f"{TENSORS}, {JSON}", JSON),  # equally liked: the first that is offered
        (f"{JSON};q=0.5, {TENSORS}", TENSORS),
        (f"{JSON};q=0.5, {TENSORS};q=0.4", JSON),
        (f"{JSON}; q=0.5 , {TENSORS} ; Q=0.9", TENSORS),
        (f"{JSON};q=0.9;x=y, {TENSORS};q=0.91", TENSORS),
        (f"*/*;q=0.1, {BYTES}", BYTES),
        (f"*/*, {JSON};q=0", TENSORS),
        (f"application/*;q=0, {BYTES};q=0.1", BYTES),
        (f"application/*;q=0.2, {BYTES};q=0.1, */*", JSON),
        (f"{JSON};q=0, {TENSORS};q=0, */*;q=0.1", BYTES),
        ("text/html, application/xhtml+xml, */*;q=0.8", JSON),
        ("text/html, application/json", JSON),
        ("application/json;q=1.000", JSON),
        ("application/json;q=0.001", JSON),
        (f"{JSON};q=nonsense, {BYTES};q=0.1", BYTES),
        (f"{JSON};q=nan, {BYTES};q=0.1", BYTES),
        (f"{JSON};q=-1, {BYTES};q=0.1", BYTES),
        (f"{JSON};q=, {BYTES};q=0.1", BYTES),
        (f", ,{BYTES},", BYTES),
    ],
)
def test_the_answer_is_what_accept_likes_best(accept: str, form: str) -> None:
    assert answer_form(headers(accept=accept), OFFERED) == form
    parts = accept.split(",")
    assert answer_form(headers(accept=parts), OFFERED) == form  # the same in several fields


@pytest.mark.parametrize(
    "accept",
    [
        "text/html",
        "text/*",
        "image/png, text/plain",
        f"{JSON};q=0, {TENSORS};q=0, {BYTES};q=0",
        "*/*;q=0",
        "application/json;q=0.0, application/*;q=0",
        "*",
        "application",
        "nonsense",
        "\xff",
    ],
)
def test_what_accepts_nothing_that_is_offered_is_told(accept: str) -> None:
    with pytest.raises(NotAcceptable, match=JSON):
        answer_form(headers(accept=accept), OFFERED)


@pytest.mark.parametrize("fields", [headers(), headers(content_type=TENSORS), headers(accept="")])
def test_without_accept_the_first_form_is_answered(fields: list[tuple[bytes, bytes]]) -> None:
    assert answer_form(fields, OFFERED) == JSON


def test_only_what_the_path_offers_is_answered() -> None:
    with pytest.raises(NotAcceptable):
        answer_form(headers(accept=TENSORS), (JSON,))
