"""The durability code is broken on purpose, one way after another, and some test of the faults must fail each time.

    python -m tests.faults.mutations [name ...]

Each mutation is a change in memory that a pytest process makes to itself when this module is its plugin; nothing is
written to the sources. Ends with status 1 where a mutation survives, or does not fit the code any more.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

VARIABLE = "MUTATION"


class Mutation(NamedTuple):
    """A way to break the code, and the tests of which at least one must fail, as arguments of pytest."""

    breaks: Callable[[], None]
    tests: tuple[str, ...]


def synchronous(level: str) -> Callable[[], None]:
    """Commits that do not wait for the medium as they should."""

    def breaks() -> None:
        from service.stores import schema

        assert "synchronous = FULL" in schema.PRAGMAS
        schema.PRAGMAS = tuple(p.replace("= FULL", f"= {level}") for p in schema.PRAGMAS)  # type: ignore[assignment]

    return breaks


def answer_early() -> None:
    """A write is answered when it is made, and committed after that."""
    from service.stores.writer import Writer

    hand_over, begin = Writer._hand_over, Writer._begin

    def answering(self: Writer, group: Any) -> Any:
        outcomes = begin(self, group)
        for job, outcome in zip(group, outcomes, strict=True):
            if not job.future.done():
                if outcome is None:
                    job.future.set_result(None)
                else:
                    job.future.set_exception(outcome)
        return outcomes

    def early(self: Writer, loop: asyncio.AbstractEventLoop) -> None:
        self._size = 0  # all groups are begun on the loop, where futures may be touched
        hand_over(self, loop)

    Writer._begin = answering  # type: ignore[method-assign]
    Writer._hand_over = early  # type: ignore[method-assign]


def no_digest() -> None:
    """Snapshots are believed as they are."""
    from service.sessions import live, log

    unpack = log.unpack

    def trusting(blob: bytes, *more: Any) -> Any:
        body = blob[log.DIGEST_BYTES :]
        return unpack(hashlib.sha256(body).digest() + body, *more)

    log.unpack = trusting
    assert live.log.unpack is trusting


def no_digest_of_files() -> None:
    """Nor are checkpoints."""
    from service.sessions import checkpoint

    assert checkpoint._digest({}, {}, None)
    checkpoint._digest = lambda *_: "the same"


def no_fence() -> None:
    """Who comes second to a number replaces the row."""
    from service.stores import sqlite

    append = sqlite.SQLiteStore._append
    assert all(sql.startswith("INSERT INTO") for sql in sqlite._APPEND.values())
    sqlite._APPEND = {table: sql.replace("INSERT", "INSERT OR REPLACE", 1) for table, sql in sqlite._APPEND.items()}

    def replacing(self: Any, db: Any, session: str, number: int, *row: Any) -> None:
        key, _ = self._tails.get(session) or self._tail(db, session)
        self._tails[session] = key, number - 1
        append(self, db, session, number, *row)

    sqlite.SQLiteStore._append = replacing  # type: ignore[method-assign]


def failure_is_success() -> None:
    """A write that failed is answered like one that did not."""
    from service.stores.writer import Writer

    failure = Writer._failure

    def fine(*arguments: Any) -> Any:
        return [None] * len(failure(*arguments))

    Writer._failure = fine  # type: ignore[method-assign]


def no_lock() -> None:
    """Any process may have the directory."""
    import fcntl

    fcntl.flock = lambda *_: None


def no_reserve() -> None:
    """No room is held for deletions."""
    from service.stores.reserve import Reserve

    Reserve.take = lambda self: None  # type: ignore[method-assign]


def no_fold_back() -> None:
    """A session whose step was lost after its answer stays in memory as it was told."""
    from service.sessions.live import Live

    Live.drop = lambda self, session: None  # type: ignore[method-assign]


POWER = "tests/faults/test_power.py"
DISK = "tests/faults/test_disk.py"
MUTATIONS = {
    "no fsync": Mutation(synchronous("OFF"), (POWER,)),
    "an fsync now and then": Mutation(synchronous("NORMAL"), (POWER,)),
    "the answer before the commit": Mutation(answer_early, (DISK, "-k", "synchronisation")),
    "no digest of snapshots": Mutation(no_digest, ("tests/faults/test_snapshots.py",)),
    "no digest of checkpoints": Mutation(no_digest_of_files, ("tests/sessions/test_checkpoints.py", "-k", "any_bit")),
    "no fence": Mutation(no_fence, ("tests/faults/test_two_engines.py",)),
    "a failure answered as a success": Mutation(failure_is_success, (DISK, "-k", "synchronisation")),
    "no lock": Mutation(no_lock, ("tests/stores/test_sqlite.py", "-k", "Owner")),
    "no reserve": Mutation(no_reserve, ("tests/faults/test_full.py", "-k", "AFullDisk")),
    "memory not dropped": Mutation(no_fold_back, (DISK, "-k", "synchronisation")),
}


def pytest_configure() -> None:
    """Break this process, as a plugin of pytest."""
    MUTATIONS[os.environ[VARIABLE]].breaks()


def failed(name: str) -> list[str]:
    """The tests that fail under a mutation, the first of them at least."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", __spec__.name]
    environment = {**os.environ, VARIABLE: name}
    run = subprocess.run(
        [*command, *MUTATIONS[name].tests], capture_output=True, text=True, env=environment, check=False, timeout=120
    )
    broken = re.search(r"mutations\.py:\d+: (Assertion|Attribute|Name|Type)Error", run.stdout)
    if run.returncode not in (0, 1) or broken:
        raise SystemExit(f"{name}: pytest ended with {run.returncode}\n{run.stdout}{run.stderr}")
    return re.findall(r"^FAILED (\S+)", run.stdout, re.MULTILINE)


def main(names: list[str]) -> int:
    """Try each; the status is 1 where no test noticed."""
    names = names or list(MUTATIONS)
    survived = False
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for name, tests in zip(names, threads.map(failed, names), strict=True):
            survived = survived or not tests
            print(f"{name:34} {tests[0] if tests else 'SURVIVES'}", flush=True)  # noqa: T201
    return int(survived)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
