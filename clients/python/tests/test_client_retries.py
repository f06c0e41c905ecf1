"""What is sent again, how often, after how long; and what is said when it did not help."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime, formatdate

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

import thalweg
from thalweg.retries import repeatable, retry_after

SESSION = {"id": "s", "step": 0, "params": [1.0], "dtype": "float64"}
STEP = {"step": 1, "params": [0.5], "learning_rate": 0.1, "replayed": False}
LOST = [httpx.ReadTimeout("slow"), httpx.ReadError("cut"), httpx.RemoteProtocolError("closed"), httpx.WriteError("cut")]
UNSENT = [httpx.ConnectError("refused"), httpx.ConnectTimeout("slow"), httpx.PoolTimeout("full")]

# Every kind of request, as a method of a client, with what a success answers.
CALLS = {
    "step": (lambda c: c.sessions.create("sgd", [1.0], id="s"), STEP),
    "create": (lambda c: c.sessions.create("sgd", [1.0]), SESSION),
    "update": (lambda c: c.sessions.update("s", labels={"a": "b"}), {}),
    "delete": (lambda c: c.sessions.delete("s"), httpx.Response(204)),
    "get": (lambda c: c.sessions.get("s"), {}),
    "list": (lambda c: c.sessions.list(), {"items": []}),
    "evaluate": (lambda c: c.catalogue.evaluate("sphere", [[1.0]]), {"values": [1.0]}),
    "run": (lambda c: c.sandbox.run("sphere", optimizers=["sgd"]), {"function": {}, "runs": []}),
}
WRITES = {"step", "create", "update", "delete"}


def attempt(twin, make, name, *answers, **options):
    """The outcome of one call that meets these answers, and the requests that it made."""
    call, _ = CALLS[name]
    script = make.script(*([SESSION] if name == "step" else []), *answers)

    async def operation(client, do):
        value = await do(call(client))
        return await do(value.step([0.5])) if name == "step" else value

    outcome = twin.run(script, operation, **options)
    return outcome, script.asked[1 if name == "step" else 0 :]


def refused(make, status):
    return make.problem(status, {409: "conflict", 429: "too-many", 503: "unavailable"}.get(status, "other"))


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 504, 599])
def test_sent_again_after(twin, make, name, status):
    outcome, asked = attempt(twin, make, name, refused(make, status), CALLS[name][1])
    assert outcome.error is None
    first, second = asked
    assert (first.method, first.url, first.content) == (second.method, second.url, second.content)
    assert len(outcome.pauses) == 1
    assert 0 <= outcome.pauses[0] <= 0.1


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 405, 406, 410, 412, 413, 415, 422, 431])
def test_not_sent_again_after(twin, make, name, status):
    outcome, asked = attempt(twin, make, name, make.problem(status, "other"))
    assert isinstance(outcome.error, thalweg.ProblemError)
    assert outcome.error.status == status
    assert outcome.error.attempts == len(asked) == 1
    assert not outcome.error.outcome_unknown
    assert outcome.pauses == []


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("failure", LOST + UNSENT, ids=lambda failure: type(failure).__name__)
def test_a_lost_answer_is_asked_for_again_with_the_same_bytes(twin, make, name, failure):
    outcome, asked = attempt(twin, make, name, failure, failure, CALLS[name][1])
    assert outcome.error is None
    assert len(asked) == 3
    assert len({(request.method, str(request.url), request.content) for request in asked}) == 1
    assert outcome.pauses[0] <= 0.1
    assert outcome.pauses[1] <= 0.2


def test_a_repeated_step_carries_its_number(twin, make):
    _, (first, second) = attempt(twin, make, "step", LOST[0], {**STEP, "replayed": True})
    assert first.content == second.content == b'{"gradients":[0.5],"step":1,"return":"params"}'


def test_a_create_chooses_one_id_for_all_its_attempts(twin, make):
    def ids(asked):
        return {request.content for request in asked}

    _, asked = attempt(twin, make, "create", LOST[0], SESSION)
    _, others = attempt(twin, make, "create", LOST[0], SESSION)
    assert len(ids(asked)) == 1
    assert ids(asked) != ids(others)


@pytest.mark.parametrize("name", CALLS)
def test_when_nothing_helps(twin, make, name):
    outcome, asked = attempt(twin, make, name, *[LOST[0]] * 3, retries=2)
    error = outcome.error
    assert isinstance(error, thalweg.ConnectionFailed)
    assert len(asked) == error.attempts == 3
    assert len(outcome.pauses) == 2
    assert "after 3 attempts (ReadTimeout: slow)" in str(error)
    assert error.outcome_unknown == (name in WRITES)
    assert ("The outcome is unknown." in str(error)) == (name in WRITES)


def test_the_advice_says_what_may_be_sent_again(twin, make):
    step, _ = attempt(twin, make, "step", LOST[0], retries=0)
    assert "The same step may be sent again" in str(step.error)
    create, (asked,) = attempt(twin, make, "create", LOST[0], retries=0)
    assert json.loads(asked.content)["id"] in str(create.error)


@pytest.mark.parametrize("status", [500, 502, 503])
def test_a_5xx_leaves_the_outcome_unknown(twin, make, status):
    outcome, _ = attempt(twin, make, "step", *[refused(make, status)] * 2, retries=1)
    assert outcome.error.status == status
    assert outcome.error.outcome_unknown
    assert "The same step may be sent again" in str(outcome.error)


@pytest.mark.parametrize("status", [409, 429])
def test_a_refusal_is_no_unknown_outcome(twin, make, status):
    outcome, _ = attempt(twin, make, "step", *[refused(make, status)] * 2, retries=1)
    assert outcome.error.attempts == 2
    assert not outcome.error.outcome_unknown


@pytest.mark.parametrize("status", [410, 412, 422])
def test_a_plain_no_settles_an_unknown_outcome(twin, make, status):
    outcome, _ = attempt(twin, make, "step", LOST[0], make.problem(status, "other"))
    assert outcome.error.attempts == 2
    assert not outcome.error.outcome_unknown


def test_unknown_stays_unknown_when_the_last_attempt_was_not_sent(twin, make):
    outcome, _ = attempt(twin, make, "step", LOST[1], UNSENT[0], retries=1)
    assert outcome.error.outcome_unknown


def test_what_was_never_sent_was_not_carried_out(twin, make):
    outcome, _ = attempt(twin, make, "step", *[UNSENT[0]] * 2, retries=1)
    assert not outcome.error.outcome_unknown
    assert "Nothing was carried out. Is the service running at this address?" in str(outcome.error)
    assert "http://127.0.0.1:8000" in str(outcome.error)


def test_a_request_that_is_itself_at_fault_is_not_repeated(twin, make):
    outcome, asked = attempt(twin, make, "get", httpx.LocalProtocolError("illegal header"))
    assert isinstance(outcome.error, thalweg.ConnectionFailed)
    assert len(asked) == 1


def test_a_redirect_is_not_followed(twin, make):
    moved = httpx.Response(307, headers={"location": "https://example.org/v1/sessions/s"})
    outcome, (_,) = attempt(twin, make, "step", moved)
    assert "It points to https://example.org/v1/sessions/s; is base_url right?" in str(outcome.error)


@pytest.mark.parametrize("unknown", [LOST[0], httpx.Response(502)])
@pytest.mark.parametrize(("status", "code"), [(404, "not-found"), (410, "gone")])
def test_a_delete_whose_answer_was_lost(twin, make, unknown, status, code):
    outcome, asked = attempt(twin, make, "delete", unknown, make.problem(status, code))
    assert outcome.error is None
    assert len(asked) == 2


@pytest.mark.parametrize("known", [UNSENT[0], httpx.Response(429)])
def test_a_delete_of_what_was_never_there(twin, make, known):
    outcome, _ = attempt(twin, make, "delete", known, make.problem(404, "not-found"))
    assert isinstance(outcome.error, thalweg.NotFound)


def test_gone_after_a_lost_step_is_an_error(twin, make):
    outcome, _ = attempt(twin, make, "step", LOST[0], make.problem(410, "gone"))
    assert isinstance(outcome.error, thalweg.Gone)


@pytest.mark.parametrize("status", [409, 429, 503])
def test_retry_after_is_honoured(twin, make, status):
    busy = make.problem(status, "other", headers={"retry-after": "7"})
    outcome, _ = attempt(twin, make, "step", busy, busy, STEP)
    assert outcome.error is None
    assert outcome.pauses == [7.0, 7.0]


def test_retry_after_as_a_date(twin, make):
    busy = make.problem(503, "unavailable", headers={"retry-after": formatdate(usegmt=True)})
    outcome, _ = attempt(twin, make, "get", busy, {})
    assert outcome.pauses == [0.0]


def test_a_longer_wait_than_the_patience_is_raised(twin, make):
    busy = make.problem(429, "too-many", headers={"retry-after": "61"})
    outcome, asked = attempt(twin, make, "step", busy)
    assert isinstance(outcome.error, thalweg.TooMany)
    assert outcome.error.retry_after == 61.0
    assert len(asked) == 1
    outcome, _ = attempt(twin, make, "step", busy, STEP, retries=thalweg.Retries(patience=100))
    assert outcome.pauses == [61.0]


def test_retry_after_is_read():
    now = datetime(2026, 1, 1, tzinfo=UTC)
    later = format_datetime(now + timedelta(seconds=90), usegmt=True)
    headers = [
        None,
        "0",
        " 12 ",
        "1.5",
        later,
        later.replace("GMT", "-0000"),
        "-1",
        "1e9",
        "inf",
        "soon",
        "",
        "9" * 400,
    ]
    seconds = [None, 0.0, 12.0, 1.5, 90.0, 90.0, None, None, None, None, None, None]
    assert [retry_after(header, now.timestamp()) for header in headers] == seconds
    assert retry_after(later, now.timestamp() + 1000) == 0.0


@given(st.integers(1, 10**6), st.floats(0, 1), st.integers(0, 10**6))
def test_pauses_are_bounded(attempts, draw, limit):
    pause = thalweg.Retries(limit=limit).pause(attempts, asked=None, draw=draw)
    if attempts > limit:
        assert pause is None
    else:
        assert 0 <= pause <= 5.0


def test_the_bound_doubles():
    retries = thalweg.Retries(limit=8, first=0.1, longest=5.0)
    assert [retries.pause(n, asked=None, draw=1.0) for n in range(1, 10)] == [
        0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, None
    ]  # fmt: skip
    assert retries.pause(3, asked=None, draw=0.5) == 0.2
    assert retries.pause(3, asked=None, draw=0.0) == 0.0


def test_the_statuses():
    assert [status for status in range(200, 600) if repeatable(status)] == [408, 409, 425, 429, *range(500, 600)]


@pytest.mark.parametrize("name", ["limit", "first", "longest", "patience"])
@pytest.mark.parametrize("value", [-1, float("nan")])
def test_nonsense_is_refused(name, value):
    with pytest.raises(thalweg.InvalidInput):
        thalweg.Retries(**{name: value})
