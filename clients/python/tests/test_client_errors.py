"""Each problem code has its class, and each message can be acted on."""

from __future__ import annotations

import inspect
import pickle

import httpx
import pytest

import thalweg
from thalweg.errors import BY_STATUS, KINDS, from_document, problem

TABLE = {
    "not-json": (400, "NotJson"),
    "undecodable": (400, "Undecodable"),
    "not-found": (404, "NotFound"),
    "method-not-allowed": (405, "MethodNotAllowed"),
    "not-acceptable": (406, "NotAcceptable"),
    "conflict": (409, "Conflict"),
    "gone": (410, "Gone"),
    "step-mismatch": (412, "StepMismatch"),
    "too-large": (413, "TooLarge"),
    "unsupported-media-type": (415, "UnsupportedMediaType"),
    "invalid": (422, "Invalid"),
    "step-reused": (422, "StepReused"),
    "non-finite": (422, "NonFinite"),
    "upgrade-required": (426, "UpgradeRequired"),
    "too-many": (429, "TooMany"),
    "headers-too-large": (431, "HeadersTooLarge"),
    "unavailable": (503, "Unavailable"),
    "timed-out": (504, "TimedOut"),
    "out-of-space": (507, "OutOfSpace"),
    "internal": (500, "Internal"),
}


def failing(twin, make, answer, **options):
    async def operation(client, do):
        return await do(client.sessions.get("s"))

    return twin.run(make.script(*[answer] * 9), operation, retries=0, **options).error


@pytest.mark.parametrize("code", TABLE)
def test_the_class_of_a_code(twin, make, code):
    status, name = TABLE[code]
    places = [{"pointer": "/gradients/w/3", "detail": "not a finite float64"}, {"pointer": "", "detail": "Do this."}]
    answer = make.problem(status, code, "Do this.", {"retry-after": "3"}, errors=places, current_step=7, limit="x")
    error = failing(twin, make, answer)
    assert type(error) is getattr(thalweg, name)
    assert (error.status, error.code, error.title, error.detail) == (status, code, code, "Do this.")
    assert error.errors == (("/gradients/w/3", "not a finite float64"), ("", "Do this."))
    assert (error.request_id, error.retry_after) == ("r1", 3.0)
    assert error.extensions == {"current_step": 7, "limit": "x"}
    assert str(error).startswith(
        f"Do this. ({status} {code}, request r1)\n  at /gradients/w/3: not a finite float64\n  at /"
    )


def test_every_class_stands_in_the_table():
    assert [kind.__name__ for kind in KINDS] == [name for _, name in TABLE.values()]
    assert {kind.code: kind.status for kind in KINDS} == {code: status for code, (status, _) in TABLE.items()}
    assert BY_STATUS[422] is thalweg.Invalid


def test_the_services_own_table():
    """Where the service is installed too, both know the same codes."""
    errors = pytest.importorskip("service.errors")
    kinds = {kind.code: kind for _, kind in inspect.getmembers(errors, inspect.isclass) if hasattr(kind, "status")}
    assert {code: kind.status for code, kind in kinds.items()} == {code: status for code, (status, _) in TABLE.items()}


def test_the_current_step():
    assert thalweg.StepMismatch("No.", extensions={"current_step": 7}).current_step == 7
    assert thalweg.StepReused("No.", extensions={"current_step": 7}).current_step == 7
    assert thalweg.StepMismatch("No.").current_step is None
    assert thalweg.StepsLost("No.", extensions={"current_step": 7}).resend_from == 8
    assert thalweg.StepsLost("No.").resend_from is None


def test_who_is_missing(twin, make):
    answer = make.problem(504, "aggregation-timeout", arrived=["a"], missing=["b", "c"], missing_count=2)
    error = failing(twin, make, answer)
    assert type(error) is thalweg.TimedOut
    assert (error.arrived, error.missing, error.extensions["missing_count"]) == (("a",), ("b", "c"), 2)
    assert thalweg.TimedOut("No.").missing == ()


def test_a_problem_among_answers_says_itself_when_to_come_back():
    error = from_document(503, {"code": "unavailable", "detail": "Busy.", "retry_after": 2})
    assert (type(error), error.retry_after, error.extensions) == (thalweg.Unavailable, 2.0, {})


def test_a_code_that_is_not_known_yet(twin, make):
    assert type(failing(twin, make, make.problem(429, "daily-allowance"))) is thalweg.TooMany
    assert type(failing(twin, make, make.problem(422, "odd"))) is thalweg.Invalid
    assert type(failing(twin, make, make.problem(418, "teapot"))) is thalweg.ProblemError


def test_a_page_of_a_proxy(twin, make):
    page = (
        "<html><head><title>502 Bad Gateway</title></head>\r\n<body>\x00<h1>nginx</h1>" + "x" * 9999 + "</body></html>"
    )
    error = failing(twin, make, httpx.Response(502, html=page, headers={"x-request-id": "p9"}))
    assert type(error) is thalweg.ProblemError
    assert (error.status, error.code, error.request_id) == (502, "", "p9")
    assert "502 Bad Gateway nginx xxx" in str(error)
    assert "\n" not in str(error)
    assert len(str(error)) < 400


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe\x00", b"null", b"[1]", b'"text"', b"{", b"[" * 10_000, b'{"detail": [1], "code": 3, "errors": 7}'],
)
def test_any_body_becomes_an_error(content):
    error = problem(404, content, request_id=None, retry_after=None)
    assert type(error) is thalweg.ProblemError
    assert error.status == 404
    assert "(404)" in str(error)


def test_places_of_any_form():
    error = problem(422, b'{"code":"invalid","errors":[1,{},{"pointer":2}]}', request_id=None, retry_after=None)
    assert error.errors == (("", ""), ("", ""))


@pytest.mark.parametrize("name", thalweg.__all__)
def test_errors_survive_pickling(name):
    kind = getattr(thalweg, name)
    if not (inspect.isclass(kind) and issubclass(kind, thalweg.ThalwegError)):
        return
    error = kind("No.")
    error.attempts = 3
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert (str(again), again.attempts, again.errors) == (str(error), 3, ())


def test_the_tree():
    assert issubclass(thalweg.InvalidInput, ValueError)
    assert issubclass(thalweg.Misuse, RuntimeError)
    assert issubclass(thalweg.StepReused, thalweg.Invalid)
    assert issubclass(thalweg.NonFinite, thalweg.Invalid)
    for kind in KINDS:
        assert issubclass(kind, thalweg.ProblemError)
        assert kind.__doc__
        assert kind.__name__ in thalweg.errors.__doc__
