"""Sessions and optax: half of a run here and half there is the whole of it there."""

from __future__ import annotations

import jax
import numpy as np
import optax
import pytest
from tests.golden.make import nested

import thalweg
import thalweg.exchange
import thalweg.optax

LIBRARY = "optax"
CLOSE = 1e-12


class Optax:
    """One operation at a time, outside jit. optax's counters are made int64, of which jax takes roots in doubles."""

    def __init__(self, case, initial):
        self.case = case
        self.transform = nested(case.like, dict(case.arguments))
        self.parameters = jax.tree.map(jax.numpy.asarray, initial)
        self.state = self._wide(self.transform.init(self.parameters))

    def _wide(self, state):
        return jax.tree.map(lambda x: x.astype("int64") if x.dtype == "int32" else x, state)

    def step(self, gradients, loss=None):
        told = {} if loss is None else {"value": loss}
        gradients = jax.tree.map(jax.numpy.asarray, gradients)
        updates, self.state = self.transform.update(gradients, self.state, self.parameters, **told)
        self.parameters = optax.apply_updates(self.parameters, updates)

    def params(self):
        return jax.tree.map(np.asarray, self.parameters)

    def load(self, session):
        self.parameters = jax.tree.map(jax.numpy.asarray, dict(session.params))
        self.state = self._wide(thalweg.optax.export_state(session, self.transform, self.parameters))
        return self

    def leave(self, client):
        specification = {"like": self.case.like, **self.case.arguments}
        return thalweg.optax.import_state(client, specification, self.state, self.parameters, step=20)


def test_a_session_goes_on_in_optax(moving, case):
    session = moving.session(case)
    there = moving.go_on(case, Optax(case, moving.initial(case)).load(session))
    assert moving.apart(Optax, case, there.params()) <= max(CLOSE, case.close)


def test_optax_goes_on_in_a_session(moving, case):
    session = moving.there(Optax, case, moving.half).leave(moving.client)
    assert session.step_number == moving.half
    moving.go_on(case, session)
    assert moving.apart(Optax, case, session.params) <= max(CLOSE, case.close)


def test_without_the_moments_it_would_not(moving, case):
    session = moving.session(case)
    if moving.remembers(case, session):
        bare = moving.go_on(case, Optax(case, session.params))
        assert moving.apart(Optax, case, bare.params()) > moving.apparent


# What a run of one optimizer does not show

ADAM = {"like": "optax.adam", "learning_rate": 0.1}


def nested_params():
    return {"layer": {"kernel": jax.numpy.ones((2, 3)), "bias": jax.numpy.zeros(3)}, "scales": [jax.numpy.ones(())]}


def test_a_tree_has_its_keys_for_names(client):
    params = nested_params()
    transform = optax.adam(0.1)
    state = transform.init(params)
    grown = jax.tree.map(jax.numpy.ones_like, params)
    for _ in range(3):
        updates, state = transform.update(grown, state, params)
        params = optax.apply_updates(params, updates)
    session = thalweg.optax.import_state(client, ADAM, state, params, id="tree")
    assert (session.id, session.step_number) == ("tree", 3)
    assert list(session.params) == ["layer.bias", "layer.kernel", "scales.0"]
    back = thalweg.optax.export_state(session, transform, params)
    assert jax.tree.structure(back) == jax.tree.structure(state)
    assert jax.tree.all(jax.tree.map(np.array_equal, back, state))


def test_an_array_alone_has_no_name(client):
    session = client.sessions.create(ADAM, [1.0, 2.0])
    session.step([0.5, 0.25])
    state = thalweg.optax.export_state(session, optax.adam(0.1), jax.numpy.zeros(2))
    assert np.allclose(state[0].mu, [0.05, 0.025])
    again = thalweg.optax.import_state(client, ADAM, state, jax.numpy.asarray(session.params))
    assert np.array_equal(again.step([1.0, 1.0]).params, session.step([1.0, 1.0]).params)


def test_a_chain_keeps_its_other_states_and_counts(client):
    session = client.sessions.create(ADAM, [1.0, 2.0])
    for _ in range(4):
        session.step([0.5, 0.25])
    transform = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(optax.linear_schedule(0.1, 0.0, 10)))
    state = thalweg.optax.export_state(session, transform, jax.numpy.zeros(2))
    assert int(state[1][0].count) == int(state[1][1].count) == 4


def test_another_transformation_than_the_sessions_is_refused(client):
    session = client.sessions.create(ADAM, [1.0, 2.0])
    with pytest.raises(thalweg.InvalidInput, match=r"optax\.adam keeps first_moment as 'mu', of which .* has 0"):
        thalweg.optax.export_state(session, optax.sgd(0.1), jax.numpy.zeros(2))
    with pytest.raises(thalweg.InvalidInput, match="in other shapes"):
        thalweg.optax.export_state(session, optax.adam(0.1), jax.numpy.zeros(3))
    masked = optax.masked(optax.adam(0.1), {"w": True, "b": False})
    named = client.sessions.create(ADAM, {"w": [1.0], "b": [2.0]})
    with pytest.raises(thalweg.InvalidInput, match="no state for some of the parameters"):
        thalweg.optax.export_state(named, masked, {"w": jax.numpy.ones(1), "b": jax.numpy.ones(1)})
    with pytest.raises(thalweg.InvalidInput, match="in the words of optax"):
        thalweg.optax.import_state(client, {"name": "adam"}, (), jax.numpy.zeros(2))
    with pytest.raises(thalweg.Invalid, match="first_moment"):  # the service says what the state lacks
        thalweg.optax.import_state(client, ADAM, optax.sgd(0.1).init(jax.numpy.zeros(2)), jax.numpy.zeros(2))


def test_what_stays_says_why(client, staying):
    told = client.catalogue.optimizer(staying)["exchange"]["optax"]["stays"]
    with pytest.raises(thalweg.InvalidInput) as caught:
        thalweg.exchange.form_of(client.catalogue.optimizer(staying), "optax")
    assert str(caught.value) == f"The state of {staying} cannot be moved to or from optax: {told}."


def test_what_stays_is_refused_both_ways(client):
    session = client.sessions.create({"like": "optax.contrib.muon", "learning_rate": 0.1}, np.ones((2, 2)))
    with pytest.raises(thalweg.InvalidInput, match="gives some parameters to another optimizer"):
        thalweg.optax.export_state(session, None, None)
    with pytest.raises(thalweg.InvalidInput, match="gives some parameters to another optimizer"):
        thalweg.optax.import_state(client, {"like": "optax.contrib.muon"}, None, None)
