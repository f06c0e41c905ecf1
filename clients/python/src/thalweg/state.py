"""What a client remembers of a session.

The number of the last step that is known to be taken, its parameters, and the steps that a crash of the service could
still undo. The next step is always sent with its number, so that sending it again, by the retries or by the caller,
cannot apply it twice.
"""

from __future__ import annotations

import math
import secrets
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, SupportsFloat, TypeVar

from thalweg import sessions
from thalweg.errors import InvalidInput, Misuse, Place, StepMismatch, StepsLost
from thalweg.forms import Form, in_bytes
from thalweg.requests import (
    BYTES,
    JSON,
    SAFETENSORS,
    Answer,
    Call,
    Record,
    Request,
    Script,
    asked,
    decode,
    encode,
    encode_bytes,
    encode_file,
    given,
    member,
    path,
)
from thalweg.ring import Gradient, Ring
from thalweg.safetensors import carries
from thalweg.sessions import SAME_AGAIN, View
from thalweg.steps import Returning, Step, read
from thalweg.tensors import Checked, Shapes, Tensors, TensorsLike, check, from_json, kept, shapes, size, weight

T = TypeVar("T")
REPLAY_BYTES = 64 << 20
TURNS = 20  # crashes of the service that one call lives through

STEP_AGAIN = "The same step may be sent again, with the same gradients: it is applied at most once."


