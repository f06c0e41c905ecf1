"""Trains one network with five optimizers at once, each a session of the service; then kills the service on the way.

The network runs here, in NumPy; the service keeps the parameters and the optimizers' state. Every iteration sends
gradients and gets parameters back. The comparison is the one in Deep Learning from Scratch, on scikit-learn's digits.

    python clients/python/examples/digits.py                  # starts a service, compares, kills it, compares bits
    python clients/python/examples/digits.py --url http://... # uses a running service, and leaves it alone
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from curves import draw
from network import SIZES, Array, Labels, Params, accuracy, initialise, loss_and_gradients
from serving import Service

import thalweg

# Names, rules and learning rates as in the book, whose forms are the dialect "scratch".
OPTIMIZERS = {
    "SGD": {"name": "sgd", "dialect": "scratch", "learning_rate": 0.01},
    "Momentum": {"name": "momentum", "dialect": "scratch", "learning_rate": 0.01, "momentum": 0.9},
    "AdaGrad": {"name": "adagrad", "dialect": "scratch", "learning_rate": 0.01},
    "Adam": {"name": "adam", "dialect": "scratch", "learning_rate": 0.001},
    "RMSprop": {"name": "rmsprop", "dialect": "scratch", "learning_rate": 0.01, "rho": 0.99},
}
BATCH = 128
TRAINING = 1_500  # of 1,797 digits; the others test
DTYPE = "float32"
EVERY = 100  # iterations between two rows of the table
REPEATED = 300  # iterations of Adam that are done again, with a kill
FEWEST = 20  # iterations in which a loss falls, and a kill finds its middle
ENOUGH = 0.9  # share of the test digits that Adam must find


@dataclass(frozen=True)
class Digits:
    """Images of 64 numbers from 0 to 1, and what they show."""

    x: Array
    t: Labels


@dataclass(frozen=True)
class Problem:
    """All that decides a run: the digits, where the network starts, the seed of the batches, and for how long."""

    training: Digits
    test: Digits
    start: Mapping[str, Array]
    batches: np.random.SeedSequence
    iterations: int


def load(seed: int, iterations: int) -> Problem:
    """The digits that scikit-learn brings along, split at random, and a fresh network."""
    from sklearn.datasets import load_digits  # here, so that workers start without it

    split, weights, batches = np.random.SeedSequence(seed).spawn(3)
    found = load_digits()
    order = np.random.default_rng(split).permutation(len(found.target))
    x, t = (found.data[order] / 16.0).astype(DTYPE), found.target[order]
    training, test = Digits(x[:TRAINING], t[:TRAINING]), Digits(x[TRAINING:], t[TRAINING:])
    return Problem(training, test, initialise(np.random.default_rng(weights)), batches, iterations)


def create(client: thalweg.Client, optimizer: str, problem: Problem) -> thalweg.Session:
    """A session that starts from the problem's network."""
    return client.sessions.create(
        OPTIMIZERS[optimizer], problem.start, dtype=DTYPE, labels={"demo": "digits", "optimizer": optimizer}
    )


def train(
    session: thalweg.Session, problem: Problem, iterations: int, lost: Callable[[thalweg.ThalwegError], None]
) -> Iterator[thalweg.Step]:
    """Backpropagation here, the step there, `iterations` times. Every session sees the same batches.

    `lost` is called where a step got no answer. It raises, or makes amends; then the same step is sent again, which
    is safe: the service takes it at most once.
    """
    rng = np.random.default_rng(problem.batches)
    for _ in range(iterations):
        rows = rng.choice(len(problem.training.t), BATCH)
        params = cast(Params, session.params)
        loss, gradients = loss_and_gradients(params, problem.training.x[rows], problem.training.t[rows])
        while True:
            try:
                step = session.step(gradients, loss=loss)
                break
            except thalweg.ConnectionFailed as error:
                lost(error)
        yield step


def give_up(error: thalweg.ThalwegError) -> None:
    """For a client that has sent the step often enough by itself."""
    raise error


# The comparison


def work(url: str, id: str, problem: Problem) -> Params:
    """What one worker does: train a session to the end. Returns the parameters on the way, after `REPEATED` steps."""
    on_the_way: Params = {}
    with one_thread(), thalweg.Client(url) as client:
        for step in train(client.sessions.open(id), problem, problem.iterations, give_up):
            if step.step == min(REPEATED, problem.iterations):
                on_the_way = cast(Params, step.params)
    return on_the_way


@contextmanager
def one_thread() -> Iterator[None]:
    """Matrix products in one thread each: these are small, and their bits shall not depend on the processors."""
    from threadpoolctl import threadpool_limits  # comes with scikit-learn

    with threadpool_limits(limits=1):
        yield


