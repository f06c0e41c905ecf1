"""Sessions and Keras: half of a run here and half there is the whole of it there."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from tests.golden.make import resolve, stay_in_doubles

import thalweg
import thalweg.keras

LIBRARY = "keras"
pytestmark = [  # Keras's own
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Gradients do not exist"),
]
CLOSE = 1e-12


class Keras:
    """On jax, in doubles."""

    def __init__(self, case, initial):
        keras.backend.set_floatx("float64")
        stay_in_doubles()
        self.optimizer = resolve(case.like)(**case.arguments)
        self.variables = {n: keras.Variable(value, dtype="float64", name=n) for n, value in initial.items()}
        self.optimizer.build(list(self.variables.values()))

    def step(self, gradients, loss=None):
        self.optimizer.apply([gradients[name] for name in self.variables], list(self.variables.values()))

    def params(self):
        return {name: np.array(variable.value) for name, variable in self.variables.items()}

    def load(self, session):
        thalweg.keras.export_state(session, self.optimizer)
        for name, value in session.params.items():
            self.variables[name].assign(value)
        return self

    def leave(self, client):
        return thalweg.keras.import_state(client, self.optimizer)


def test_a_session_goes_on_in_keras(moving, case):
    session = moving.session(case)
    there = moving.go_on(case, Keras(case, moving.initial(case)).load(session))
    assert moving.apart(Keras, case, there.params()) <= max(CLOSE, case.close)


def test_keras_goes_on_in_a_session(moving, case):
    session = moving.there(Keras, case, moving.half).leave(moving.client)
    assert session.step_number == moving.half
    moving.go_on(case, session)
    assert moving.apart(Keras, case, session.params) <= max(CLOSE, case.close)


def test_without_the_moments_it_would_not(moving, case):
    session = moving.session(case)
    if moving.remembers(case, session):
        bare = moving.go_on(case, Keras(case, session.params))
        assert moving.apart(Keras, case, bare.params()) > moving.apparent


# What a run of one optimizer does not show


def built(made, **arguments):
    keras.backend.set_floatx("float64")
    optimizer = made(**arguments)
    variables = [keras.Variable(np.ones(shape), name=name) for name, shape in (("kernel", (2, 2)), ("bias", (2,)))]
    optimizer.build(variables)
    return optimizer, variables


PARAMS = {"kernel": np.ones((2, 2)), "bias": np.ones(2)}


def test_variables_may_be_given_other_names(client):
    session = client.sessions.create({"like": "keras.optimizers.Adam"}, {"k": np.ones((2, 2)), "b": np.ones(2)})
    session.step({"k": np.ones((2, 2)), "b": np.ones(2)})
    optimizer, _ = built(keras.optimizers.Adam)
    with pytest.raises(thalweg.InvalidInput, match="The session has k, b, the optimizer kernel, bias"):
        thalweg.keras.export_state(session, optimizer)
    thalweg.keras.export_state(session, optimizer, names=["k", "b"])
    assert int(optimizer.iterations.numpy()) == 1
    assert list(thalweg.keras.import_state(client, optimizer, names=["x", "y"]).params) == ["x", "y"]
    with pytest.raises(thalweg.InvalidInput, match="a name of its own"):
        thalweg.keras.import_state(client, optimizer, names=["x", "x"])


def test_the_learning_rate_is_set_and_clipping_comes_along(client):
    session = client.sessions.create({"like": "keras.optimizers.SGD", "momentum": 0.9}, PARAMS)
    session.update(hyperparameters={"learning_rate": 0.25})
    optimizer, _ = built(keras.optimizers.SGD, momentum=0.9, clipnorm=0.5)
    thalweg.keras.export_state(session, optimizer)
    assert float(optimizer.learning_rate.numpy()) == 0.25
    back = thalweg.keras.import_state(client, optimizer)
    assert back.info["optimizer"]["learning_rate"] == 0.25
    assert [transform["name"] for transform in back.info["transforms"]] == ["clip_by_norm"]


@pytest.mark.parametrize(
    ("made", "arguments", "said"),
    [
        (keras.optimizers.RMSprop, {}, "The session is keras.optimizers.Adam, the optimizer keras.optimizers.RMSprop"),
        (keras.optimizers.Adam, {"beta_1": 0.5}, r"The optimizer's beta_1 is 0\.5; the session's is 0\.9"),
        (keras.optimizers.Adam, {"amsgrad": True}, "amsgrad is True; the session's is False"),
    ],
)
def test_another_optimizer_than_the_sessions_is_refused_before_anything_is_assigned(client, made, arguments, said):
    session = client.sessions.create({"like": "keras.optimizers.Adam"}, PARAMS)
    session.step(PARAMS)
    optimizer, _ = built(made, **arguments)
    with pytest.raises(thalweg.InvalidInput, match=said):
        thalweg.keras.export_state(session, optimizer)
    assert int(optimizer.iterations.numpy()) == 0


def test_what_does_not_move_is_refused(client):
    for option in ({"use_ema": True}, {"gradient_accumulation_steps": 2}, {"loss_scale_factor": 2.0}):
        with pytest.raises(thalweg.InvalidInput, match=f"state of {next(iter(option))} does not move"):
            thalweg.keras.import_state(client, built(keras.optimizers.Adam, **option)[0])
    scheduled = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5)
    with pytest.raises(thalweg.InvalidInput, match="follows a schedule"):
        thalweg.keras.import_state(client, built(keras.optimizers.Adam, learning_rate=scheduled)[0])
    with pytest.raises(thalweg.InvalidInput, match="gives some parameters to another optimizer"):
        thalweg.keras.import_state(client, built(keras.optimizers.Muon)[0])
    with pytest.raises(thalweg.InvalidInput, match="has no variables yet"):
        thalweg.keras.import_state(client, keras.optimizers.Adam())
    groups = [{"match": "bias", "beta1": 0.5}]
    grouped = client.sessions.create({"like": "keras.optimizers.Adam"}, PARAMS, groups=groups)
    with pytest.raises(thalweg.InvalidInput, match="this session has groups"):
        thalweg.keras.export_state(grouped, built(keras.optimizers.Adam)[0])