class SessionState:
    """What is known of one session, and the calls that follow from it; reading their answers brings it up to date."""

    def __init__(
        self,
        id: str,
        *,
        non_finite: str | None = None,
        layout: Shapes | None = None,
        form: Form | None = None,
        worker: str | None = None,
    ) -> None:
        self.id = id
        self.info: Record = {}
        self.step_number = 0
        self.durable_step = 0
        self.params: Tensors | None = None
        self.ring = Ring(REPLAY_BYTES)
        self.form = form
        self.worker = worker
        self._dtype: str | None = None
        self._non_finite = non_finite or "reject"
        self._layout = layout
        self._binary = in_bytes(form, layout)
        self._bytes = 0 if layout is None else 8 * size(layout)  # of its parameters, at most
        self._steps = path("sessions", id, "steps")
        self._stepping = threading.Lock()

    # What answers say of the session

    def describe(self, document: Record) -> Record:
        """Remember a description of the session."""
        self.info = {name: value for name, value in document.items() if name not in ("params", "replayed")}
        self.durable_step = document.get("durable_step", self.durable_step)
        self._dtype = document.get("dtype", self._dtype)
        self._non_finite = document.get("non_finite", self._non_finite)
        found = document.get("shapes")
        if found is not None:
            self._lay_out({k: tuple(v) for k, v in found.items()} if isinstance(found, dict) else tuple(found))
        return self.info

    def place(self, document: Record) -> None:
        """Remember where the session stands."""
        step = member(document, "step")
        if step != self.step_number:  # others have stepped, or steps were taken back: what is kept fits no longer
            self.ring.clear()
        self.step_number = step
        self.durable_step = min(step, document.get("durable_step", self.durable_step)) if self._may_lose else step
        tree = document.get("params")
        self.params = None if tree is None else from_json(tree, self._dtype, self._layout)
        if self.params is not None:
            self._lay_out(shapes(self.params))

    @property
    def _may_lose(self) -> bool:
        """Whether steps are answered before they are durable."""
        return bool(self.info.get("durability", "step") != "step")

    def _lay_out(self, layout: Shapes) -> None:
        self._layout, self._binary, self._bytes = layout, in_bytes(self.form, layout), 8 * size(layout)

    # Calls

    def description(self) -> Call[Record]:
        """Read the description anew; half of a refresh."""
        return Call(sessions.get(self.id).request, lambda answer: self.describe(decode(answer)))

    def position(self) -> Call[None]:
        """Read the step and its parameters anew, from one answer, so that they belong together; the other half."""
        request = self._with_numbers(sessions.params(self.id).request, BYTES)
        return Call(request, lambda answer: self.place(self._decode(answer)))

    def refreshing(self) -> Script[None]:
        """Read everything anew."""
        yield self.description()
        yield self.position()

    def update(
        self, hyperparameters: Mapping[str, Any] | None, labels: Mapping[str, str] | None, ttl_seconds: float | None
    ) -> Call[Record]:
        """Change the session, and remember its new description."""
        call = sessions.update(self.id, hyperparameters=hyperparameters, labels=labels, ttl_seconds=ttl_seconds)
        return Call(call.request, lambda answer: self.describe(decode(answer)))

    def step_at(self, n: int) -> Call[Step]:
        """Step `n`, its arrays in the session's own type and shapes."""
        request = self._with_numbers(sessions.step_at(self.id, n).request, SAFETENSORS)
        return Call(request, lambda answer: read(self._decode(answer), self._dtype, self._layout))

    def params_at(self, step: int | None, view: View | None) -> Call[Tensors]:
        """The parameters after `step`, in the session's own type and shapes."""
        request = self._with_numbers(sessions.params(self.id, step, view).request, BYTES)
        return Call(
            request, lambda answer: from_json(member(self._decode(answer), "params"), self._dtype, self._layout)
        )

    def rewinding(self, step: int) -> Script[None]:
        """Take back the steps above `step`, and remember where the session stands then."""
        with self.one_at_a_time():
            yield from self.recovering(self._rewind(step))

    def _rewind(self, step: int) -> Call[None]:
        body = encode({"step": step, "from": self.step_number, "return": "params"})
        request = Request("POST", path("sessions", self.id, "rewind"), body, again=SAME_AGAIN)

        def parse(answer: Answer) -> None:
            document = self._decode(answer)
            self.describe(document)
            self.place(document)

        return Call(self._with_numbers(request, SAFETENSORS), parse)

    def forking(self, step: int | None, id: str | None, labels: Mapping[str, str] | None) -> Script[SessionState]:
        """Another session that goes on from `step` of this one."""
        made = yield from self.recovering(self._fork(self.step_number if step is None else step, id, labels))
        return made

    def _fork(self, step: int, id: str | None, labels: Mapping[str, str] | None) -> Call[SessionState]:
        id = new_id() if id is None else id
        body = encode(given(step=step, id=id, labels=labels))
        again = f"The fork may exist: the same call with id={id!r} makes it or finds it."
        request = Request("POST", path("sessions", self.id, "fork"), body, again=again)
        return Call(
            self._with_numbers(request, SAFETENSORS),
            lambda answer: opened(answer, self.form, self.worker, self._layout, self._non_finite),
        )

    def _with_numbers(self, request: Request, single: str) -> Request:
        """The request, its answer as bytes where that is faster; `single` is the form of an array without a name."""
        if not self._binary:
            return request
        accept = SAFETENSORS if isinstance(self._layout, dict) else single
        return request._replace(accept=accept, expects=self._bytes)

    def _decode(self, answer: Answer, arrays: str = "params") -> Record:
        return decode(answer, arrays, self._layout, self._dtype)

    # Steps

    @contextmanager
    def one_at_a_time(self) -> Iterator[None]:
        """Refuses a second step while one is under way: both would carry the same number."""
        if not self._stepping.acquire(blocking=False):
            raise Misuse(
                "A step or a stream of this session is under way; wait for its end before you send the next step."
            )
        try:
            yield
        finally:
            self._stepping.release()

    def stepping(
        self, gradients: TensorsLike, loss: SupportsFloat | None, returning: Returning, worker: str | None
    ) -> Script[Step]:
        """Take the next step."""
        with self.one_at_a_time():
            taken = yield from self.recovering(self.taking(self.next(gradients, loss, worker), returning))
        return taken

    def next(
        self, gradients: TensorsLike, loss: SupportsFloat | None = None, worker: str | None = None, ahead: int = 0
    ) -> Gradient:
        """The step that comes after `ahead` others. Raises InvalidInput."""
        lenient = self._non_finite != "reject"
        tensors = check(gradients, "/gradients", non_finite=lenient)
        # it may have to be sent again when the caller's arrays hold something else
        if self._may_lose and weight(tensors) < self.ring.limit:
            tensors = kept(tensors)
        return Gradient(self.step_number + ahead + 1, tensors, _finite_loss(loss, lenient), worker or self.worker)

    def taking(self, gradient: Gradient, returning: Returning) -> Call[Step]:
        """The call that takes a step."""
        request = self._request(gradient, returning)
        return Call(request, lambda answer: self.taken(gradient, self.answer(answer, returning)))

    def _request(self, gradient: Gradient, returning: Returning) -> Request:
        fields, tensors = _fields(gradient, returning), gradient.tensors
        if not self._fits(tensors):
            body = encode(fields, {"gradients": tensors})
            return Request("POST", self._steps, body, again=STEP_AGAIN)
        if isinstance(tensors, dict) or tensors.shape != self._layout:  # with its shape, for the service to refuse
            address, body = self._steps, encode_file(fields, "gradients", tensors)
        else:
            address = path("sessions", self.id, "steps", query=asked(fields))
            body = encode_bytes(tensors, self._dtype)
        accept, expects = (JSON, 0) if returning == "none" else (body.media_type, self._bytes)
        return Request("POST", address, body, accept, STEP_AGAIN, expects=expects)

    def _fits(self, tensors: Checked) -> bool:
        """Whether these go as bytes: they are many, and have names or none as the parameters do."""
        return (
            self._binary
            and isinstance(tensors, dict) == isinstance(self._layout, dict)
            and (not isinstance(tensors, dict) or carries(tensors))
        )

    def message(self, gradient: Gradient, returning: Returning) -> str | bytes:
        """A step as a message of a stream: a copy, whatever becomes of the caller's arrays."""
        fields, tensors = _fields(gradient, returning), gradient.tensors
        if self._fits(tensors):
            return encode_file(fields, "gradients", tensors).content
        return encode(fields, {"gradients": tensors}).content.decode()

    def item(self, gradient: Gradient, returning: Returning) -> bytes:
        """A step as one of many in a request."""
        fields = {"session": self.id, **_fields(gradient, returning)}
        return encode(fields, {"gradients": gradient.tensors}).content

    def answer(self, answer: Answer, returning: Returning) -> Step:
        """The step that an answer speaks of."""
        return self.shown(self._decode(answer, "params" if returning == "none" else returning))

    def shown(self, document: Record) -> Step:
        """The step that the object in an answer describes."""
        return read(document, self._dtype, self._layout)

    def taken(self, gradient: Gradient, step: Step) -> Step:
        """Remember a step that was answered, and keep it for as long as it may be lost."""
        self.step_number, self.params = step.step, step.params
        self.durable_step = step.step if step.durable_step is None else step.durable_step
        if self.durable_step < step.step:
            self.ring.add(gradient)
        self.ring.settle(self.durable_step)
        return step

    # After a crash of the service

    def recovering(self, call: Call[T]) -> Script[T]:
        """A call that counts on the steps before it: where the service has lost some, they are sent again first."""
        for _ in range(TURNS):
            try:
                value: T = yield call
            except StepMismatch as error:
                behind = self.fallen(error)
            else:
                return value
            yield from self.replaying(behind)
        value = yield call
        return value

    def fallen(self, error: StepMismatch) -> int:
        """The step after which all are to be sent again, where the service fell back and the steps since are here.

        The one at which it stands is among them, where it is here: it is answered again if it is still the same one.
        Raises StepsLost where they are not, and the error itself where it says something else: the session was not
        there before, or steps that were durable are gone, which only a rewind does.
        """
        current = error.current_step
        if current is None or not self.durable_step <= current < self.step_number:
            raise error
        if self.ring.get(current + 1) is None:
            raise self._lost(error, current) from error
        return current if self.ring.get(current) is None else current - 1

    def _lost(self, error: StepMismatch, current: int) -> StepsLost:
        first = self.ring.first
        here = "none of them is" if first is None else f"only those from {first} on are"
        lost = StepsLost(
            f"The service is back at step {current}, and this session was at step {self.step_number}; of the steps "
            f"since then {here} still here. Call refresh(), then send the gradients from step {current + 1} on again.",
            title=error.title,
            request_id=error.request_id,
            extensions=error.extensions,
        )
        lost.attempts = error.attempts
        return lost

    def replaying(self, behind: int) -> Script[None]:
        """Send the steps after `behind` again, each exactly as it was. Raises StepReused where another program has
        taken one of them differently in the meantime."""
        while behind < self.step_number:
            gradient = self.ring.get(behind + 1)
            if gradient is None:
                raise Misuse("The steps to send again are gone; was the session refreshed meanwhile?")
            try:
                yield Call(self._request(gradient, "none"), decode)
            except StepMismatch as error:
                behind = self.fallen(error)
            else:
                behind += 1

    def newest(self) -> Tensors:
        """The parameters after the last step. Raises Misuse where that step did not bring them along."""
        if self.params is None:
            raise Misuse(
                f"The parameters after step {self.step_number} are not known here, as they were not asked for; "
                "session.refresh() reads them."
            )
        return self.params


