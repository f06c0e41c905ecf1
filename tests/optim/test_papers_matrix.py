"""Layerwise and matrix rules without a library: against plain transcriptions of the papers and of the authors' code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from service.optim.optimizer import build
from service.optim.tensors import DTYPES, Layout

STEPS = 12
SCALES = (1.0, 1e-3, 1e-6)


def compare(specification: Any, shape: tuple[int, ...], theirs: Callable[..., Any], scale: float = 1.0) -> None:
    """Ours and theirs(p, g, state, t) -> p on the same gradients; the displacement differs by rounding only."""
    random = np.random.default_rng(5)
    first = random.normal(size=shape)
    mean = random.normal(size=shape)
    rows = [scale * (mean + 0.5 * random.normal(size=shape)) for _ in range(STEPS)]
    subject = build(specification, Layout(("x",), (shape,), DTYPES["float64"]))
    state, p, memory = subject.init(first.ravel()), first, {}
    for t, g in enumerate(rows, 1):
        state = subject.step(state, g.ravel()).state
        p = theirs(p, g, memory, t)
        moved = np.linalg.norm(p - first)
        assert np.linalg.norm(state.params - p.ravel()) <= 1e-11 * moved
    assert moved > 0.0


# LAMB and LARS


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("bounds", [(0.0, None), (0.5, 1.5), (5.0, 10.0)])
def test_lamb_is_algorithm_2(bounds: tuple[float, float | None], scale: float) -> None:
    def lamb(p: Any, g: Any, s: dict[str, Any], t: int) -> Any:
        s["m"] = 0.9 * s.get("m", 0.0) + 0.1 * g
        s["v"] = 0.999 * s.get("v", 0.0) + 0.001 * g**2
        r = (s["m"] / (1 - 0.9**t)) / (np.sqrt(s["v"] / (1 - 0.999**t)) + 1e-6)
        update = r + 0.01 * p
        phi = max(np.linalg.norm(p), bounds[0])
        phi = phi if bounds[1] is None else min(phi, bounds[1])
        return p - 0.02 * phi / np.linalg.norm(update) * update

    asked = {"name": "lamb", "learning_rate": 0.02, "smallest_norm": bounds[0], "largest_norm": bounds[1]}
    compare(asked, (4, 3), lamb, scale)


@pytest.mark.parametrize("scale", SCALES)
def test_lars_is_algorithm_1(scale: float) -> None:
    def lars(p: Any, g: Any, s: dict[str, Any], t: int) -> Any:
        local = 0.02 * np.linalg.norm(p) / (np.linalg.norm(g) + 0.1 * np.linalg.norm(p))
        s["v"] = 0.8 * s.get("v", 0.0) + 0.5 * local * (g + 0.1 * p)
        return p - s["v"]

    asked = {"name": "lars", "learning_rate": 0.5, "momentum": 0.8, "weight_decay": 0.1, "trust_coefficient": 0.02}
    compare(asked, (4, 3), lars, scale)


# Muon


def narrow(x: Any) -> Any:
    """The nearest bfloat16 by way of the mantissa, not of the bits."""
    mantissa, exponent = np.frexp(np.asarray(x, np.float32).astype(np.float64))
    return np.ldexp(np.rint(mantissa * 256.0), exponent - 8)


def times(a: Any, b: Any) -> Any:
    """A product of bfloat16 matrices, summed in single precision and rounded."""
    out = np.zeros((len(a), b.shape[1]), np.float32)
    for i in range(len(a)):
        for j in range(b.shape[1]):
            for k in range(len(b)):
                out[i, j] += np.float32(a[i, k]) * np.float32(b[k, j])
    return narrow(out)


def scaled(number: float, x: Any) -> Any:
    return narrow(np.float32(number) * np.asarray(x, np.float32))


def zeroth_power(g: Any, steps: int) -> Any:
    """The author's zeropower_via_newtonschulz5."""
    x = narrow(g)
    if g.shape[0] > g.shape[1]:
        x = x.T
    length = narrow(np.sqrt(np.sum(x**2)))
    x = narrow(x / narrow(length + 1e-7))
    for _ in range(steps):
        a = times(x, x.T)
        b = narrow(scaled(-4.7750, a) + times(scaled(2.0315, a), a))
        x = narrow(scaled(3.4445, x) + times(b, x))
    return x.T if g.shape[0] > g.shape[1] else x


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("shape", [(4, 3), (3, 5), (2, 3, 2, 4), (3, 4, 2)])
def test_muon_is_its_authors_code(shape: tuple[int, ...], scale: float) -> None:
    def muon(p: Any, g: Any, s: dict[str, Any], t: int) -> Any:
        s["b"] = s.get("b", np.zeros_like(g)) + 0.05 * (g - s.get("b", np.zeros_like(g)))
        u = g + 0.95 * (s["b"] - g)
        batch = u if u.ndim == 3 else u.reshape(1, len(u), -1)
        o = np.stack([zeroth_power(each, 5) for each in batch])
        o = scaled(max(1.0, shape[-2] / shape[-1]) ** 0.5, o).reshape(p.shape)
        return p * (1 - 0.02 * 0.1) - 0.02 * o

    compare({"name": "muon", "dialect": "paper", "weight_decay": 0.1}, shape, muon, scale)


