"""Half a run here and half in the real library, which must be the same as all of it there.

The runs are the golden cases of tests/golden/cases.py, at scale 1. A module of tests has a class for its library:

    Library(case, initial)      an optimizer with the case's arguments, on these parameters
    .step(gradients, loss)      None for a tensor means that it has no gradient
    .params()                   by name
    .load(session)              goes on from a session: state and parameters
    .leave(client)              a session that goes on from it
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

os.environ |= {"JAX_ENABLE_X64": "1", "JAX_PLATFORMS": "cpu", "KERAS_BACKEND": "jax"}  # before jax is imported

import numpy as np
import pytest
import uvicorn
from service.main import create_app
from service.optim.exchange import STAYS
from service.optim.libraries.catalogue import SPELLINGS
from service.settings import Settings
from tests.golden import cases, make

import thalweg

HALF, WHOLE = 20, 40
# where the momentum is 0 and a buffer is kept nevertheless
FORGETFUL = {
    "torch.muon.no_iteration",
    "optax.optimistic_gradient_descent.no_optimism",
    "optax.momo.plain",
    "optax.lars.plain",
}
Tensors = dict[str, Any]


def listed(library: str) -> list[cases.Case]:
    """The cases of a library's own optimizers whose state moves.

    A schedule and clipping are not part of the optimizer there; rows come as another kind of tensor.
    """
    found = [*cases.TORCH, *cases.OPTAX, *cases.KERAS]
    for name in cases.FAMILIES:
        found += cases.family(name)
    plain = [c for c in found if c.library == library and not (c.scheduler or c.clip or c.rows or c.view != "train")]
    return [c for c in plain if ((SPELLINGS[c.like].algorithm, library) not in STAYS)]


class Moving:
    """A run of which one half is here. Without the moments it would be `apparent` from the whole, at least."""

    half, apparent = HALF, 1e-6

    def __init__(self, client: thalweg.Client) -> None:
        self.client = client
        initial, gradients = make.make_inputs()
        self.inputs = {name: np.asarray(value) for name, value in initial.items()}, gradients
        self.wholes: dict[str, Tensors] = {}

    def initial(self, case: cases.Case) -> Tensors:
        return {name: value.copy() for name, value in self.inputs[0].items() if name not in case.without}

    def steps(self, case: cases.Case, first: int, last: int) -> Iterator[tuple[Tensors, float | None]]:
        given = list(make.steps_of(case, self.inputs[1], 1.0))
        for n in range(first, last):
            gradients = {k: v for k, v in given[n].items() if k not in case.without}
            yield gradients, cases.loss_at(n + 1) if case.losses else None

    def session(self, case: cases.Case, last: int = HALF) -> thalweg.Session:
        """The first half, here."""
        session = self.client.sessions.create({"like": case.like, **case.arguments}, self.initial(case))
        return self.go_on(case, session, 0, last)

    def go_on(self, case: cases.Case, session: Any, first: int = HALF, last: int = WHOLE) -> Any:
        for gradients, loss in self.steps(case, first, last):
            session.step(gradients, loss)
        return session

    def remembers(self, case: cases.Case, session: thalweg.Session) -> bool:
        """Whether the case keeps state, of which more than the newest gradient counts."""
        of_params = sum(value.nbytes for value in session.params.values())
        return bool(session.info["state_bytes"] > of_params) and case.id not in FORGETFUL

    def there(self, library: Callable[..., Any], case: cases.Case, last: int) -> Any:
        """So much of the run in the library."""
        return self.go_on(case, library(case, self.initial(case)), 0, last)

    def whole(self, library: Callable[..., Any], case: cases.Case) -> Tensors:
        """The parameters after all of the run there."""
        if case.id not in self.wholes:
            self.wholes[case.id] = self.there(library, case, WHOLE).params()
        return self.wholes[case.id]

    def apart(self, library: Callable[..., Any], case: cases.Case, params: Tensors) -> float:
        """How far parameters are from those of the whole run there, in parts of its displacement; 1e-15 of the
        parameters is their own rounding."""
        whole, start = self.whole(library, case), self.initial(case)
        flat = [np.concatenate([np.ravel(tensors[name]) for name in start]) for tensors in (params, whole, start)]
        error = np.linalg.norm(flat[0] - flat[1]) - 1e-15 * np.linalg.norm(flat[2])
        return float(max(error, 0.0) / np.linalg.norm(flat[1] - flat[2]))


@pytest.fixture(scope="session")
def client() -> Iterator[thalweg.Client]:
    app = create_app(Settings(store="memory", log_level="critical"))
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        with thalweg.Client("http://{}:{}".format(*listening.getsockname())) as opened:
            yield opened
        server.should_exit = True
        thread.join(20)


@pytest.fixture(scope="session")
def moving(client: thalweg.Client) -> Moving:
    return Moving(client)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`case` runs over the cases of the module's LIBRARY whose state moves, `staying` over the names of those that do
    not."""
    library = getattr(metafunc.module, "LIBRARY", None)
    if "case" in metafunc.fixturenames:
        metafunc.parametrize("case", found := listed(library), ids=[case.id for case in found])
    if "staying" in metafunc.fixturenames:
        metafunc.parametrize("staying", [name for name, dialect in STAYS if dialect == library])