def _fields(gradient: Gradient, returning: Returning) -> Record:
    return given(step=gradient.step, loss=gradient.loss, worker=gradient.worker) | {"return": returning}


def _finite_loss(loss: SupportsFloat | None, lenient: bool) -> float | None:
    """The loss as a number. Under a lenient policy a non-finite one is left out: it is no reason to stop either."""
    if loss is None:
        return None
    number = float(loss)
    if math.isfinite(number):
        return number
    if lenient:
        return None
    detail = f"The loss must be finite; found {number}."
    raise InvalidInput(detail, errors=[Place("/loss", detail)])


class SessionView:
    """What a session object of either client shows without asking the service."""

    def __init__(self, state: SessionState) -> None:
        self._state = state

    @property
    def id(self) -> str:
        """The session's identifier; `client.sessions.open(id)` takes it up again, in any program."""
        return self._state.id

    @property
    def info(self) -> Record:
        """The newest description that was received: the resolved optimizer, labels, times."""
        return self._state.info

    @property
    def labels(self) -> dict[str, str]:
        """The labels in that description."""
        return dict(self._state.info.get("labels", {}))

    @property
    def step_number(self) -> int:
        """The number of the last step that is known to be taken; 0 before the first."""
        return self._state.step_number

    @property
    def durable_step(self) -> int:
        """The newest step that is known to survive a crash of the service."""
        return self._state.durable_step

    @property
    def params(self) -> Tensors:
        """The newest parameters: an array, or a dict from name to array, in the shapes given at creation.

        Raises Misuse after a step that did not return parameters; `refresh` reads them.
        """
        return self._state.newest()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id!r}, step {self.step_number})"


def opened(
    answer: Answer,
    form: Form | None,
    worker: str | None,
    layout: Shapes | None = None,
    non_finite: str | None = None,
) -> SessionState:
    """The session that an answer describes."""
    document = decode(answer, "params", layout)
    state = SessionState(member(document, "id"), non_finite=non_finite, layout=layout, form=form, worker=worker)
    state.describe(document)
    state.place(document)
    return state


def new_id() -> str:
    """An id that nobody else chooses, so that a call that makes a session may be made again."""
    return f"c_{secrets.token_hex(12)}"
