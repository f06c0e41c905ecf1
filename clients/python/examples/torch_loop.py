"""A training loop of torch's twice: with torch.optim.AdamW, and with a session in its place. The loop is one and the
same, a scheduler of torch's included. The service is killed on the way and started again; the losses do not notice.

    python clients/python/examples/torch_loop.py [--steps 100]
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from serving import Service

import thalweg
import thalweg.torch

RATE = 0.02
CLOSE = 1e-12  # how far apart two losses may be


def data() -> tuple[torch.Tensor, torch.Tensor]:
    """Points on a plane, and which of two interleaved spirals each is on."""
    generator = torch.Generator().manual_seed(1)
    turn = 3.0 * torch.rand(200, 1, generator=generator, dtype=torch.float64) + 0.5
    side = (torch.arange(200)[:, None] % 2).double()
    angle = 2.0 * turn + torch.pi * side
    return torch.cat([turn * angle.cos(), turn * angle.sin()], 1), side


def network() -> torch.nn.Module:
    """The same one each time."""
    torch.manual_seed(2)
    layers = (torch.nn.Linear(2, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
    return torch.nn.Sequential(*layers).double()


def train(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, steps: int, after: Callable[[int], None]
) -> list[float]:
    """The losses on the way. Nothing here knows which optimizer it is."""
    inputs, targets = data()
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    losses = []
    for step in range(steps):
        optimizer.zero_grad()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(model(inputs), targets)
        loss.backward()
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
        after(step)
    return losses


def main() -> None:
    """Train both ways and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100)
    steps = parser.parse_args().steps
    torch.set_num_threads(1)

    model = network()
    there = train(model, torch.optim.AdamW(model.parameters(), lr=RATE), steps, lambda step: None)

    with tempfile.TemporaryDirectory() as directory, Service(Path(directory)) as service:

        def kill(step: int) -> None:
            if step == steps // 2:
                service.kill()
                service.start()

        with thalweg.Client(service.url) as client:
            model = network()
            specification = {"like": "torch.optim.AdamW", "lr": RATE}
            optimizer = thalweg.torch.Optimizer(model.named_parameters(), client, specification)
            here = train(model, optimizer, steps, kill)

    apart = max(abs(one - other) for one, other in zip(there, here, strict=True))
    for step in range(0, steps, max(steps // 5, 1)):
        print(f"step {step:4}  torch {there[step]:.15f}  session {here[step]:.15f}")
    print(f"largest difference {apart:.1e}; the service was killed after step {steps // 2}")
    if apart > CLOSE or here[-1] >= here[0]:
        raise SystemExit("The two runs are not the same.")


if __name__ == "__main__":
    main()
