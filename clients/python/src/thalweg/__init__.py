"""The Python client of Thalweg, an optimizer behind a URL.

    with thalweg.Client() as client:
        session = client.sessions.create({"name": "adam", "learning_rate": 0.01}, params={"w": w, "b": b})
        for _ in range(100):
            session.step(gradients(session.params))

A step is applied exactly once, however often its request is sent; README.md says how, and what else there is.
"""

from thalweg.asynchronous import AsyncClient, AsyncSession
from thalweg.catalogue import Evaluation
from thalweg.client import Client, Session
from thalweg.errors import (
    Conflict,
    ConnectionFailed,
    Gone,
    HeadersTooLarge,
    Internal,
    Invalid,
    InvalidInput,
    MethodNotAllowed,
    Misuse,
    NonFinite,
    NotAcceptable,
    NotFound,
    NotJson,
    OutOfSpace,
    Place,
    ProblemError,
    StepMismatch,
    StepReused,
    StepsLost,
    ThalwegError,
    TimedOut,
    TooLarge,
    TooMany,
    Unavailable,
    Undecodable,
    UnexpectedAnswer,
    UnsupportedMediaType,
    UpgradeRequired,
)
from thalweg.events import Event
from thalweg.progress import Bar
from thalweg.retries import Retries
from thalweg.sandbox import Best, Run, Trajectories
from thalweg.steps import Step
from thalweg.streaming import AsyncStream, Stream
from thalweg.tensors import Array, Tensors, TensorsLike
from thalweg.version import __version__

__all__ = [
    "Array",
    "AsyncClient",
    "AsyncSession",
    "AsyncStream",
    "Bar",
    "Best",
    "Client",
    "Conflict",
    "ConnectionFailed",
    "Evaluation",
    "Event",
    "Gone",
    "HeadersTooLarge",
    "Internal",
    "Invalid",
    "InvalidInput",
    "MethodNotAllowed",
    "Misuse",
    "NonFinite",
    "NotAcceptable",
    "NotFound",
    "NotJson",
    "OutOfSpace",
    "Place",
    "ProblemError",
    "Retries",
    "Run",
    "Session",
    "Step",
    "StepMismatch",
    "StepReused",
    "StepsLost",
    "Stream",
    "Tensors",
    "TensorsLike",
    "ThalwegError",
    "TimedOut",
    "TooLarge",
    "TooMany",
    "Trajectories",
    "Unavailable",
    "Undecodable",
    "UnexpectedAnswer",
    "UnsupportedMediaType",
    "UpgradeRequired",
    "__version__",
]
