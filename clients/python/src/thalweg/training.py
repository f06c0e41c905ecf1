"""An optimizer of torch's kind whose steps a session takes; `thalweg.torch.Optimizer` is its public name.

This module imports torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from thalweg import exchange
from thalweg.client import Client, Session
from thalweg.errors import InvalidInput, StepMismatch
from thalweg.requests import Record, named
from thalweg.tensors import Array

torch = exchange.library("torch")

NOT_OPTIONS = ("params", "param_names", "initial_lr", "swa_lr")  # of a group: torch's own, and its schedulers'


class Optimizer(torch.optim.Optimizer):  # type: ignore[misc, name-defined]
    """A torch.optim.Optimizer that sends the gradients to a session and copies the new parameters back.

        optimizer = thalweg.torch.Optimizer(model.named_parameters(), client, {"like": "torch.optim.AdamW", "lr": 1e-3})

    params      as for any optimizer of torch's; with names, from `named_parameters()`, they have these in the session
    optimizer   the specification, as for `client.sessions.create`
    id          of the session; the same call in another process, from the same parameters, goes on with it
    options     what else `client.sessions.create` takes: transforms, durability, labels, ...

    Loops and schedulers work unchanged. The options in `param_groups` have torch's names, where the optimizer is in
    torch's words or dialect, and the service's otherwise; the learning rate is "lr" always. What a scheduler or the
    loop changes there is in force from the next step on. Where the specification itself has a schedule for the
    learning rate, `lr` shows it.

    Each group of parameters is a session of its own, `sessions` in order, with `id` and then "id-1", "id-2", ...; what
    measures all parameters together, a global norm for instance, measures those of one group.

    A step is taken exactly once. After an error whose outcome is unknown, call `step` again with the same gradients:
    groups that were stepped already are not stepped again.
    """

    def __init__(
        self,
        params: Any,
        client: Client,
        optimizer: str | Mapping[str, Any],
        *,
        id: str | None = None,
        **options: Any,
    ) -> None:
        self.sessions: list[Session] = []
        self._client = client
        self._specification = dict(named(optimizer))
        self._id = id
        self._options = options
        self._words: Record = {}
        self._stepped = 0  # groups that have taken the step that is under way
        super().__init__(params, {})
        self.defaults = {key: self.param_groups[0][key] for key in self._words if key in self.param_groups[0]}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters, with options of their own, as another session."""
        super().add_param_group(param_group)
        group, number = self.param_groups[-1], len(self.sessions)
        try:
            session = self._open(group, number)
        except BaseException:
            self.param_groups.pop()
            raise
        self.sessions.append(session)
        self._words = self._words or _words(self._client, session)
        self._show(number)
        self._copy(number)

    def _open(self, group: Mapping[str, Any], number: int) -> Session:
        options = {key: value for key, value in group.items() if key not in NOT_OPTIONS}
        if not self._specification.get("like", "").startswith("torch.") and "lr" in options:
            options["learning_rate"] = options.pop("lr")
        params = {name: _array(p, "parameters") for name, p in self._named(number)}
        return self._client.sessions.create(
            {**self._specification, **{key: exchange.plain(value) for key, value in options.items()}},
            params,
            id=self._id if self._id is None or number == 0 else f"{self._id}-{number}",
            dtype=exchange.dtype_of(params),
            **self._options,
        )

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step with the gradients at hand, or with those that `closure` computes; returns what that returns.

        A parameter whose `grad` is None has no gradient, and stays. Raises what `Session.step` raises, and
        InvalidInput for a sparse gradient.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for number in range(self._stepped, len(self.sessions)):
            session = self.sessions[number]
            self._tell(number)
            gradients = {
                name: None if p.grad is None else _array(p.grad, "gradients") for name, p in self._named(number)
            }
            answer = session.step(gradients, _number(loss))
            self._stepped = number + 1
            self._copy(number)
            if self._shown("lr", session):
                self.param_groups[number]["lr"] = answer.learning_rate
        self._stepped = 0
        return loss

    def state_dict(self) -> dict[str, Any]:
        """The groups, and where each session stands: its `id` and `step`. The moments are at the service."""
        kept: dict[str, Any] = super().state_dict()
        kept["state"] = {}
        kept["sessions"] = [{"id": session.id, "step": session.step_number} for session in self.sessions]
        return kept

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there, parameters included: they are copied from the sessions.

        A session that has moved on since is left alone, and a fork of it goes on from that step. Raises StepMismatch
        for one that is not there yet, NotFound and Gone, and what torch raises where the groups are others.
        """
        super().load_state_dict(state_dict)
        opened = [_at(self._client, kept["id"], kept["step"]) for kept in state_dict["sessions"]]
        for number, session in enumerate(opened):
            if not isinstance(session.params, dict) or set(session.params) != {name for name, _ in self._named(number)}:
                raise InvalidInput(f"The session {session.id!r} has other parameters than group {number}.")
        self.sessions, self._stepped = opened, 0
        for number in range(len(opened)):
            self._copy(number)

    # The two sides of a group

    def _named(self, number: int) -> Iterator[tuple[str, Any]]:
        """The parameters of a group with their names, which are their numbers where they have none."""
        group = self.param_groups[number]
        before = sum(len(other["params"]) for other in self.param_groups[:number])
        names = group.get("param_names") or [str(before + i) for i in range(len(group["params"]))]
        return zip(names, group["params"], strict=True)

    def _copy(self, number: int) -> None:
        found = self.sessions[number].params
        assert isinstance(found, dict)
        with torch.no_grad():
            for name, p in self._named(number):
                p.copy_(torch.from_numpy(np.array(found[name])))

    def _shown(self, word: str, session: Session) -> bool:
        """Whether an option follows a schedule of the service's, so that here it is only shown."""
        told = self._words.get(word)
        return told is not None and any(isinstance(session.info["optimizer"][ours], Mapping) for ours in told["is"])

    def _show(self, number: int) -> None:
        """Put the session's options into the group."""
        session, group = self.sessions[number], self.param_groups[number]
        values = session.info["hyperparameters"]
        for word, told in self._words.items():
            items = [values[ours] for ours in told["is"]]
            group[word] = tuple(items) if told.get("list") else items[0]

    def _tell(self, number: int) -> None:
        """Send what was changed in the group since."""
        session, group = self.sessions[number], self.param_groups[number]
        known = session.info["optimizer"]
        words = {word: told for word, told in self._words.items() if not self._shown(word, session)}
        wanted = exchange.values_of({"arguments": words}, group)
        changed = {name: value for name, value in wanted.items() if value != known[name]}
        if changed:
            session.update(hyperparameters=changed)


