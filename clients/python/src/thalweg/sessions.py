"""Sessions: the calls, and what a client remembers between them.

A session's memory is two things: the number of the last step that is known to be taken, and its parameters. The next
step is always sent with its number, so that sending it again, by the retries or by the caller, cannot apply it twice.
"""

from __future__ import annotations

import math
import secrets
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, SupportsFloat, TypeAlias

import httpx

from thalweg.errors import InvalidInput, Misuse, Place
from thalweg.pages import Page, listing
from thalweg.requests import Call, Record, Request, decode, encode, given, member, named, path, reading
from thalweg.steps import Returning, Step, read
from thalweg.tensors import Shapes, Tensors, TensorsLike, check, from_json, shapes

NonFinitePolicy: TypeAlias = Literal["reject", "skip", "zero"]

STEP_AGAIN = "The same step may be sent again, with the same gradients: it is applied at most once."
SAME_AGAIN = "The same call may be made again: it says what shall be, and doing it twice is doing it once."


def create(
    optimizer: str | Mapping[str, Any],
    params: TensorsLike,
    *,
    id: str | None = None,
    dtype: str | None = None,
    transforms: Sequence[str | Mapping[str, Any]] | None = None,
    groups: Sequence[Mapping[str, Any]] | None = None,
    non_finite: NonFinitePolicy | None = None,
    durability: str | None = None,
    ttl_seconds: float | None = None,
    labels: Mapping[str, str] | None = None,
) -> Call[SessionState]:
    """A new session that minimizes with `optimizer` from `params`.

    `optimizer` is a name, or a specification: `{"name": "adam", "learning_rate": 0.01}`, or in a library's own words
    `{"like": "torch.optim.Adam", "lr": 0.01}`. `params` is an array (a list, a number) or a mapping from name to
    arrays; its order is the layout. `dtype` is "float64" unless said otherwise. `groups` overrides hyperparameters
    by name pattern: `[{"match": "*.bias", "weight_decay": 0}]`. `non_finite` says what becomes of NaN in gradients.

    Without `id` a random one is chosen here, so that a retry finds the session that a lost answer spoke of. With the
    `id` of a session that was created with the same arguments, that session is opened where it stands.

    Raises InvalidInput for NaN in `params`, Invalid for what the service refuses and for the `id` of another session,
    Gone for the `id` of a deleted one.
    """
    if isinstance(transforms, str | Mapping):
        raise InvalidInput("`transforms` is a list, in the order in which they are applied.")
    id = f"c_{secrets.token_hex(12)}" if id is None else id
    start = check(params, "/params")
    fields = given(
        optimizer=named(optimizer),
        dtype=dtype,
        transforms=None if transforms is None else [named(transform) for transform in transforms],
        groups=groups,
        non_finite=non_finite,
        durability=durability,
        id=id,
        ttl_seconds=ttl_seconds,
        labels=labels,
    )
    again = f"The session may exist: the same call with id={id!r} makes it or finds it."
    request = Request("POST", path("sessions"), encode(fields, {"params": start}), again=again)

    def parse(answer: httpx.Response) -> SessionState:
        document = decode(answer)
        state = SessionState(member(document, "id"), non_finite=non_finite, layout=shapes(start))
        state.describe(document)
        state.place(document)
        return state

    return Call(request, parse)


def get(id: str) -> Call[Record]:
    """The description of a session: specification, step, shapes, times, labels. Raises NotFound, Gone."""
    return reading(path("sessions", id))


def list(
    *, labels: Mapping[str, str] | None = None, state: str | None = None, page_size: int | None = None
) -> Call[Page[Record]]:
    """The descriptions of all sessions with these `labels` and in this `state`, newest first."""
    fixed = tuple(("label", f"{key}:{value}") for key, value in (labels or {}).items())
    return listing("sessions", read=dict, fixed=fixed, query={"state": state, "limit": page_size})


def update(
    id: str,
    *,
    hyperparameters: Mapping[str, Any] | None = None,
    labels: Mapping[str, str] | None = None,
    ttl_seconds: float | None = None,
) -> Call[Record]:
    """Change hyperparameters (from the next step on), all labels, or the time to live; returns the new description.

    `ttl_seconds=math.inf` lets the session live until it is deleted. Raises Invalid for an unknown hyperparameter or
    a wrong value, NotFound, Gone.
    """
    fields = given(hyperparameters=hyperparameters, labels=labels, ttl_seconds=ttl_seconds)
    if ttl_seconds == math.inf:
        fields["ttl_seconds"] = None
    return Call(Request("PATCH", path("sessions", id), encode(fields), again=SAME_AGAIN), decode)


def delete(id: str) -> Call[None]:
    """Delete a session. Raises NotFound or Gone, unless an attempt of this very call may have deleted it."""
    return Call(Request("DELETE", path("sessions", id), again=SAME_AGAIN, gone_is_done=True), lambda _: None)


