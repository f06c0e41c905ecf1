"""thalweg.torch.Optimizer: loops and schedulers of torch's do not notice that a session takes the steps."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import thalweg
import thalweg.torch

EXAMPLES = Path(__file__).parents[1] / "examples"
ADAMW = {"like": "torch.optim.AdamW", "lr": 0.02}
SCHEDULERS = {
    "none": None,
    "step": lambda o: torch.optim.lr_scheduler.StepLR(o, 4, 0.5),
    "one cycle": lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.05, total_steps=30),  # moves the betas too
}


@pytest.fixture(autouse=True)
def _doubles():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    yield
    torch.set_default_dtype(before)


def network():
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))


def loss_of(model, n=0):
    x = torch.randn(32, 4, generator=torch.Generator().manual_seed(n))
    return ((model(x) - x[:, :1] * x[:, 1:2]) ** 2).mean()


def train(model, optimizer, first=0, last=20, scheduler=None):
    scheduler = scheduler and scheduler(optimizer)
    losses = []
    for n in range(first, last):
        optimizer.zero_grad()
        loss = loss_of(model, n)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if scheduler:
            scheduler.step()
    return losses


def halves(model, named):
    """Two groups, the second with options of its own."""
    found = list(model.named_parameters() if named else model.parameters())
    return [{"params": found[:2]}, {"params": found[2:], "lr": 0.1, "weight_decay": 0.0}]


@pytest.mark.parametrize("scheduler", SCHEDULERS.values(), ids=SCHEDULERS)
@pytest.mark.parametrize("grouped", [False, True], ids=["one group", "two groups"])
def test_the_losses_are_those_of_torch(client, scheduler, grouped):
    model = network()
    there = torch.optim.AdamW(halves(model, False) if grouped else model.parameters(), lr=0.02)
    expected = train(model, there, scheduler=scheduler)
    model = network()
    named = halves(model, True) if grouped else model.named_parameters()
    here = thalweg.torch.Optimizer(named, client, ADAMW)
    assert np.allclose(train(model, here, scheduler=scheduler), expected, rtol=1e-12, atol=0)
    assert isinstance(here, torch.optim.Optimizer)
    assert [session.step_number for session in here.sessions] == [20] * (1 + grouped)
    assert [group["lr"] for group in here.param_groups] == [group["lr"] for group in there.param_groups]


def test_a_session_in_single_precision_is_close_to_torch(client):
    torch.set_default_dtype(torch.float32)
    model = network()
    expected = train(model, torch.optim.AdamW(model.parameters(), lr=0.02))
    model = network()
    here = thalweg.torch.Optimizer(model.parameters(), client, ADAMW)
    assert np.allclose(train(model, here), expected, rtol=1e-5, atol=0)
    assert here.sessions[0].info["dtype"] == "float32"


def test_any_optimizer_of_the_service_can_be_had(client):
    """Options then have the service's names, but for the learning rate, which schedulers look for."""
    model = network()
    before = loss_of(model)
    optimizer = thalweg.torch.Optimizer(model.named_parameters(), client, {"name": "lion", "learning_rate": 0.02})
    train(model, optimizer, scheduler=SCHEDULERS["step"])
    assert loss_of(model) < before
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.99)
    assert optimizer.param_groups[0]["lr"] == 0.02 / 2**5
    assert optimizer.sessions[0].info["optimizer"]["learning_rate"] == 0.02 / 2**4  # of the last step that was taken


def test_a_schedule_of_the_service_shows_in_the_group(client):
    schedule = {"schedule": "exponential", "initial": 0.1, "gamma": 0.5}
    optimizer = thalweg.torch.Optimizer(
        network().named_parameters(), client, {"name": "sgd", "learning_rate": schedule}
    )
    seen = []
    for _ in range(3):
        optimizer.step()
        seen.append(optimizer.param_groups[0]["lr"])
    assert seen == [0.1, 0.05, 0.025]
    assert optimizer.sessions[0].info["optimizer"]["learning_rate"]["schedule"] == "exponential"


def test_a_closure_computes_the_gradients_and_its_loss_is_returned(client):
    model = network()
    optimizer = thalweg.torch.Optimizer(model.named_parameters(), client, ADAMW)

    def closure():
        optimizer.zero_grad()
        loss = loss_of(model)
        loss.backward()
        return loss

    first = optimizer.step(closure)
    assert optimizer.step(closure) < first
    assert next(optimizer.sessions[0].history()).loss == first.item()


