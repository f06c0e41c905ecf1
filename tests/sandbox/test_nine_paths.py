"""The nine paths of "An illustrated tour of PyTorch's optimizers", figures 2 and 4: what its text says of them is true.

`nine_paths.json` holds the two requests, one a figure; the OpenAPI document has them as examples.
"""

from __future__ import annotations

import json
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.functions.base import Array
from service.routes.sandbox import EXAMPLES
from service.sandbox import Run, plan, run

REQUESTS: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "nine_paths.json").read_text())
NAMES = [
    "sgd",
    "momentum",
    "adagrad",
    "rmsprop",
    "adadelta",
    "adam",
    "adamw",
    "sgd + step decay",
    "momentum + step decay",
]


@cache
def paths(figure: str) -> dict[str, Run]:
    return {done.label: done for done in run(plan(**REQUESTS[figure]))}


def turns(coordinate: Array) -> int:
    """How often a coordinate changes its sign."""
    return int((np.diff(np.sign(coordinate)) != 0).sum())


def distances(done: Run) -> Array:
    """From the origin, which is the minimum of the steep bowl, (n,)."""
    far: Array = np.hypot(*done.params.T)
    return far


def test_the_document_shows_these_requests() -> None:
    assert [EXAMPLES["nine paths on a steep bowl"], EXAMPLES["nine paths on a wavy bowl"]] == list(REQUESTS.values())


@pytest.mark.parametrize("figure", REQUESTS)
def test_one_request_gives_all_nine(figure: str) -> None:
    assert list(paths(figure)) == NAMES
    for done in paths(figure).values():
        assert done.status == "completed"
        assert done.params[0].tolist() == REQUESTS[figure]["start"]
        assert len(done.params) == REQUESTS[figure]["steps"] + 1


# Figure 2: f1 = 20 x^2 + 2 y^2


def test_sgd_bounces() -> None:
    x, y = paths("steep_bowl")["sgd"].params.T
    assert turns(x) == 80  # across the valley at every step
    assert turns(y) == 0
    assert (np.diff(np.abs(x)) < 0).all()


def test_momentum_overshoots() -> None:
    for name in ("momentum", "momentum + step decay"):
        done = paths("steep_bowl")[name]
        x, y = done.params.T
        assert x.max() > 1.5  # from x = -2.5, past the minimum at 0
        assert y.min() < -0.5
        assert 4 <= turns(x) < 40  # it swings, and does not bounce at every step
        assert (np.diff(done.values) > 0).any()


def test_adagrad_falls_behind() -> None:
    end = {name: distances(done)[-1] for name, done in paths("steep_bowl").items()}
    assert all(end["adagrad"] > 5 * far for name, far in end.items() if name != "adagrad")
    steps = np.hypot(*np.diff(paths("steep_bowl")["adagrad"].params, axis=0).T)
    assert (np.diff(steps) < 0).all()  # each step is shorter than the one before
    rates = [item["learning_rate"] for item in REQUESTS["steep_bowl"]["optimizers"][2:6:3]]
    assert rates == [0.2, 0.2]  # and that with Adam's learning rate


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_adam_and_adamw_swing_and_settle(name: str) -> None:
    done = paths("steep_bowl")[name]
    x, y = done.params.T
    assert x.max() > 0.4
    assert y.min() < -0.4
    assert 2 <= turns(x) <= 8
    far = distances(done)
    swings = [far[a:b].max() for a, b in ((0, 15), (15, 35), (35, 55), (55, 81))]
    assert all(later < 0.5 * earlier for earlier, later in pairwise(swings))
    assert far[-1] < 0.03


def test_adamw_is_drawn_to_the_origin() -> None:
    adam, adamw = (distances(paths("steep_bowl")[name]) for name in ("adam", "adamw"))
    assert (adamw[1:10] < adam[1:10]).all()


def test_rmsprop_and_adadelta_walk_straight_down() -> None:
    for name in ("rmsprop", "adadelta"):
        done = paths("steep_bowl")[name]
        assert (np.diff(done.values) < 0).all()
        assert done.params[-1] == pytest.approx([0, 0], abs=1e-3)


def test_a_step_decay_calms() -> None:
    nine = paths("steep_bowl")
    for name in ("sgd", "momentum"):
        plain, decayed = nine[name].params, nine[f"{name} + step decay"].params
        assert np.array_equal(plain[:21], decayed[:21])  # the same until the first decay
        assert turns(decayed[:, 0]) < turns(plain[:, 0])
        assert turns(decayed[21:, 0]) <= 0.5 * turns(plain[21:, 0])


# Figure 4: f2 = 2 x^2 + 10 y^2 + 10 sin 5y, started above its minima at y = 2.01, 0.87, -0.29 (the lowest), -1.45


def test_momentum_reaches_farther_minima_than_sgd() -> None:
    nine = paths("wavy_bowl")
    trough, lowest = 2.0120415680596115, -0.29083931499532344
    assert nine["sgd"].params[-1, 1] == pytest.approx(trough, abs=1e-6)
    assert nine["momentum"].params[-1] == pytest.approx([0, lowest], abs=0.01)
    start = nine["sgd"].params[0]
    far = {name: float(np.hypot(*(done.params[-1] - start))) for name, done in nine.items()}
    assert far["momentum"] > 1.5 * far["sgd"]
    assert nine["momentum"].optimizer["learning_rate"] == nine["sgd"].optimizer["learning_rate"]
    y = nine["momentum"].params[:, 1]
    assert y.min() < -0.9  # it overshoots here too


def test_who_stays_in_the_first_trough_of_the_wavy_bowl() -> None:
    ends = {name: done.params[-1, 1] for name, done in paths("wavy_bowl").items()}
    for name in ("sgd", "adagrad", "rmsprop", "adadelta", "sgd + step decay"):
        assert ends[name] == pytest.approx(2.012, abs=0.06), name
    for name in ("momentum", "adam", "adamw", "momentum + step decay"):
        assert ends[name] == pytest.approx(-0.291, abs=0.01), name


def test_adam_swings_and_settles_in_the_lowest_minimum() -> None:
    for name in ("adam", "adamw"):
        x = paths("wavy_bowl")[name].params[:, 0]
        assert x.max() > 0.5
        assert turns(x) >= 5
        assert np.abs(x[-20:]).max() < 0.01


def test_a_step_decay_stops_sgd_on_its_way() -> None:
    nine = paths("wavy_bowl")
    assert abs(nine["sgd + step decay"].params[-1, 0]) > 2 * abs(nine["sgd"].params[-1, 0])