def compare(client: thalweg.Client, problem: Problem) -> tuple[dict[str, list[float]], dict[str, float], Params]:
    """Train all sessions at once, each from a process of its own, as five programs would.

    Returns the losses and the test accuracies by optimizer, and Adam's parameters after `REPEATED` steps.
    """
    ids = {name: create(client, name, problem).id for name in OPTIMIZERS}
    processes = ProcessPoolExecutor(len(ids), multiprocessing.get_context("spawn"))
    try:
        futures = {name: processes.submit(work, client.base_url, id, problem) for name, id in ids.items()}
        losses = watch(client, ids, list(futures.values()), problem.iterations)
    except BaseException:
        for child in multiprocessing.active_children():
            child.terminate()
        raise
    finally:
        processes.shutdown()
    found = {name: cast(Params, client.sessions.params(id)) for name, id in ids.items()}
    training = {name: accuracy(params, problem.training.x, problem.training.t) for name, params in found.items()}
    test = {name: accuracy(params, problem.test.x, problem.test.t) for name, params in found.items()}
    print(line("accuracy", list(ids)))
    print(line("training", [f"{share:.2%}" for share in training.values()]))
    print(line("test", [f"{share:.2%}" for share in test.values()]), flush=True)
    return losses, test, futures["Adam"].result()


