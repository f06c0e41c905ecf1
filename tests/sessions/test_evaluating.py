"""Optimizers that choose their own points, by a client that answers what is wanted and knows nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from service.optim.optimizer import build
from service.optim.tensors import single
from tests.conftest import Serve, Service
from tests.golden.evaluating import rosenbrock
from tests.sessions.calls import create, params, problem, shown, step, took

START = [-1.2, 1.0]
WOLFE = {"like": "torch.optim.LBFGS", "line_search_fn": "strong_wolfe", "tolerance_change": 1e-14}
ZOOM = {"like": "optax.lbfgs"}
SAM = {"name": "sam", "optimizer": {"name": "sgd", "learning_rate": 1e-3}}
EVERY = pytest.mark.parametrize("optimizer", [WOLFE, ZOOM, SAM], ids=["wolfe", "zoom", "sam"])


def answer(service: Service, point: list[float], wanted: str, **more: Any) -> dict[str, Any]:
    """What a client does: evaluate at the point what is wanted there, and send it."""
    value, gradient = rosenbrock(np.array(point))
    loss = {"loss": value} if wanted == "value_and_gradient" else {}
    return took(service, gradient.tolist(), **loss, **more)


def follow(service: Service, evaluations: int) -> list[dict[str, Any]]:
    """So many answers, from where the session stands."""
    point, wanted, answers = params(service), shown(service)["wanted"], []
    for _ in range(evaluations):
        answers.append(answer(service, point, wanted))
        point, wanted = answers[-1]["params"], answers[-1]["wanted"]
    return answers


@pytest.mark.parametrize("optimizer", [WOLFE, ZOOM], ids=["wolfe", "zoom"])
def test_a_client_that_answers_what_is_wanted_comes_to_the_minimum(service: Service, optimizer: dict[str, Any]) -> None:
    create(service, optimizer=optimizer, params=START)
    answers = follow(service, 90)
    reached = [rosenbrock(np.array(a["params"]))[0] for a in answers if a["committed"]]
    assert reached[-1] <= 1e-8
    assert np.abs(np.array(params(service)) - 1.0).max() < 1e-4
    assert 1 < len(reached) < 90


@EVERY
def test_the_points_and_the_steps_are_the_optimizers_own(service: Service, optimizer: dict[str, Any]) -> None:
    create(service, optimizer=optimizer, params=START)
    subject = build(optimizer, single(2))
    state = subject.init(np.array(START))
    for n, told in enumerate(follow(service, 25), 1):
        value, gradient = rosenbrock(state.params)
        state, rate, committed = subject.step(state, gradient, (), value)
        assert (told["step"], told["params"], told["committed"]) == (n, state.params.tolist(), committed)
        assert told["wanted"] == subject.wants
        assert told["learning_rate"] == rate
    body = shown(service)
    assert (body["step"], body["updates"], body["wanted"]) == (25, state.step, subject.wants)
    seen = service.get("/v1/sessions/s/params?view=eval").json()["params"]
    assert seen == subject.view(state, "eval").tolist()


@EVERY
def test_a_step_that_is_sent_again_is_answered_as_the_first_time(service: Service, optimizer: dict[str, Any]) -> None:
    create(service, optimizer=optimizer, params=START)
    point, wanted, committed = START, shown(service)["wanted"], []
    for n in range(1, 13):
        first = answer(service, point, wanted, number=n)
        again = answer(service, point, wanted, number=n)
        for key in ("step", "params", "committed", "wanted", "learning_rate", "update_norm"):
            assert first[key] == again[key]
        committed.append(first["committed"])
        point, wanted = first["params"], first["wanted"]
    listed = service.get("/v1/sessions/s/steps").json()["items"]
    assert [row["committed"] for row in listed] == committed
    assert shown(service)["step"] == 12


@EVERY
@pytest.mark.parametrize("snapshot_every", [1, 4, 1000])
def test_a_restart_in_the_middle_of_a_search_goes_on_bit_for_bit(
    serve: Serve, optimizer: dict[str, Any], snapshot_every: int
) -> None:
    whole = serve()
    create(whole, optimizer=optimizer, params=START)
    wanted = follow(whole, 30)
    before = serve(kind="sqlite", snapshot_every=snapshot_every)
    create(before, optimizer=optimizer, params=START)
    cut = next(n for n, told in enumerate(wanted, 1) if n > 5 and not told["committed"])
    first = follow(before, cut)
    assert first[-1]["committed"] is False
    before.stop()
    after = serve(kind="sqlite", snapshot_every=snapshot_every)
    assert params(after) == first[-1]["params"]
    rest = follow(after, 30 - cut)
    said = ("step", "params", "committed", "wanted", "learning_rate")
    assert [[a[key] for key in said] for a in [*first, *rest]] == [[a[key] for key in said] for a in wanted]


def test_a_loss_that_is_wanted_and_not_sent_is_refused_and_changes_nothing(service: Service) -> None:
    create(service, optimizer=ZOOM, params=START)
    body = problem(step(service, [1.0, 2.0]), 422, "invalid")
    assert body["errors"][0]["pointer"] == "/loss"
    assert "send it as" in body["detail"]
    assert (shown(service)["step"], params(service)) == (0, START)


def test_a_gradient_that_is_skipped_is_asked_for_again(service: Service) -> None:
    create(service, optimizer=ZOOM, params=START, non_finite="skip")
    first = answer(service, START, "value_and_gradient")
    told = took(service, [None, 1.0], loss=3.0)
    assert (told["skipped"], told["committed"], told["wanted"]) == (True, False, "value_and_gradient")
    assert told["params"] == first["params"]


def test_an_optimizer_whose_every_step_is_whole_says_nothing_of_it(service: Service) -> None:
    create(service)
    told = took(service, [1.0, 2.0])
    assert not {"wanted", "committed"} & told.keys()
    assert not {"wanted", "updates"} & shown(service).keys()