@pytest.mark.parametrize(
    ("scaling", "factor"),
    [("match_rms_adamw", 0.2 * 6**0.5), ("spectral", (6 / 4) ** 0.5), ("original", (6 / 4) ** 0.5), ("none", 1.0)],
)
def test_muons_scales(scaling: str, factor: float) -> None:
    def muon(p: Any, g: Any, s: dict[str, Any], t: int) -> Any:
        s["b"] = 0.95 * s.get("b", 0.0) + 0.05 * g
        x = (0.05 * g + 0.95 * s["b"]).T
        x = x / (np.linalg.norm(x) + 1e-7)
        for _ in range(5):
            a = x @ x.T
            x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
        return p - 0.02 * factor * x.T

    asked = {"name": "muon", "dialect": "paper", "scaling": scaling, "newton_schulz_dtype": "session"}
    compare(asked, (6, 4), muon)


@pytest.mark.parametrize("scale", SCALES)
def test_muon_gives_vectors_to_adam(scale: float) -> None:
    def adam(p: Any, g: Any, s: dict[str, Any], t: int) -> Any:
        s["m"] = 0.9 * s.get("m", 0.0) + 0.1 * g
        s["v"] = 0.95 * s.get("v", 0.0) + 0.05 * g**2
        d = (s["m"] / (1 - 0.9**t)) / (np.sqrt(s["v"] / (1 - 0.95**t)) + 1e-10)
        return p * (1 - 3e-4 * 0.3) - 3e-4 * d

    compare({"name": "muon", "dialect": "paper", "adam_weight_decay": 0.3}, (5,), adam, scale)


# Shampoo


def inverse_root(h: Any, power: float) -> Any:
    values, vectors = np.linalg.eigh(h)
    return vectors @ np.diag(values**-power) @ vectors.T


@pytest.mark.parametrize("scale", [1.0, 1e-2])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("shape", [(4, 3), (5,), (), (2, 3, 4), (2, 2, 3, 2)])
def test_shampoo_is_algorithm_2(shape: tuple[int, ...], momentum: float, scale: float) -> None:
    letters = "abcd"[: len(shape)]

    def shampoo(p: Any, g: Any, s: dict[str, Any], t: int) -> Any:
        s["m"] = momentum * s.get("m", 0.0) + (1 - momentum) * g
        out = s["m"]
        if not shape:
            s["h"] = s.get("h", 1e-2) + g**2
            return p - 0.1 * out / np.sqrt(s["h"])
        for axis, letter in enumerate(letters):
            other = letters.replace(letter, "z")
            h = s.get(letter, 1e-2 * np.eye(shape[axis])) + np.einsum(f"{letters},{other}->{letter}z", g, g)
            s[letter] = h
            out = np.einsum(f"z{letter},{letters}->{other}", inverse_root(h, 1 / (2 * len(shape))), out)
        return p - 0.1 * out

    compare({"name": "shampoo", "momentum": momentum, "epsilon": 1e-2}, shape, shampoo, scale)


def test_shampoo_with_a_long_axis_and_rare_roots() -> None:
    def shampoo(p: Any, g: Any, s: dict[str, Any], t: int) -> Any:
        s["r"] = s.get("r", 1e-2 * np.eye(3)) + g.T @ g
        if t % 4 == 1:
            s["root"] = inverse_root(s["r"], 0.25)
        return p - 0.1 * g @ s["root"]

    compare({"name": "shampoo", "epsilon": 1e-2, "longest_axis": 3, "update_frequency": 4}, (5, 3), shampoo)


# SOAP


