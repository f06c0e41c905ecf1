"""Steps of many sessions in one request."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple, TypeAlias

from thalweg.errors import InvalidInput, ProblemError, StepMismatch, ThalwegError, UnexpectedAnswer, from_document
from thalweg.requests import JSON, Answer, Body, Call, Request, Script, decode, member, path
from thalweg.retries import repeatable
from thalweg.ring import Gradient
from thalweg.state import STEP_AGAIN, SessionState, SessionView
from thalweg.steps import Returning, Step
from thalweg.tensors import TensorsLike

MAX_ITEMS = 1_000  # what the service takes in one request
MAX_BYTES = 32 << 20

Item: TypeAlias = tuple[SessionView, TensorsLike] | tuple[SessionView, TensorsLike, float | None]
Outcome: TypeAlias = Step | ThalwegError


class _Entry(NamedTuple):
    state: SessionState
    gradient: Gradient
    text: bytes


def step_many(items: Iterable[Item], returning: Returning) -> Script[list[Outcome]]:
    """Take a step for each item; what `Client.step_many` says."""
    listed = [_parts(item) for item in items]
    states = list(dict.fromkeys(view._state for view, _, _ in listed))
    with ExitStack() as stack:
        for state in states:
            stack.enter_context(state.one_at_a_time())
        entries = _entries(listed, returning)
        outcomes: list[Outcome] = []
        for some in _requests(entries):
            documents = yield _call(some)
            for entry, document in zip(some, documents, strict=True):
                outcomes.append(_outcome(entry, document))
        yield from _again(entries, outcomes, returning)
    return outcomes


def _parts(item: Any) -> tuple[SessionView, TensorsLike, float | None]:
    if not isinstance(item, tuple) or len(item) not in (2, 3) or not isinstance(item[0], SessionView):
        raise InvalidInput("An item is (session, gradients) or (session, gradients, loss).")
    return item[0], item[1], item[2] if len(item) == 3 else None


def _entries(items: Sequence[tuple[SessionView, TensorsLike, float | None]], returning: Returning) -> list[_Entry]:
    """The steps with their numbers, which count up where a session comes more than once."""
    ahead: dict[SessionState, int] = {}
    entries = []
    for view, gradients, loss in items:
        state = view._state
        gradient = state.next(gradients, loss, ahead=ahead.get(state, 0))
        ahead[state] = ahead.get(state, 0) + 1
        entries.append(_Entry(state, gradient, state.item(gradient, returning)))
    return entries


def _requests(entries: Sequence[_Entry]) -> Iterable[list[_Entry]]:
    """As many as one request takes, in order."""
    some: list[_Entry] = []
    size = 0
    for entry in entries:
        if some and (len(some) == MAX_ITEMS or size + len(entry.text) > MAX_BYTES):
            yield some
            some, size = [], 0
        some.append(entry)
        size += len(entry.text)
    if some:
        yield some


def _call(entries: Sequence[_Entry]) -> Call[list[Any]]:
    content = b'{"steps":[' + b",".join(entry.text for entry in entries) + b"]}"

    def parse(answer: Answer) -> list[Any]:
        results = member(decode(answer), "results")
        if not isinstance(results, list) or len(results) != len(entries):
            raise UnexpectedAnswer(f"{len(entries)} steps were sent, and the answer has not as many results.")
        return results

    return Call(Request("POST", path("steps"), Body(JSON, (content,), len(content)), again=STEP_AGAIN), parse)


def _outcome(entry: _Entry, document: Any) -> Outcome:
    if not isinstance(document, dict):
        raise UnexpectedAnswer("A result should be a JSON object.")
    if "status" in document:
        return from_document(document["status"], document)
    return entry.state.taken(entry.gradient, entry.state.shown(document))


def _again(entries: Sequence[_Entry], outcomes: list[Outcome], returning: Returning) -> Script[None]:
    """Send those one by one that may yet be taken: the service was busy, or had lost steps that are still here.

    Where one of a session is, those after it, which counted on it, follow.
    """
    hopeful: dict[SessionState, bool] = {}
    for i, entry in enumerate(entries):
        error = outcomes[i]
        if not isinstance(error, ProblemError) or hopeful.get(entry.state) is False:
            continue
        try:
            if entry.state not in hopeful:
                hopeful[entry.state] = _may_yet(entry.state, error)
            if hopeful[entry.state]:
                outcomes[i] = yield from entry.state.recovering(entry.state.taking(entry.gradient, returning))
        except ThalwegError as final:
            outcomes[i], hopeful[entry.state] = final, False


def _may_yet(state: SessionState, error: ProblemError) -> bool:
    """Whether sending again may help. Raises StepsLost and StepMismatch where it was asked too late."""
    if isinstance(error, StepMismatch):
        state.fallen(error)
        return True
    return repeatable(error.status)