def _words(client: Client, session: Session) -> Record:
    """What the options are called in a group: by torch in its dialect, as the service does otherwise, but for "lr"."""
    optimizer = session.info["optimizer"]
    form = exchange.entry(client, optimizer["name"])["exchange"].get("torch", {})
    if optimizer["dialect"] == "torch" and "arguments" in form:
        found: Record = form["arguments"]
        return found
    names = [n for n, v in session.info["hyperparameters"].items() if isinstance(v, bool | int | float | str)]
    words: Record = {"lr" if name == "learning_rate" else name: {"is": [name]} for name in names}
    if "beta1" in words and "beta2" in words:  # as torch's schedulers of momentum look for them
        del words["beta1"], words["beta2"]
        words["betas"] = {"is": ["beta1", "beta2"], "list": True}
    return words


def _at(client: Client, id: str, step: int) -> Session:
    """A session that stands at a step: itself, or a fork of it where it has moved on."""
    session = client.sessions.open(id)
    if session.step_number < step:
        raise StepMismatch(
            f"The session {id!r} stands at step {session.step_number}, before the {step} of the state to be loaded.",
            extensions={"current_step": session.step_number},
        )
    return session if session.step_number == step else session.fork(step)


def _number(loss: Any) -> float | None:
    return None if loss is None else float(loss.detach() if torch.is_tensor(loss) else loss)


def _array(tensor: Any, what: str) -> Array:
    """A view of a tensor, or a copy where it is on another device."""
    if tensor.layout != torch.strided or tensor.dtype not in (torch.float32, torch.float64):
        raise InvalidInput(
            f"The {what} of a session are dense, and float64 or float32; here is {tensor.layout}, {tensor.dtype}."
        )
    array: Array = tensor.detach().cpu().numpy()
    return array
