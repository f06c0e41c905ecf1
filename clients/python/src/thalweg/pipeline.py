"""Steps over a WebSocket, many on their way at once: what is done in which order, and by no means how.

A `Pipeline` yields what is to be done next to a socket and is sent what came of it, so that the blocking and the
awaiting stream are the same. A socket that drops loses nothing: what had no answer is sent again on the next one, with
the same step numbers, and is taken once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from enum import Enum
from typing import Any, NamedTuple, SupportsFloat, TypeAlias

import httpx

from thalweg import text
from thalweg.errors import ProblemError, StepMismatch, UnexpectedAnswer, from_document
from thalweg.requests import JSON, SAFETENSORS, Answer, Call
from thalweg.retries import Attempts, repeatable
from thalweg.ring import Gradient
from thalweg.state import SessionState
from thalweg.steps import Returning, Step
from thalweg.tensors import TensorsLike


class Act(Enum):
    """What is done to the socket: it is opened, gives a message, is closed."""

    OPEN = 1
    RECEIVE = 2
    CLOSE = 3


class Send(NamedTuple):
    """A message to send."""

    message: str | bytes


class Pause(NamedTuple):
    """Seconds to wait."""

    seconds: float


class Refused(Exception):
    """The socket was refused, or closed, for a reason that an HTTP answer can say."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status_code)
        self.answer = answer


Moves: TypeAlias = Generator[Act | Send | Pause | Call[Any], Any, None]


class Flight(NamedTuple):
    """A step on its way."""

    gradient: Gradient
    message: str | bytes
    returning: Returning


class Pipeline:
    """The steps of one session that are on their way, and the answers that nobody has taken yet."""

    def __init__(self, state: SessionState, attempts: Callable[[], Attempts]) -> None:
        self.answers: deque[Step] = deque()
        self._state = state
        self._flying: deque[Flight] = deque()
        self._sent = 0  # of those in flight, how many went out on the socket that is open
        self._open = False
        self._attempts = attempts
        self._trouble: Attempts | None = None  # since the last answer

    @property
    def in_flight(self) -> int:
        """How many steps have no answer yet."""
        return len(self._flying)

    def add(self, gradients: TensorsLike, loss: SupportsFloat | None, returning: Returning, worker: str | None) -> None:
        """Let a step follow those in flight; `flow` sends it. Raises InvalidInput."""
        gradient = self._state.next(gradients, loss, worker, ahead=len(self._flying))
        self._flying.append(Flight(gradient, self._state.message(gradient, returning), returning))

    def flow(self, at_most: int) -> Moves:
        """Send what has not been sent, and bring answers in until at most so many steps are in flight.

        Raises what a step was refused with, after which nothing is in flight; ConnectionFailed, after which the same
        call goes on where it stopped.
        """
        while True:
            try:
                if not self._open:
                    yield Act.OPEN
                    self._open = True
                while self._sent < len(self._flying):
                    yield Send(self._flying[self._sent].message)
                    self._sent += 1
                if len(self._flying) <= at_most:
                    return
                problem = self._take((yield Act.RECEIVE))
            except httpx.RequestError as lost:
                yield from self._afresh()
                yield Pause(self._troubled().lost(lost))
                continue
            except Refused as refused:
                yield from self._afresh()
                yield from self._wait(refused.answer)
                continue
            if problem is not None:
                yield from self._settle(problem)

    def _take(self, message: str | bytes) -> ProblemError | None:
        """Read one message: the answer to the oldest step in flight, or the problem with it."""
        if not self._sent:
            raise UnexpectedAnswer("A message came over the socket, and no step was on its way.")
        answer = self._answer(message)
        flight = self._flying[0]
        if isinstance(message, str):
            document = text.read(message.encode())
            if isinstance(document, dict) and "status" in document:
                return from_document(document["status"], document, message.encode())
        step = self._state.answer(answer, flight.returning)
        if step.step != flight.gradient.step:
            raise UnexpectedAnswer(f"Step {flight.gradient.step} was answered as step {step.step}.")
        self._flying.popleft()
        self._sent -= 1
        self._trouble = None
        self.answers.append(self._state.taken(flight.gradient, step))
        return None

    def _answer(self, message: str | bytes) -> Answer:
        """The message as an answer; its arrays may be written to, as those of other answers."""
        if isinstance(message, str):
            return Answer(200, httpx.Headers({"content-type": JSON}), message.encode())
        return Answer(200, httpx.Headers({"content-type": SAFETENSORS}), memoryview(bytearray(message)))

    def _settle(self, error: ProblemError) -> Moves:
        """The oldest step was refused: lost steps are sent again, a busy service is given time, the rest is raised."""
        if isinstance(error, StepMismatch):
            try:
                behind = self._state.fallen(error)
            except StepMismatch as final:
                yield from self._give_up(final)
                raise
            yield from self._afresh()
            try:
                yield from self._state.replaying(behind)
            except ProblemError as final:
                if not repeatable(final.status):
                    self._flying.clear()
                raise
        elif repeatable(error.status):
            yield from self._afresh()
            after = {} if error.retry_after is None else {"retry-after": f"{error.retry_after:g}"}
            content = text.write({"code": error.code, "detail": error.detail, **error.extensions})
            yield from self._wait(Answer(error.status, httpx.Headers(after), content))
        else:
            yield from self._give_up(error)
            raise error

    def _give_up(self, error: ProblemError) -> Moves:
        """Let go of all that is in flight. Those behind the refused step are refused as well, for they count on it;
        their answers are awaited, so that none of them can follow another step of that number."""
        behind, sent = len(self._flying) - 1, self._sent - 1
        self._flying.clear()
        self._sent = 0
        if behind:
            noun = "step" if behind == 1 else "steps"
            error.advice = f"The {behind} {noun} sent after it are not taken either."
        try:
            for _ in range(sent):
                yield Act.RECEIVE
        except (httpx.RequestError, Refused):
            yield from self._afresh()

    def _afresh(self) -> Moves:
        """Go on with another socket, and send again all that is in flight."""
        self._sent, self._open = 0, False
        yield Act.CLOSE

    def _wait(self, answer: Answer) -> Moves:
        """Wait as long as an answer asks for. Raises it where it is final, and then nothing is in flight."""
        try:
            pause = self._troubled().answered(answer)
        except ProblemError as error:
            if not repeatable(error.status):
                self._flying.clear()
            self._trouble = None
            raise
        if pause is None:
            raise UnexpectedAnswer(f"{answer.status_code} came where a WebSocket was asked for.")
        yield Pause(pause)

    def _troubled(self) -> Attempts:
        if self._trouble is None:
            self._trouble = self._attempts()
        return self._trouble
