"""Checkpoints: a session as a file, and a session made of it that goes on bit for bit; what is not one is refused."""

from __future__ import annotations

import hashlib
import random
from typing import Any

import httpx
import numpy as np
import orjson
import pytest
import safetensors
import safetensors.numpy

from service.sessions import checkpoint
from service.wire import safetensors as wire
from service.wire.safetensors import MAX_HEADER_BYTES
from tests.conftest import Serve, Service
from tests.sessions.calls import ADAM, create, gradient, params, pointers, problem, settle, shown, step, took, walk

MEDIA_TYPE = "application/vnd.thalweg+safetensors"
LAYER = {"layer.weight": [[1.0, 2.0], [3.0, 4.0]], "layer.bias": [0.5, -0.5], "scale": 2.0}

BODIES: dict[str, dict[str, Any]] = {
    "one array": {"optimizer": ADAM, "params": [1.0, 2.0]},
    "no slots": {"optimizer": {"name": "sgd", "learning_rate": 0.1}, "params": [1.0, 2.0]},
    "names": {"optimizer": ADAM, "params": LAYER},
    "float32, a schedule, a transform and groups": {
        "optimizer": {
            "name": "momentum",
            "momentum": 0.9,
            "learning_rate": {"schedule": "cosine_annealing", "initial": 0.1, "t_max": 30},
        },
        "params": LAYER,
        "dtype": "float32",
        "groups": [{"match": "*.bias", "weight_decay": 0.1}],
        "transforms": [{"name": "clip_by_global_norm", "max_norm": 1.0}],
    },
    "names that are hard": {"optimizer": ADAM, "params": {"a/b": [1.0], "é \"'": [2.0], "0": 3.0}},
}


def moved(body: dict[str, Any], number: int) -> Any:
    """A gradient for the parameters of a body."""
    rng = np.random.default_rng(number)

    def like(value: Any) -> Any:
        return rng.standard_normal(np.shape(value)).tolist()

    given = body["params"]
    return {name: like(value) for name, value in given.items()} if isinstance(given, dict) else like(given)


def steps(service: Service, body: dict[str, Any], first: int, last: int, id: str = "s") -> list[dict[str, Any]]:
    return [took(service, moved(body, n), n, id) for n in range(first, last + 1)]


def saved(service: Service, id: str = "s", query: str = "") -> bytes:
    """A session's checkpoint."""
    response = service.get(f"/v1/sessions/{id}/state{query}")
    assert (response.status_code, response.headers["content-type"]) == (200, MEDIA_TYPE), response.text
    return response.content


def restore(service: Service, content: bytes, query: str = "?id=r") -> httpx.Response:
    """A session made of a checkpoint, or not."""
    headers = {"content-type": MEDIA_TYPE}
    return service.post(f"/v1/sessions{query}", content=content, headers=headers)


def split(content: bytes) -> tuple[dict[str, Any], bytes]:
    """The header and the data of a file."""
    length = int.from_bytes(content[:8], "little")
    return orjson.loads(content[8 : 8 + length]), content[8 + length :]


def joined(header: dict[str, Any], data: bytes) -> bytes:
    text = orjson.dumps(header)
    return len(text).to_bytes(8, "little") + text + data


def signed(header: dict[str, Any], data: bytes) -> bytes:
    """The same with a digest that fits, as somebody might make it."""
    metadata = {key: value for key, value in header["__metadata__"].items() if key != "digest"}
    digest = hashlib.sha256(orjson.dumps(sorted(metadata.items())))
    for name in sorted(header.keys() - {"__metadata__"}):
        entry = header[name]
        start, stop = entry["data_offsets"]
        digest.update(orjson.dumps([name, entry["dtype"], entry["shape"]]))
        digest.update(data[start:stop])
    metadata["digest"] = orjson.dumps(digest.hexdigest()).decode()
    return joined(header | {"__metadata__": metadata}, data)


