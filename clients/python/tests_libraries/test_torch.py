"""Sessions and torch.optim: half of a run here and half there is the whole of it there."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch
from tests.golden.make import resolve

import thalweg
import thalweg.torch

LIBRARY = "torch"
CLOSE = 1e-12


@pytest.fixture(autouse=True)
def _doubles():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Torch:
    """The single-tensor path, every scalar a double."""

    def __init__(self, case, initial):
        torch.set_num_threads(1)
        self.parameters = {name: torch.nn.Parameter(torch.tensor(value)) for name, value in initial.items()}
        made = resolve(case.like)
        loops = {"foreach": False} if "foreach" in inspect.signature(made).parameters else {}
        self.optimizer = made(list(self.parameters.values()), **loops, **case.arguments)

    def step(self, gradients, loss=None):
        for name, parameter in self.parameters.items():
            gradient = gradients[name]
            parameter.grad = None if gradient is None else torch.tensor(gradient)
        self.optimizer.step()

    def params(self):
        return {name: parameter.detach().numpy().copy() for name, parameter in self.parameters.items()}

    def load(self, session):
        self.optimizer.load_state_dict(thalweg.torch.export_state(session))
        with torch.no_grad():
            for name, value in session.params.items():
                self.parameters[name].copy_(torch.tensor(value))
        return self

    def leave(self, client):
        return thalweg.torch.import_state(client, self.optimizer, self.parameters)


def test_a_session_goes_on_in_torch(moving, case):
    session = moving.session(case)
    there = moving.go_on(case, Torch(case, moving.initial(case)).load(session))
    assert moving.apart(Torch, case, there.params()) <= max(CLOSE, case.close)


def test_torch_goes_on_in_a_session(moving, case):
    there = moving.there(Torch, case, moving.half)
    session = there.leave(moving.client)
    counted = any("step" in state for state in there.optimizer.state.values())
    assert session.step_number == (moving.half if counted else int(any(there.optimizer.state.values())))
    moving.go_on(case, session)
    assert moving.apart(Torch, case, session.params) <= max(CLOSE, case.close)


def test_without_the_moments_it_would_not(moving, case):
    session = moving.session(case)
    if moving.remembers(case, session):
        bare = moving.go_on(case, Torch(case, session.params))
        assert moving.apart(Torch, case, bare.params()) > moving.apparent


def test_what_stays_says_why(client, staying):
    assert staying == "lbfgs"
    with pytest.raises(thalweg.InvalidInput, match="lbfgs cannot be moved to or from torch: the past steps"):
        thalweg.torch.export_state(client.sessions.create({"like": "torch.optim.LBFGS"}, [1.0]))


# What a run of one optimizer with one group does not show

SHAPES = {"a": (2, 3), "b": (3,), "c[0]": ()}  # a name that is a pattern too


def parameters(seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    drawn = {name: torch.randn(shape, generator=generator, dtype=dtype) for name, shape in SHAPES.items()}
    return {name: torch.nn.Parameter(values) for name, values in drawn.items()}


def gradients(n, dtype=np.float64):
    random = np.random.default_rng(n)
    return {name: random.normal(size=shape).astype(dtype) for name, shape in SHAPES.items()}


def descend(optimizer, params, steps):
    for n in steps:
        for name, gradient in gradients(n, next(iter(params.values())).detach().numpy().dtype).items():
            params[name].grad = torch.tensor(gradient)
        optimizer.step()


def same(session, params):
    return all(np.allclose(session.params[name], p.detach().numpy(), rtol=1e-12) for name, p in params.items())


def grouped(params):
    a, b, c = params.values()
    return torch.optim.Adam([{"params": [a, c]}, {"params": [b], "lr": 0.1, "betas": (0.5, 0.99)}], lr=0.01)


def test_groups_go_both_ways(client):
    params = parameters()
    optimizer = grouped(params)
    descend(optimizer, params, range(5))
    session = thalweg.torch.import_state(client, optimizer, params, id="grouped", labels={"from": "torch"})
    assert (session.id, session.step_number, session.labels) == ("grouped", 5, {"from": "torch"})
    assert session.info["groups"] == [{"match": "b", "learning_rate": 0.1, "beta1": 0.5, "beta2": 0.99}]
    descend(optimizer, params, range(5, 10))
    for n in range(5, 10):
        session.step(gradients(n))
    assert same(session, params)

    found = parameters(1)
    back = grouped(found)
    back.load_state_dict(thalweg.torch.export_state(session))  # a, c and b in the order in which the groups have them
    with torch.no_grad():
        for name, p in found.items():
            p.copy_(torch.tensor(session.params[name]))
    descend(optimizer, params, range(10, 15))
    descend(back, found, range(10, 15))
    assert all(torch.allclose(found[name], p, rtol=1e-12, atol=0) for name, p in params.items())
    assert back.param_groups[1]["betas"] == (0.5, 0.99)


def test_groups_may_be_named(client):
    params = {name: np.ones(shape) for name, shape in SHAPES.items()}
    session = client.sessions.create({"like": "torch.optim.Adam"}, params)
    session.step(gradients(0))
    kept = thalweg.torch.export_state(session, groups=[["c[0]"], ["b", "a"]])
    assert [group["params"] for group in kept["param_groups"]] == [[0], [1, 2]]
    assert [kept["state"][i]["exp_avg"].shape for i in range(3)] == [(), (3,), (2, 3)]
    for wrong in ([["a", "b"]], [["a"], ["b", "a"], ["c[0]"]], [["a", "b", "d"]]):
        with pytest.raises(thalweg.InvalidInput, match=r"every parameter|names of this session"):
            thalweg.torch.export_state(session, groups=wrong)


def test_names_that_are_patterns_match_themselves_alone(client):
    params = {name: torch.nn.Parameter(torch.ones(2, dtype=torch.float64)) for name in ("c[0]", "c0")}
    optimizer = torch.optim.SGD([{"params": [params["c0"]]}, {"params": [params["c[0]"]], "lr": 0.5}], lr=0.1)
    session = thalweg.torch.import_state(client, optimizer, params)
    session.step({"c[0]": [1.0, 1.0], "c0": [1.0, 1.0]})
    assert session.params["c[0]"].tolist() == [0.5, 0.5]
    assert session.params["c0"].tolist() == [0.9, 0.9]


def test_a_state_of_an_earlier_step_can_be_had(client):
    session = client.sessions.create({"like": "torch.optim.Adam"}, [1.0, 2.0])
    for n in range(4):
        session.step([0.5, n])
    kept = thalweg.torch.export_state(session, step=2)
    assert kept["state"][0]["step"] == 2
    assert kept["state"][0]["exp_avg"].shape == (2,)


def test_single_precision_moves_too(client):
    torch.set_default_dtype(torch.float32)
    params = parameters(dtype=torch.float32)
    optimizer = torch.optim.Adam(params.values(), lr=0.01)
    descend(optimizer, params, range(20))
    session = thalweg.torch.import_state(client, optimizer, params)
    assert session.info["dtype"] == "float32"
    descend(optimizer, params, range(20, 40))
    for n in range(20, 40):
        session.step(gradients(n, np.float32))
    assert all(np.allclose(session.params[name], p.detach(), rtol=1e-5) for name, p in params.items())


def test_an_optimizer_before_its_first_step_and_one_with_a_parameter_that_never_had_a_gradient(client):
    for made in (torch.optim.Adagrad, torch.optim.Rprop, torch.optim.NAdam, torch.optim.ASGD, torch.optim.Adam):
        for first in (0, 1):
            params = parameters()
            optimizer = made(params.values(), lr=0.01)
            if first:
                params["a"].grad = torch.ones(2, 3, dtype=torch.float64)
                optimizer.step()
            session = thalweg.torch.import_state(client, optimizer, params)
            assert session.step_number == first
            descend(optimizer, params, range(3))
            for n in range(3):
                session.step(gradients(n))
            assert same(session, params), made


def test_names_come_from_the_module_or_from_the_optimizer(client):
    module = torch.nn.Linear(2, 1)
    named = torch.optim.SGD(module.named_parameters())
    for session in (
        thalweg.torch.import_state(client, torch.optim.SGD(module.parameters()), module),
        thalweg.torch.import_state(client, named),
    ):
        assert list(session.params) == ["weight", "bias"]
    with pytest.raises(thalweg.InvalidInput, match="has no name; give the module"):
        thalweg.torch.import_state(client, torch.optim.SGD(module.parameters()))


def test_steps_that_torch_does_not_count_may_be_told(client):
    params = parameters()
    optimizer = torch.optim.SGD(params.values(), lr=0.1, momentum=0.9, dampening=0.5)
    descend(optimizer, params, range(5))
    session = thalweg.torch.import_state(client, optimizer, params, step=5)
    assert session.step_number == 5
    descend(optimizer, params, range(5, 8))
    for n in range(5, 8):
        session.step(gradients(n))
    assert same(session, params)


def test_of_a_schedule_the_present_value_is_exported(client):
    rate = {"schedule": "exponential", "initial": 0.1, "gamma": 0.5}
    session = client.sessions.create({"name": "sgd", "learning_rate": rate}, [1.0])
    session.step([1.0])
    assert thalweg.torch.export_state(session)["param_groups"][0]["lr"] == 0.05
    session.step([1.0])
    with pytest.raises(thalweg.InvalidInput, match="follows a schedule, whose value is known for its newest step only"):
        thalweg.torch.export_state(session, step=1)


@pytest.mark.parametrize(
    ("created", "said"),
    [
        ({"optimizer": {"name": "adam", "dialect": "keras"}}, "follows the dialect 'keras'"),
        ({"optimizer": {"name": "adam", "bias_correction": False}}, "knows no bias_correction; it is as with"),
        (
            {"optimizer": {"name": "adam"}, "transforms": [{"name": "parameter_ema", "decay": 0.9}]},
            "no place for 'slots/transforms/0/",
        ),
    ],
)
def test_what_torch_has_no_word_for_is_refused(client, created, said):
    with pytest.raises(thalweg.InvalidInput, match=said):
        thalweg.torch.export_state(client.sessions.create(params=[1.0], **created))


def test_what_is_no_optimizer_of_torch_is_refused(client):
    class Mine(torch.optim.SGD):
        pass

    with pytest.raises(thalweg.InvalidInput, match=r"Mine is no class of torch\.optim"):
        thalweg.torch.import_state(client, Mine([torch.nn.Parameter(torch.ones(1))]))
    half = torch.nn.Parameter(torch.ones(1, dtype=torch.bfloat16))
    with pytest.raises(thalweg.InvalidInput, match=r"not torch\.bfloat16"):
        thalweg.torch.import_state(client, torch.optim.SGD([half]), {"half": half})
