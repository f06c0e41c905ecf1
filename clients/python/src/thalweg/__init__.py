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
    Place,
    ProblemError,
    StepMismatch,
    StepReused,
    ThalwegError,
    TooLarge,
    TooMany,
    Unavailable,
    UnexpectedAnswer,
    UnsupportedMediaType,
)
from thalweg.retries import Retries
from thalweg.sandbox import Best, Run, Trajectories
from thalweg.steps import Step
from thalweg.tensors import Array, Tensors, TensorsLike
from thalweg.version import __version__

__all__ = [
    "Array",
    "AsyncClient",
    "AsyncSession",
    "Best",
    "Client",
    "Conflict",
    "ConnectionFailed",
    "Evaluation",
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
    "Place",
    "ProblemError",
    "Retries",
    "Run",
    "Session",
    "Step",
    "StepMismatch",
    "StepReused",
    "Tensors",
    "TensorsLike",
    "ThalwegError",
    "TooLarge",
    "TooMany",
    "Trajectories",
    "Unavailable",
    "UnexpectedAnswer",
    "UnsupportedMediaType",
    "__version__",
]