class TestACheckpoint:
    @pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
    @pytest.mark.parametrize("at", [0, 1, 7])
    def test_goes_on_bit_for_bit(self, serve: Serve, kind: str, body: Any, at: int) -> None:
        service = serve(kind=kind)
        create(service, **body)
        steps(service, body, 1, at)
        content = saved(service)
        answers = steps(service, body, at + 1, at + 8)
        made = restore(service, content)
        assert made.status_code == 201, made.text
        assert (made.json()["step"], made.json()["durable_step"]) == (at, at)
        for field in ("optimizer", "transforms", "groups", "shapes", "dtype", "state_bytes"):
            assert made.json()[field] == shown(service)[field]
        assert steps(service, body, at + 1, at + 8, "r") == answers
        other = serve(store=service.store)
        assert params(other, id="r") == answers[-1]["params"]
        assert params(other, at, "r") == params(service, at)

    @pytest.mark.parametrize("at", [0, 3, 8, 12])
    def test_of_any_step(self, serve: Serve, kind: str, at: int) -> None:
        service = serve(kind=kind, snapshot_every=5)
        create(service)
        answers = walk(service, 12)
        service.post("/v1/sessions/s/rewind", {"step": 10})
        walk(service, 12, first=11)
        assert restore(service, saved(service, query=f"?step={at}")).json()["step"] == at
        assert walk(service, 12, first=at + 1, id="r") == answers[at:]

    def test_is_a_safetensors_file_that_tells_what_it_is(self, service: Service) -> None:
        body = BODIES["names"]
        create(service, **body)
        steps(service, body, 1, 3)
        content = saved(service)
        tensors = safetensors.numpy.load(content)
        assert {name: tensor.shape for name, tensor in tensors.items()} == {
            f"{what}/{name}": np.shape(value)
            for what in ("params", "slots/first_moment", "slots/second_moment")
            for name, value in LAYER.items()
        }
        assert tensors["params/layer.weight"].tolist() == params(service)["layer.weight"]
        metadata = {key: orjson.loads(text) for key, text in split(content)[0]["__metadata__"].items()}
        assert metadata["optimizer"] == shown(service)["optimizer"]
        assert (metadata["checkpoint"], metadata["step"], metadata["updates"]) == (checkpoint.VERSION, 3, 3)
        assert metadata["layout"]["names"] == list(LAYER)
        assert service.get("/v1/sessions/s/state").headers["content-disposition"] == (
            'attachment; filename="s-3.safetensors"'
        )

    def test_that_another_program_has_written_again(self, service: Service) -> None:
        """A library puts the tensors in an order of its own, and its own word into the metadata."""
        body = BODIES["names"]
        create(service, **body)
        steps(service, body, 1, 3)
        content = saved(service)
        again = safetensors.numpy.save(
            safetensors.numpy.load(content), {**split(content)[0]["__metadata__"], "format": "np"}
        )
        assert again != content
        assert restore(service, again).status_code == 201
        assert steps(service, body, 4, 6, "r") == steps(service, body, 4, 6)

    def test_of_thousands_of_names_goes_on_too(self, service: Service) -> None:
        """Its header has more bytes than are read of a step, and labels of the greatest length."""
        body = {"optimizer": ADAM, "params": {f"layer.{i}.weight": [float(i)] for i in range(4_000)}}
        labels = {f"{i:02}".ljust(1024, "\x01"): '"' * 1024 for i in range(64)}
        create(service, **body, labels=labels)
        steps(service, body, 1, 1)
        content = saved(service)
        assert int.from_bytes(content[:8], "little") > MAX_HEADER_BYTES
        made = restore(service, content)
        assert (made.status_code, made.json()["step"], made.json()["labels"]) == (201, 1, labels)
        assert steps(service, body, 2, 2, "r") == steps(service, body, 2, 2)

    def test_can_be_loaded_of_whatever_session_there_is(
        self, service: Service, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What would be too much for a header is no session in the first place."""
        monkeypatch.setattr(checkpoint, "OTHER_BYTES", 1_000)
        monkeypatch.setattr(wire, "MAX_CREATION_HEADER_BYTES", most := 20_000)
        sizes = []
        for many in range(1, 60, 3):
            id, twin = f"s{many}", f"t{many}"
            named = {'é"\\\x01/' * 10 + str(i): [[1.0]] for i in range(many)}
            response = service.post("/v1/sessions", {"optimizer": ADAM, "params": named, "id": id})
            if response.status_code != 201:
                refused = problem(response, 422, "invalid")
                assert pointers(refused) == ["/params"]
                assert service.get(f"/v1/sessions/{id}").status_code == 404
                continue
            content = saved(service, id)
            sizes.append(int.from_bytes(content[:8], "little"))
            assert restore(service, content, f"?id={twin}").status_code == 201
            assert params(service, id=twin) == named
        assert most / 2 < sizes[-1] < most
        assert len(sizes) < 20

    def test_has_the_policy_and_the_labels_of_its_session(self, service: Service) -> None:
        create(service, non_finite="skip", durability="every:4", labels={"a": "b"}, ttl_seconds=1000)
        made = restore(service, saved(service)).json()
        assert (made["non_finite"], made["durability"], made["labels"]) == ("skip", "every:4", {"a": "b"})
        assert "ttl_seconds" not in made
        team = create(service, "team", aggregate={"workers": 2})
        made = restore(service, saved(service, "team"), "?id=r2").json()
        assert made["aggregate"] == team["aggregate"]

    @pytest.mark.parametrize("where", ["query", "metadata"])
    def test_may_be_given_others(self, service: Service, where: str) -> None:
        create(service, labels={"a": "b"})
        content = saved(service)
        said = {"id": "r", "durability": "none", "ttl_seconds": 500.0, "labels": {"c": "d"}}
        query = "?id=r&durability=none&ttl_seconds=500.0&labels=%7B%22c%22%3A%22d%22%7D"
        if where == "metadata":
            header, data = split(content)
            header["__metadata__"] |= {key: orjson.dumps(value).decode() for key, value in said.items()}
            content, query = joined(header, data), ""
        made = restore(service, content, query).json()
        assert {key: made[key] for key in said} == said

    def test_begins_where_it_was_saved(self, service: Service) -> None:
        create(service)
        walk(service, 5)
        restore(service, saved(service))
        took(service, gradient(6), 6, "r")
        for response in (
            step(service, gradient(5), 5, "r"),
            service.get("/v1/sessions/r/params?step=4"),
            service.post("/v1/sessions/r/rewind", {"step": 3}),
        ):
            gone = problem(response, 410, "step-not-kept")
            assert gone["kept_from_step"] == 5
            assert "began at step 5" in gone["detail"]
        assert service.post("/v1/sessions/r/rewind", {"step": 5}).json()["params"] == params(service, 5)
        assert [item["step"] for item in service.get("/v1/sessions").json()["items"]] == [5, 5]


class TestARepetition:
    def test_with_the_same_id_finds_the_first(self, service: Service) -> None:
        create(service)
        walk(service, 3)
        content = saved(service)
        first = restore(service, content)
        again = restore(service, content)
        assert (first.status_code, again.status_code) == (201, 200)
        assert again.json() == first.json()
        for other in (
            restore(service, content, "?id=r&durability=none"),
            restore(service, saved(service, "r"), "?id=s"),
        ):
            assert pointers(problem(other, 422, "invalid")) == ["/id"]

    def test_without_an_id_is_another_session(self, service: Service) -> None:
        create(service)
        content = saved(service)
        assert len({restore(service, content, "").json()["id"] for _ in range(3)}) == 3


class TestWhatIsRefused:
    @pytest.fixture
    def content(self, service: Service) -> bytes:
        body = BODIES["names"]
        create(service, **body)
        steps(service, body, 1, 3)
        return saved(service)

    def refused(self, service: Service, content: bytes) -> dict[str, Any]:
        body = problem(restore(service, content), 422, "invalid")
        assert service.get("/v1/sessions/r").status_code == 404
        assert service.store.count() == 1
        return body

    def test_a_file_that_is_cut_short_anywhere(self, service: Service, content: bytes) -> None:
        ends = set(range(0, len(content), 97)) | {1, 7, 8, 9, len(content) - 1}
        for end in sorted(ends):
            self.refused(service, content[:end])
        self.refused(service, content + b"\0")

    def test_any_bit_that_is_flipped(self, service: Service, content: bytes) -> None:
        rng = random.Random(1)
        for i in sorted(rng.sample(range(len(content)), 400)):
            damaged = bytearray(content)
            damaged[i] ^= 1 << rng.randrange(8)
            response = restore(service, bytes(damaged))
            assert response.status_code == 422, (i, bytes(damaged[i - 20 : i + 20]))
            assert service.store.count() == 1

    def test_damage_by_its_name(self, service: Service, content: bytes) -> None:
        damaged = bytearray(content)
        damaged[-1] ^= 1
        assert "is damaged" in self.refused(service, bytes(damaged))["detail"]
        header, data = split(content)
        header["__metadata__"]["step"] = "4"
        assert "is damaged" in self.refused(service, joined(header, data))["detail"]
        del header["__metadata__"]["digest"]
        assert "is damaged" in self.refused(service, joined(header, data))["detail"]

    @pytest.mark.parametrize("version", ["2", "0", '"one"', "null"])
    def test_another_version(self, service: Service, content: bytes, version: str) -> None:
        header, data = split(content)
        header["__metadata__"]["checkpoint"] = version
        body = self.refused(service, signed(header, data))
        assert pointers(body) == ["/checkpoint"]
        assert "this service reads 1" in body["detail"]

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("step", -1),
            ("step", 1.5),
            ("step", None),
            ("updates", "3"),
            ("counts", [1, 2]),
            ("counts", -1),
            ("layout", {}),
            ("layout", {"names": ["a", "a"], "shapes": [[1], [1]], "dtype": "float64", "named": True}),
            ("layout", {"names": ["a"], "shapes": [[1 << 40]], "dtype": "float64", "named": True}),
            ("layout", {"names": ["layer.weight"], "shapes": [[4]], "dtype": "float64", "named": True}),
            ("layout", {"names": [], "shapes": [], "dtype": "float64", "named": True}),
            ("optimizer", {"name": "none"}),
            ("optimizer", {"name": "sgd", "learning_rate": 0.1}),
            ("optimizer", []),
            ("transforms", [{"name": "none"}]),
            ("groups", [{"match": "x*"}]),
            ("session", {}),
            ("session", {"non_finite": "reject", "durability": "maybe", "labels": {}}),
            ("more", 1),
        ],
    )
    def test_metadata_that_make_no_sense(self, service: Service, content: bytes, key: str, value: Any) -> None:
        header, data = split(content)
        header["__metadata__"][key] = orjson.dumps(value).decode()
        self.refused(service, signed(header, data))

    @pytest.mark.parametrize("missing", ["optimizer", "transforms", "groups", "layout", "step", "counts", "session"])
    def test_metadata_that_are_missing(self, service: Service, content: bytes, missing: str) -> None:
        header, data = split(content)
        del header["__metadata__"][missing]
        assert pointers(self.refused(service, signed(header, data))) == [f"/{missing}"]

    def test_tensors_that_are_missing_others_or_too_many(self, service: Service, content: bytes) -> None:
        tensors = safetensors.numpy.load(content)
        metadata = split(content)[0]["__metadata__"]
        others: list[dict[str, Any]] = [
            {name: tensor for name, tensor in tensors.items() if name != "slots/second_moment/scale"},
            {**tensors, "slots/w/scale": np.array(1.0)},
            {**tensors, "slots/second_moment/scale": np.array([1.0])},
            {**tensors, "slots/second_moment/scale": np.array(1.0, np.float32)},
            {**tensors, "params/scale": np.array(np.nan)},
        ]
        for other in others:
            self.refused(service, signed(*split(safetensors.numpy.save(other, metadata))))

    def test_fields_that_a_checkpoint_does_not_take(self, service: Service, content: bytes) -> None:
        for query, pointer in (
            ("?id=a/b", "/id"),
            ("?durability=maybe", "/durability"),
            ("?ttl_seconds=-1", "/ttl_seconds"),
            ("?optimizer=%7B%7D", "/optimizer"),
        ):
            assert pointers(problem(restore(service, content, query), 422, "invalid")) == [pointer]
            assert service.store.count() == 1

    def test_state_in_another_form(self, service: Service) -> None:
        create(service)
        problem(service.get("/v1/sessions/s/state", headers={"accept": "application/json"}), 406, "not-acceptable")

    def test_state_of_what_is_not_there(self, serve: Serve, kind: str) -> None:
        service = serve(kind=kind, kept_gradient_bytes=0)
        problem(service.get("/v1/sessions/s/state"), 404, "not-found")
        create(service)
        walk(service, 40)
        settle(service)
        problem(service.get("/v1/sessions/s/state?step=41"), 404, "not-found")
        problem(service.get("/v1/sessions/s/state?step=2"), 410, "step-not-kept")