def watch(
    client: thalweg.Client, ids: Mapping[str, str], futures: Sequence[Future[Params]], iterations: int
) -> dict[str, list[float]]:
    """The losses, read from the sessions' histories while others step them; rows of the table as they fill up."""
    from tqdm import tqdm

    losses: dict[str, list[float]] = {name: [] for name in ids}
    began = time.perf_counter()
    due = [n for n in range(1, iterations + 1) if n in (1, iterations) or n % EVERY == 0]
    print(line("iteration", list(ids)))
    running = set(futures)
    with tqdm(total=len(ids) * iterations, unit=" steps", leave=False, disable=None) as bar:
        while True:
            done, running = wait(running, timeout=0.5, return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()  # raises what stopped a worker
            for name, id in ids.items():
                news = [step.loss for step in client.sessions.history(id, after=len(losses[name]))]
                losses[name] += [loss for loss in news if loss is not None]
                bar.update(len(news))
            while due and due[0] <= min(map(len, losses.values())):
                n = due.pop(0)
                with tqdm.external_write_mode():
                    print(line(f"{n:,}", [short(values[n - 1]) for values in losses.values()]), flush=True)
            if not running:
                break
    seconds, steps = time.perf_counter() - began, len(ids) * iterations
    print(f"{steps:,} steps in {seconds:.0f} s, {steps / seconds:.0f} a second\n")
    return losses


def line(head: str, cells: Sequence[str]) -> str:
    """A row of the table."""
    return f"{head:>9}" + "".join(f"{cell:>11}" for cell in cells)


def short(loss: float) -> str:
    """A loss in few characters."""
    return f"{loss:.4f}" if loss >= 0.001 else f"{loss:.1e}"


# The kill


class Killer:
    """Kills the service while a step is under way, and starts it again once the client has noticed."""

    def __init__(self, service: Service, session: thalweg.Session) -> None:
        self.service, self.session = service, session
        self.timer: threading.Timer | None = None
        self.unanswered = 0  # the step that got no answer

    def arm(self, seconds: float) -> None:
        """Kill so much later, while the client goes on."""
        self.timer = threading.Timer(seconds, self.service.kill)
        self.timer.start()

    def wait(self) -> None:
        """Until the kill has happened."""
        if self.timer is not None:
            self.timer.join()

    def lost(self, error: thalweg.ThalwegError) -> None:
        """What `train` calls when a step got no answer."""
        if self.timer is None or self.unanswered:
            raise error
        self.wait()
        self.unanswered = self.session.step_number + 1
        print(f"  killed: {self.session.step_number} steps were acknowledged, step {self.unanswered} was not")
        began = time.perf_counter()
        self.service.start()
        with thalweg.Client(self.service.url) as client:
            stands = client.sessions.get(self.session.id)["step"]
        print(f"  restarted in {time.perf_counter() - began:.1f} s: the session stands at step {stands}")


def interrupted(service: Service, problem: Problem, iterations: int) -> tuple[Params, list[int]]:
    """Adam's first iterations in a new session, the service killed at a random moment on the way.

    Returns the parameters at the end, and the numbers of the steps in the session's history.
    """
    chance = np.random.default_rng()
    last = int(chance.integers(iterations // 3, 2 * iterations // 3, endpoint=True))
    print(f"\nAdam again, {iterations} iterations, with kill -9 of the service soon after iteration {last}", flush=True)
    with one_thread(), thalweg.Client(service.url, retries=0) as client:
        session = create(client, "Adam", problem)
        killer = Killer(service, session)
        began = time.perf_counter()
        for step in train(session, problem, iterations, killer.lost):
            if step.step == last:  # strike somewhere in the next iteration, if it takes as long as this one
                killer.arm(chance.uniform() * (time.perf_counter() - began))
            if step.step == iterations - 1:
                killer.wait()
            if step.step == killer.unanswered:
                outcome = "taken before the kill, answered again" if step.replayed else "taken now"
                print(f"  step {step.step} sent again, with the same gradients: {outcome}", flush=True)
            began = time.perf_counter()
        return cast(Params, session.params), [step.step for step in session.history()]


def digest(params: Params) -> str:
    """SHA-256 of all bits."""
    return hashlib.sha256(b"".join(array.tobytes() for array in params.values())).hexdigest()


def same_bits(service: Service, problem: Problem, reference: Params) -> list[str]:
    """The kill and its verdict; what is wrong, if anything."""
    iterations = min(REPEATED, problem.iterations)
    params, steps = interrupted(service, problem, iterations)
    once = steps == list(range(1, iterations + 1))
    same = params.keys() == reference.keys() and all(np.array_equal(params[name], reference[name]) for name in params)
    same = same and digest(params) == digest(reference)
    print(f"  history: {len(steps)} steps" + (f", 1 to {iterations}, each once" if once else ""))
    print(f"  uninterrupted  sha256 {digest(reference)}")
    print(f"  interrupted    sha256 {digest(params)}")
    print(f"  The parameters are {'bit-identical' if same else 'DIFFERENT'}.", flush=True)
    wrong = [] if once else [f"The history has {len(steps)} steps where {iterations} were taken."]
    return wrong if same else [*wrong, "The interrupted run did not end where the uninterrupted one did."]


# Everything


def check(losses: Mapping[str, Sequence[float]], accuracies: Mapping[str, float]) -> list[str]:
    """What is wrong with the comparison, if anything."""
    wrong = []
    for name, values in losses.items():
        few = max(1, len(values) // 10)
        if not np.mean(values[-few:]) < np.mean(values[:few]):
            wrong.append(f"The loss of {name} did not fall.")
    if len(losses["Adam"]) >= EVERY and accuracies["Adam"] < ENOUGH:
        wrong.append(f"Adam finds {accuracies['Adam']:.1%} of the test digits; {ENOUGH:.0%} were expected.")
    return wrong


def run(url: str | None, data: Path | None, problem: Problem, picture: Path) -> list[str]:
    """The comparison, the picture and the kill; what is wrong, if anything."""
    with ExitStack() as stack:
        service = None
        if url is None:
            data = data or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="thalweg-")))
            service = stack.enter_context(Service(data))
        client = stack.enter_context(thalweg.Client(service.url if service else url))
        size = sum(array.size for array in problem.start.values())
        print(f"Thalweg at {client.base_url}: {len(OPTIMIZERS)} sessions of {size:,} parameters ({DTYPE})")
        shape = "-".join(map(str, SIZES))
        print(f"Network {shape}, batches of {BATCH}, {TRAINING:,} digits; the training loss by iteration:\n")
        losses, accuracies, reference = compare(client, problem)
        draw(losses, accuracies, picture)
        print(f"\nCurves in {picture}", flush=True)
        wrong = check(losses, accuracies)
        return wrong + same_bits(service, problem, reference) if service else wrong


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; the exit status is 0, or 1 where something is not as it should be, or 130 when stopped."""
    parser = argparse.ArgumentParser("digits.py", description="Five optimizers, one network, one kill -9.")
    parser.add_argument("--iterations", type=int, default=2_000, help="of each optimizer (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of split, weights and batches (default: %(default)s)")
    parser.add_argument("--picture", type=Path, default=Path("demo.png"), help="PNG to write (default: %(default)s)")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--data", type=Path, help="data directory of the service; kept (default: a temporary one)")
    where.add_argument("--url", help="use this running service, without the kill (default: start one)")
    options = parser.parse_args(arguments)
    if options.iterations < FEWEST:
        parser.error(f"--iterations must be at least {FEWEST}")
    began = time.perf_counter()
    try:
        wrong = run(options.url, options.data, load(options.seed, options.iterations), options.picture)
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 130
    for sentence in wrong:
        print(f"WRONG: {sentence}", file=sys.stderr)
    print(f"\n{'Not all is well' if wrong else 'All is well'}, after {time.perf_counter() - began:.0f} s")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
