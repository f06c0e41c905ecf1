"""The catalogue over HTTP: what a client reads of schedules and transforms."""

from __future__ import annotations

from service.optim.schedules.catalogue import SCHEDULES
from service.optim.transforms.catalogue import TRANSFORMS
from tests.conftest import Service


def test_the_lists_say_where_a_transform_stands_and_what_a_schedule_follows(service: Service) -> None:
    stages = {item["name"]: item["stage"] for item in service.get("/v1/transforms").json()["items"]}
    assert stages == {name: transform.stage for name, transform in TRANSFORMS.items()}
    follows = {item["name"]: item["follows"] for item in service.get("/v1/schedules").json()["items"]}
    assert [name for name, what in follows.items() if what == "loss"] == ["reduce_on_plateau"]
    assert set(follows) == set(SCHEDULES)


def test_a_transform_tells_what_it_keeps_and_what_the_libraries_call_it(service: Service) -> None:
    entry = service.get("/v1/transforms/accumulate").json()
    assert entry["stage"] == "gradient"
    assert entry["may_hold_a_step"] is True
    assert entry["state"] == [
        {"name": "gathered", "shape": "as the parameters", "bytes_per_parameter": 8.0},
        {"name": "counts", "shape": [2], "bytes_per_parameter": 0.0},
    ]
    assert [spelling["like"] for spelling in entry["like"]] == ["optax.MultiSteps"]
    average = service.get("/v1/transforms/parameter_ema").json()
    assert (average["stage"], average["seen_by_eval"]) == ("parameters", True)


def test_the_schedule_that_follows_the_loss_tells_its_spellings(service: Service) -> None:
    entry = service.get("/v1/schedules/reduce_on_plateau").json()
    assert [spelling["like"] for spelling in entry["like"]] == [
        "torch.optim.lr_scheduler.ReduceLROnPlateau",
        "optax.contrib.reduce_on_plateau",
        "keras.callbacks.ReduceLROnPlateau",
    ]
    assert entry["defaults"]["patience"] == 10
    assert entry["required"] == ["initial"]


def test_a_session_takes_transforms_in_a_librarys_words_and_frozen_groups(service: Service) -> None:
    body = {
        "optimizer": {"like": "torch.optim.SGD", "lr": 1.0},
        "params": {"w": [1.0, 2.0], "b": 3.0},
        "transforms": [{"like": "optax.projections.projection_non_negative"}, {"like": "optax.clip", "max_delta": 2.0}],
        "groups": [{"match": "b", "frozen": True}],
    }
    made = service.post("/v1/sessions", json=body)
    assert made.status_code == 201
    where = made.headers["location"]
    step = service.post(f"{where}/steps", json={"gradients": {"w": [5.0, 0.5], "b": 9.0}})
    assert step.json()["params"] == {"w": [0.0, 1.5], "b": 3.0}
    stored = service.get(where).json()
    assert [t["name"] for t in stored["transforms"]] == ["clip_by_value", "project_nonnegative"]
    assert stored["groups"] == body["groups"]


def test_an_average_is_read_with_eval_and_gathering_says_that_nothing_moved(service: Service) -> None:
    body = {
        "optimizer": {"name": "sgd", "learning_rate": 1.0},
        "params": [0.0],
        "transforms": [{"name": "accumulate", "steps": 2}, {"name": "parameter_swa"}],
    }
    where = service.post("/v1/sessions", json=body).headers["location"]
    answers = [service.post(f"{where}/steps", json={"gradients": [g]}).json() for g in (1.0, 3.0, 2.0, 2.0)]
    assert [answer["params"] for answer in answers] == [[0.0], [-2.0], [-2.0], [-4.0]]
    assert [answer.get("committed", True) for answer in answers] == [False, True, False, True]
    assert service.get(f"{where}/params?view=eval").json()["params"] == [-3.0]
    assert service.get(f"{where}/params").json()["params"] == [-4.0]


def test_a_plateau_needs_the_loss_of_each_step(service: Service) -> None:
    plateau = {"like": "torch.optim.lr_scheduler.ReduceLROnPlateau", "initial": 1.0, "patience": 0, "factor": 0.5}
    body = {"optimizer": {"like": "torch.optim.SGD", "lr": plateau}, "params": [0.0]}
    where = service.post("/v1/sessions", json=body).headers["location"]
    refused = service.post(f"{where}/steps", json={"gradients": [1.0]})
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["pointer"] == "/loss"
    rates = [
        service.post(f"{where}/steps", json={"gradients": [1.0], "loss": 2.0}).json()["learning_rate"] for _ in range(4)
    ]
    assert rates == [1.0, 1.0, 0.5, 0.25]
    for other in (0.5, {**plateau, "patience": 3}):
        changed = service.patch(where, {"hyperparameters": {"learning_rate": other}})
        assert changed.status_code == 422
        assert "create a new session" in changed.json()["detail"]
    assert service.patch(where, {"hyperparameters": {"momentum": 0.0}}).status_code == 200


def test_an_optimizer_is_found_by_a_librarys_class_too(service: Service) -> None:
    told = service.get("/v1/optimizers/torch.optim.AdamW").json()
    assert told == service.get("/v1/optimizers/adamw").json()
    assert told["exchange"]["torch"]["slots"]["first_moment"] == {"called": "exp_avg"}
    assert service.get("/v1/optimizers/torch.optim.AdamX").status_code == 404