def history(id: str, *, after: int | None = None, page_size: int | None = None) -> Call[Page[Step]]:
    """The steps after number `after`, oldest first, with norms and losses and without parameters."""
    query = {"after": after, "limit": page_size}
    return listing("sessions", id, "steps", read=read, query=query, mark="after", mark_of=lambda step: step.step)


def step_at(id: str, n: int) -> Call[Step]:
    """Step `n` as it was, with the parameters after it. Raises NotFound for a step that was not taken."""
    asked = reading(path("sessions", id, "steps", str(n)))

    def parse(answer: httpx.Response) -> Step:
        document = decode(answer)
        return read(document, document.get("dtype"))

    return Call(asked.request, parse)


def params(id: str, step: int | None = None) -> Call[Tensors]:
    """The parameters after `step`, or the newest ones. Raises NotFound, Gone."""
    asked = reading(path("sessions", id, "params", query=[("step", step)]))

    def parse(answer: httpx.Response) -> Tensors:
        document = decode(answer)
        return from_json(member(document, "params"), document.get("dtype"))

    return Call(asked.request, parse)


class SessionState:
    """What is known of one session, and the calls that follow from it; reading their answers brings it up to date."""

    def __init__(self, id: str, *, non_finite: str | None = None, layout: Shapes | None = None) -> None:
        self.id = id
        self.info: Record = {}
        self.step_number = 0
        self.params: Tensors | None = None
        self._dtype: str | None = None
        self._non_finite = non_finite or "reject"
        self._layout = layout
        self._steps = path("sessions", id, "steps")
        self._stepping = threading.Lock()

    def describe(self, document: Record) -> Record:
        """Remember a description of the session."""
        self.info = {name: value for name, value in document.items() if name != "params"}
        self._dtype = document.get("dtype", self._dtype)
        self._non_finite = document.get("non_finite", self._non_finite)
        return self.info

    def place(self, document: Record) -> None:
        """Remember where the session stands."""
        self.step_number = member(document, "step")
        tree = document.get("params")
        self.params = None if tree is None else from_json(tree, self._dtype, self._layout)
        if self.params is not None:
            self._layout = shapes(self.params)

    def description(self) -> Call[Record]:
        """Read the description anew; half of a refresh."""
        return Call(get(self.id).request, lambda answer: self.describe(decode(answer)))

    def position(self) -> Call[None]:
        """Read the step and its parameters anew, from one answer, so that they belong together; the other half."""
        return Call(params(self.id).request, lambda answer: self.place(decode(answer)))

    def update(
        self, hyperparameters: Mapping[str, Any] | None, labels: Mapping[str, str] | None, ttl_seconds: float | None
    ) -> Call[Record]:
        """Change the session, and remember its new description."""
        call = update(self.id, hyperparameters=hyperparameters, labels=labels, ttl_seconds=ttl_seconds)
        return Call(call.request, lambda answer: self.describe(decode(answer)))

    def step_at(self, n: int) -> Call[Step]:
        """Step `n`, its arrays in the session's own type and shapes."""
        return Call(step_at(self.id, n).request, lambda answer: read(decode(answer), self._dtype, self._layout))

    def params_at(self, step: int | None) -> Call[Tensors]:
        """The parameters after `step`, in the session's own type and shapes."""
        call = params(self.id, step)
        return Call(call.request, lambda answer: from_json(member(decode(answer), "params"), self._dtype, self._layout))

    @contextmanager
    def one_at_a_time(self) -> Iterator[None]:
        """Refuses a second step while one is under way: both would carry the same number."""
        if not self._stepping.acquire(blocking=False):
            raise Misuse("A step of this session is under way; wait for its answer before you send the next one.")
        try:
            yield
        finally:
            self._stepping.release()

    def step(self, gradients: TensorsLike, loss: SupportsFloat | None, returning: Returning) -> Call[Step]:
        """The next step."""
        lenient = self._non_finite != "reject"
        tensors = {"gradients": check(gradients, "/gradients", non_finite=lenient)}
        fields = given(step=self.step_number + 1, loss=_finite_loss(loss, lenient)) | {"return": returning}
        return Call(Request("POST", self._steps, encode(fields, tensors), again=STEP_AGAIN), self._taken)

    def _taken(self, answer: httpx.Response) -> Step:
        step = read(decode(answer), self._dtype, self._layout)
        self.step_number, self.params = step.step, step.params
        return step

    def newest(self) -> Tensors:
        """The parameters after the last step. Raises Misuse where that step did not bring them along."""
        if self.params is None:
            raise Misuse(
                f"The parameters after step {self.step_number} are not known here, as they were not asked for; "
                "session.refresh() reads them."
            )
        return self.params


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
    def step_number(self) -> int:
        """The number of the last step that is known to be taken; 0 before the first."""
        return self._state.step_number

    @property
    def params(self) -> Tensors:
        """The newest parameters: an array, or a dict from name to array, in the shapes given at creation.

        Raises Misuse after a step that did not return parameters; `refresh` reads them.
        """
        return self._state.newest()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id!r}, step {self.step_number})"