def test_a_parameter_without_a_gradient_stays(client):
    model = network()
    optimizer = thalweg.torch.Optimizer(model.named_parameters(), client, ADAMW)
    before = copy.deepcopy(model.state_dict())
    loss_of(model).backward()
    model[0].weight.grad = None
    optimizer.step()
    assert torch.equal(model[0].weight, before["0.weight"])
    assert not torch.equal(model[2].weight, before["2.weight"])


def test_the_state_dict_goes_on_in_another_process_of_training(client):
    model = network()
    expected = train(model, thalweg.torch.Optimizer(model.named_parameters(), client, ADAMW))
    model = network()
    optimizer = thalweg.torch.Optimizer(model.named_parameters(), client, ADAMW)
    train(model, optimizer, last=10)
    kept = copy.deepcopy(optimizer.state_dict())
    assert kept["sessions"] == [{"id": optimizer.sessions[0].id, "step": 10}]

    other = network()
    taken_up = thalweg.torch.Optimizer(other.named_parameters(), client, ADAMW)
    taken_up.load_state_dict(kept)
    assert taken_up.sessions[0].id == optimizer.sessions[0].id
    assert train(other, taken_up, 10) == expected[10:]

    # it has moved on now, and is left alone
    again = thalweg.torch.Optimizer(model.named_parameters(), client, ADAMW)
    again.load_state_dict(kept)
    assert again.sessions[0].id != optimizer.sessions[0].id
    assert train(model, again, 10) == expected[10:]
    assert client.sessions.get(optimizer.sessions[0].id)["step"] == 20


def test_a_state_that_the_session_has_not_reached_is_refused(client):
    optimizer = thalweg.torch.Optimizer(network().named_parameters(), client, ADAMW)
    kept = optimizer.state_dict()
    kept["sessions"][0]["step"] = 5
    with pytest.raises(thalweg.StepMismatch, match="stands at step 0, before the 5"):
        optimizer.load_state_dict(kept)


def test_after_an_error_a_group_that_was_stepped_is_not_stepped_again(client, monkeypatch):
    model = network()
    optimizer = thalweg.torch.Optimizer(halves(model, True), client, ADAMW)
    loss_of(model).backward()
    second, taking = optimizer.sessions[1], optimizer.sessions[1].step
    failures = iter([True])

    def step(*arguments):
        if next(failures, False):
            raise thalweg.ConnectionFailed("The answer was lost.")
        return taking(*arguments)

    monkeypatch.setattr(second, "step", step)
    with pytest.raises(thalweg.ConnectionFailed):
        optimizer.step()
    optimizer.step()
    assert [session.step_number for session in optimizer.sessions] == [1, 1]


def test_parameters_that_come_later_are_another_session(client):
    model = network()
    optimizer = thalweg.torch.Optimizer(model[0].named_parameters(), client, ADAMW, id="later")
    optimizer.add_param_group({"params": list(model[2].named_parameters()), "lr": 0.5})
    assert [session.id for session in optimizer.sessions] == ["later", "later-1"]
    assert optimizer.sessions[1].info["optimizer"]["learning_rate"] == 0.5
    assert optimizer.param_groups[1]["betas"] == (0.9, 0.999)


def test_what_a_session_cannot_hold_is_refused(client):
    with pytest.raises(thalweg.InvalidInput, match=r"float64 or float32; here is .*torch\.float16"):
        thalweg.torch.Optimizer([torch.nn.Parameter(torch.zeros(2, dtype=torch.float16))], client, ADAMW)
    rows = torch.nn.Embedding(3, 2, sparse=True)
    optimizer = thalweg.torch.Optimizer(rows.named_parameters(), client, ADAMW)
    rows(torch.tensor([1])).sum().backward()
    with pytest.raises(thalweg.InvalidInput, match="The gradients of a session are dense"):
        optimizer.step()


def test_the_example_runs_and_a_killed_service_does_not_show():
    command = [sys.executable, EXAMPLES / "torch_loop.py", "--steps", "30"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "the service was killed after step 15" in done.stdout
