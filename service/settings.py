"""The settings, in one table: name, type, default, help.

Each is an environment variable `THALWEG_<NAME>` and a flag of `thalweg serve`; a wrong value or an unknown
`THALWEG_` variable fails at the start with a sentence.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from service.errors import nearest

PREFIX = "THALWEG_"
CLIENTS = {"THALWEG_URL"}  # read by clients, and often set on the same machine
MiB = 1 << 20


class SettingsError(Exception):
    """A setting is wrong; the text says which and what it takes."""


class Settings(BaseSettings):
    """Values that an operator may choose; immutable once the service runs."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(8000, description="Port to listen on; 0 takes a free one.")
    data: Path = Field(Path("data"), description="Directory of the SQLite store; one process owns it.")
    store: Literal["sqlite", "memory"] = Field("sqlite", description="Where sessions live; memory forgets at exit.")
    max_body_bytes: int = Field(128 * MiB, ge=1024, description="The largest request body that is read.")
    max_header_bytes: int = Field(32 * 1024, ge=1024, description="The largest header section that is read.")
    max_sessions: int = Field(1_000_000, ge=1, description="How many sessions may exist at once.")
    max_pending: int = Field(4096, ge=1, description="Requests under way at once; more are answered 503.")
    max_streams: int = Field(
        4096, ge=1, description="WebSockets and event streams open at once; more are answered 503."
    )
    stalled_seconds: float = Field(
        60.0, gt=0, description="A client that takes nothing of its answer for so long is disconnected."
    )
    kept_gradient_bytes: int = Field(
        64 * MiB,
        ge=0,
        description="Gradients kept per session, newest first, so that it can be rewound; older steps keep their "
        "metrics. The oldest kept ones begin at a snapshot, and those since the last snapshot but one are kept "
        "besides.",
    )
    snapshot_every: int = Field(
        64, ge=1, description="Steps between two snapshots: the most that loading a session replays."
    )
    replay_bytes: int = Field(
        1024 * MiB,
        ge=1,
        description="The same in bytes of gradients. A session whose state is large gets a snapshot when its gradients "
        "have come to twice the state's bytes, or to this.",
    )
    max_unwritten_bytes: int = Field(
        256 * MiB, ge=0, description="Steps answered before they are written, in all; at more, all wait for the disk."
    )
    max_waiting_bytes: int = Field(
        1024 * MiB, ge=0, description="Parts of steps that wait for other workers, in all; more are answered 503."
    )
    reap_seconds: float = Field(
        30.0, ge=0, description="Seconds between two looks for sessions that have expired; 0 for never."
    )
    cache_bytes: int = Field(1024 * MiB, ge=0, description="What sessions take in memory before idle ones leave it.")
    cache_sessions: int = Field(
        32_768, ge=0, description="How many sessions are in memory before idle ones leave it: a small one takes 3 KB."
    )
    max_run_evaluations: int = Field(
        1_000_000, ge=1, description="Steps times optimizers that one sandbox run may take."
    )
    shutdown_seconds: int = Field(20, ge=0, description="How long requests under way may take to finish at a stop.")
    log_level: Literal["critical", "error", "warning", "info", "debug"] = Field(
        "info", description="What is written to standard error."
    )


def load(**given: object) -> Settings:
    """The settings from the environment, with `given` above it; raises SettingsError with a sentence a mistake."""
    known = list(Settings.model_fields)
    for name in os.environ:
        plain = name[len(PREFIX) :].lower()
        if name.startswith(PREFIX) and plain not in known and name not in CLIENTS:
            raise SettingsError(f"There is no setting {name}{nearest(plain, known)} Settings: {', '.join(known)}.")
    try:
        return Settings(**given)  # type: ignore[arg-type]  # pydantic checks them
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_input=False))
        raise SettingsError(f"Wrong settings: {wrong}.") from None