class Soap:
    """The authors' code for a matrix, line by line."""

    def __init__(self, frequency: int, normalize: bool, longest: int = 1_000) -> None:
        self.frequency, self.normalize, self.longest = frequency, normalize, longest

    def project(self, x: Any, q: list[Any]) -> Any:
        x = x if q[0] is None else q[0].T @ x
        return x if q[1] is None else x @ q[1]

    def project_back(self, x: Any, q: list[Any]) -> Any:
        x = x if q[0] is None else q[0] @ x
        return x if q[1] is None else x @ q[1].T

    def update_preconditioner(self, g: Any, s: dict[str, Any]) -> None:
        if "Q" in s:
            s["m"] = self.project_back(s["m"], s["Q"])
        for k, outer in enumerate((g @ g.T, g.T @ g)):
            if g.shape[k] <= self.longest:
                s["GG"][k] = s["GG"][k] + 0.1 * (outer - s["GG"][k])
        if "Q" not in s:
            s["Q"] = [None if m is None else np.flip(np.linalg.eigh(m)[1], 1) for m in s["GG"]]
        if s["step"] > 0 and s["step"] % self.frequency == 0:
            new = []
            for k, (m, o) in enumerate(zip(s["GG"], s["Q"], strict=True)):
                if m is None:
                    new.append(None)
                    continue
                order = np.argsort(-np.diag(o.T @ m @ o))
                s["v"] = np.take(s["v"], order, axis=k)
                new.append(np.linalg.qr(m @ o[:, order])[0])
            s["Q"] = new
        if s["step"] > 0:
            s["m"] = self.project(s["m"], s["Q"])

    def __call__(self, p: Any, g: Any, s: dict[str, Any], t: int) -> Any:
        if t == 1:
            sizes = [n if n <= self.longest else None for n in g.shape]
            s |= {"step": 0, "m": np.zeros_like(g), "v": np.zeros_like(g)}
            s["GG"] = [None if n is None else np.zeros((n, n)) for n in sizes]
            self.update_preconditioner(g, s)
            return p
        s["step"] += 1
        turned = self.project(g, s["Q"])
        s["m"] = 0.95 * s["m"] + 0.05 * turned
        s["v"] = 0.9 * s["v"] + 0.1 * turned**2
        size = 0.003 * (1 - 0.9 ** s["step"]) ** 0.5 / (1 - 0.95 ** s["step"])
        d = self.project_back(s["m"] / (np.sqrt(s["v"]) + 1e-8), s["Q"])
        if self.normalize:
            d = d / (1e-30 + np.mean(d**2) ** 0.5)
        p = p - size * d
        p = p - 0.003 * 0.01 * p
        self.update_preconditioner(g, s)
        return p


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(
    ("frequency", "normalize", "longest"), [(1, False, 1_000), (3, False, 1_000), (10, True, 1_000), (2, False, 3)]
)
def test_soap_is_its_authors_code(frequency: int, normalize: bool, longest: int, scale: float) -> None:
    asked = {"name": "soap", "beta2": 0.9, "update_frequency": frequency, "normalize": normalize}
    first_moves(asked)
    compare({**asked, "longest_axis": longest}, (4, 3), Soap(frequency, normalize, longest), scale)


def first_moves(specification: Any) -> None:
    """The first step only makes the bases."""
    subject = build(specification, Layout(("x",), ((4, 3),), DTYPES["float64"]))
    state = subject.init(np.ones(12))
    assert (subject.step(state, np.arange(12.0)).state.params == 1.0).all()


@pytest.mark.parametrize("precondition", [False, True])
def test_soap_of_a_vector_is_adam_one_step_late_unless_it_has_a_basis(precondition: bool) -> None:
    soap = {"name": "soap", "weight_decay": 0.0, "precondition_vectors": precondition}
    adam = {"name": "adam", "dialect": "scratch", "learning_rate": 3e-3, "beta1": 0.95, "beta2": 0.95, "epsilon": 1e-8}
    where = Layout(("x",), ((5,),), DTYPES["float64"])
    rows = np.random.default_rng(2).normal(size=(8, 5))
    one, other = build(soap, where), build(adam, where)
    mine = one.step(one.init(np.ones(5)), rows[0]).state
    theirs = other.init(np.ones(5))
    for row in rows[1:]:
        mine, theirs = one.step(mine, row).state, other.step(theirs, row).state
    assert (mine.params == pytest.approx(theirs.params, rel=1e-13)) != precondition


def test_merged_axes_are_seen_as_one() -> None:
    soap = {"name": "soap", "merge_axes": True, "longest_axis": 6}
    subject = build(soap, Layout(("x",), ((2, 3, 4),), DTYPES["float64"]))
    assert [place.size for place in subject.places] == [24, 24, 36 + 16, 36 + 16]
    flat = build({**soap, "merge_axes": False}, Layout(("x",), ((6, 4),), DTYPES["float64"]))
    rows = np.random.default_rng(2).normal(size=(8, 24))
    one, other = subject.init(np.ones(24)), flat.init(np.ones(24))
    for row in rows:
        one, other = subject.step(one, row).state, flat.step(other, row).state
    assert one.params.tobytes() == other.params.tobytes()


# Fromage, NovoGrad and SM3 have no paper dialect: their golden data are of optax. What their papers say holds.


def test_fromage_keeps_a_fixed_share_of_a_tensors_norm() -> None:
    """A gradient at right angles to the tensor leaves the norm as it is, whatever the rate."""
    subject = build({"name": "fromage", "learning_rate": 0.3}, Layout(("x",), ((2,),), DTYPES["float64"]))
    state = subject.init(np.array([3.0, 0.0]))
    after = subject.step(state, np.array([0.0, 1e3])).state
    assert np.linalg.norm(after.params) == pytest.approx(3.0, rel=1e-14)
    assert after.params[1] / after.params[0] == pytest.approx(-0.3, rel=1e-13)


def test_sm3_bounds_adagrads_sums_from_above() -> None:
    subject = build({"name": "sm3", "learning_rate": 0.1}, Layout(("x",), ((4, 3),), DTYPES["float64"]))
    state, total = subject.init(np.ones(12)), np.zeros((4, 3))
    for row in np.random.default_rng(3).normal(size=(10, 12)):
        state = subject.step(state, row).state
        total += row.reshape(4, 3) ** 2
        kept = state.slots[1]
        assert (np.minimum(kept[:4, None], kept[4:]) >= total * (1 - 1e-12)).all()
    assert state.slots[1].shape == (7,)
