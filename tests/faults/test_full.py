"""The disk is full: steps are refused with a sentence, nothing is lost, deleting works, and steps go on after it."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
from pathlib import Path
from typing import Any

import apsw
import pytest

from service.stores import reserve, schema, writer
from tests.conftest import Serve, Service
from tests.faults.processes import Caller, calling, serving
from tests.sessions.calls import ADAM, Adam, create, gradient, params, problem, step, took, walk
from tests.stores.disk import Disk

MiB = 1 << 20
SIZE = 4_000  # parameters of a session that fills the disk
OWN_DISK = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c")
OWN_DISK_WORKS = (
    subprocess.run([*OWN_DISK, "mount -t tmpfs none /mnt"], capture_output=True, check=False).returncode == 0
)


class TestAFullDisk:
    """In process, on a disk of a given size that the data directory has for itself."""

    @pytest.fixture
    def service(self, disk: Disk, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Service:
        monkeypatch.setattr(schema, "PRAGMAS", (*schema.PRAGMAS[:-1], "wal_autocheckpoint = 16384"))
        data = tmp_path / "data"
        size = 3 * MiB
        allocate = os.posix_fallocate

        def free(directory: Path) -> int:
            return size - sum(file.stat().st_size for file in data.iterdir() if not file.name.endswith("-shm"))

        def room(growth: int) -> None:
            if growth > free(data):
                raise apsw.FullError("as full as it was told to be")

        def limited(descriptor: int, offset: int, length: int) -> None:
            if length - os.fstat(descriptor).st_size > free(data):
                raise OSError(errno.ENOSPC, "as full as it was told to be")
            allocate(descriptor, offset, length)

        disk.room = room
        for module in (reserve, writer):
            monkeypatch.setattr(module, "free", free)
        monkeypatch.setattr(reserve, "MOST", 64 * MiB)
        monkeypatch.setattr(os, "posix_fallocate", limited)
        return serve(kind="sqlite")

    def test_refuses_steps_and_loses_nothing(
        self, service: Service, disk: Disk, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        create(service, "s", params=[0.0] * SIZE)
        create(service, "small")
        walk(service, 3, id="small")
        refused = fill(service, "s", 1)
        before = params(service), params(service, id="small")
        for _ in range(3):
            problem(step(service, gradient(refused, SIZE), refused), 507, "out-of-space")
            problem(service.get("/readyz"), 503, "unavailable")
        assert (params(service), params(service, id="small")) == before
        assert took(service, gradient(refused - 1, SIZE), refused - 1)["replayed"] is True
        another = {"optimizer": {"name": "adam"}, "params": [0.0] * SIZE}
        problem(service.post("/v1/sessions", another), 507, "out-of-space")
        disk.room = lambda growth: None
        monkeypatch.undo()  # the rest of the disk's bounds
        assert took(service, gradient(refused, SIZE), refused)["replayed"] is False
        assert service.get("/readyz").status_code == 200

    def test_lets_sessions_be_deleted_and_the_others_go_on(self, service: Service) -> None:
        """Again and again, for what a deletion leaves free is filled up each time."""
        create(service, "kept")
        for n in range(1, 7):
            id = f"doomed{n}"
            create(service, id, params=[0.0] * SIZE)
            fill(service, id, 1)
            assert service.delete(f"/v1/sessions/{id}").status_code == 204
            assert took(service, gradient(n), n, "kept")["replayed"] is False
        assert len(service.store.rows("kept", 0, 99)) == 6
        model = Adam([1.0, 2.0])
        for n in range(1, 7):
            model.step(gradient(n))
        assert params(service, id="kept") == model.params.tolist()


def fill(service: Service, id: str, first: int) -> int:
    """Steps until there is no room; the number of the first that was refused."""
    for n in range(first, 1000):
        answer = step(service, gradient(n, SIZE), n, id, **{"return": "none"})
        if answer.status_code != 200:
            problem(answer, 507, "out-of-space")
            assert int(answer.headers["retry-after"]) >= 1
            return n
    raise AssertionError("it was never full")


class TestAProcess:
    """The real thing: the operating system refuses the writes."""

    @pytest.mark.parametrize("where", ["file size", *(["small disk"] if OWN_DISK_WORKS else [])])
    def test_without_room_refuses_loses_nothing_and_goes_on(self, tmp_path: Path, where: str) -> None:
        """On a disk of 6 MiB, where this machine lets us have one, and with a bound on the size of files."""
        before: tuple[str, ...] = ()
        if where == "small disk":
            before = (*OWN_DISK, f'mount -t tmpfs -o size=6m none "{tmp_path}" && exec "$@"', "sh")
        with serving(tmp_path / "data", before=before) as server, calling(server) as caller:
            pid = server.process.pid
            big = {"optimizer": ADAM, "params": [0.0] * SIZE}
            for id in ("a", "b"):
                assert caller.call("POST", "/v1/sessions", {**big, "id": id})[0] == 201
            filler = Path(f"/proc/{pid}/root{tmp_path}/filler")
            if where == "small disk":
                filler.write_bytes(bytes(MiB // 2))
            else:
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (2 * MiB, resource.RLIM_INFINITY))

            refused = self.fill(caller, "a", 1)
            assert refused > 10
            newest = caller.call("GET", "/v1/sessions/a/params")
            assert newest[1]["step"] == refused - 1
            assert caller.call("GET", "/readyz")[0] == 503
            if where == "small disk":
                assert caller.call("DELETE", "/v1/sessions/b") == (204, None)
                refused = self.fill(caller, "a", refused)
                newest = caller.call("GET", "/v1/sessions/a/params")
                filler.unlink()
            else:
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
            status, again = self.take(caller, "a", refused - 1)
            assert (status, again["replayed"], again["params"]) == (200, True, newest[1]["params"])
            for number in range(refused, refused + 10):
                status, answer = self.take(caller, "a", number)
                assert (status, answer["step"], answer["replayed"]) == (200, number, False)
            assert caller.call("DELETE", "/v1/sessions/a") == (204, None)
            assert server.end(signal.SIGTERM) == 0

    def take(self, caller: Caller, id: str, number: int) -> tuple[int, Any]:
        return caller.call("POST", f"/v1/sessions/{id}/steps", {"gradients": gradient(number, SIZE), "step": number})

    def fill(self, caller: Caller, id: str, first: int) -> int:
        for number in range(first, 1000):
            status, answer = self.take(caller, id, number)
            if status != 200:
                assert (status, answer["code"]) in ((507, "out-of-space"), (503, "unavailable"))
                assert answer["detail"].endswith(".")
                return number
        raise AssertionError("it was never full")
