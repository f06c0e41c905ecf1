"""Products, eigenvectors and orthogonal factors in a fixed order; the rules that take only some shapes."""

from __future__ import annotations

from math import ldexp
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import Invalid
from service.optim import matrices
from service.optim.matrices import along, bfloat16, eigenvectors, gram, orthogonal, packed, product, squares
from service.optim.optimizer import build
from service.optim.tensors import DTYPES, Layout
from tests.optim.table import OF_SOME_SHAPES, bits, layout, same

SIZES = (1, 2, 3, 4, 5, 8, 17, 40)
MATRICES = {"up": (4, 3), "down": (2, 5)}
fixed = settings(derandomize=True, deadline=None, max_examples=100)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_the_compiled_loop_of_a_product_gives_the_same_bits(dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = matrices.compiled(dtype)
    for m, k, n in ((40, 41, 43), (1, 300, 200), (129, 3, 257), (64, 128, 32), (33, 1022, 1)):
        a, b = matrix(m, k).astype(dtype), matrix(k, n, 1).astype(dtype)
        monkeypatch.setattr(matrices, "_loop", lambda dtype: None)
        plain = product(a, b)
        monkeypatch.setattr(matrices, "_loop", lambda dtype: loop)
        monkeypatch.setattr(matrices, "COMPILED", 0)
        assert bits(product(a, b)) == bits(plain)
        assert bits(product(np.asfortranarray(a), np.asfortranarray(b))) == bits(plain)


def matrix(rows: int, columns: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=(rows, columns))


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 4, 5), (0, 3, 2), (3, 0, 2), (70, 300, 90)])
def test_a_product_is_summed_along_the_inner_axis_in_order(shape: tuple[int, int, int], dtype: Any) -> None:
    m, k, n = shape
    a, b = matrix(m, k).astype(dtype), matrix(k, n, 1).astype(dtype)
    out = np.zeros((m, n), dtype)
    for i in range(k):
        out = out + np.outer(a[:, i], b[i])
    assert bits(product(a, b)) == bits(out)
    assert bits(product(a, np.asfortranarray(b))) == bits(out)
    assert product(a, b).dtype == dtype


@pytest.mark.parametrize("n", SIZES)
def test_eigenvectors_are_lapacks(n: int) -> None:
    half = matrix(n, n)
    whole = half + half.T
    values, vectors = eigenvectors(whole)
    assert values == pytest.approx(np.linalg.eigvalsh(whole), abs=1e-13 * n)
    assert vectors.T @ vectors == pytest.approx(np.eye(n), abs=1e-13)
    assert vectors @ np.diag(values) @ vectors.T == pytest.approx(whole, abs=1e-13 * n)
    assert (np.diff(values) >= 0.0).all()


def test_small_eigenvalues_keep_their_digits() -> None:
    """Of a matrix that is graded over thirty decades, where those of LAPACK are noise."""
    scale = 10.0 ** np.array([-15.0, -10.0, -5.0, 0.0])
    correlation = np.full((4, 4), 0.5) + 0.5 * np.eye(4)
    values, _ = eigenvectors(scale[:, None] * correlation * scale)
    wanted = [0.625e-30, 0.6666666667e-20, 0.75e-10, 1.0]
    assert values == pytest.approx(wanted, rel=1e-4)


def test_eigenvectors_of_zeros_and_of_what_is_not_finite() -> None:
    values, vectors = eigenvectors(np.zeros((3, 3)))
    assert (values.tolist(), vectors.tolist()) == ([0.0] * 3, np.eye(3).tolist())
    assert np.isnan(eigenvectors(np.full((2, 2), np.nan))[0]).all()


@pytest.mark.parametrize("n", SIZES)
def test_the_orthogonal_factor_leaves_a_triangle(n: int) -> None:
    for each in (matrix(n, n), matrix(n, n) * 1e-200, np.diag(np.arange(n) % 2.0)):
        q = orthogonal(each)
        assert q.T @ q == pytest.approx(np.eye(n), abs=1e-13)
        assert np.abs(np.tril(q.T @ each, -1)).max() <= 1e-13 * max(np.abs(each).max(), 1e-300) * n


@fixed
@given(st.floats(width=32, allow_nan=False))
def test_bfloat16_is_the_nearest_number_of_eight_bits(x: float) -> None:
    rounded = float(bfloat16(np.array([x]))[0])
    if not np.isfinite(rounded):
        assert abs(x) >= ldexp(511, 119)  # half a step above the largest
        return
    step = ldexp(1.0, max(int(np.frexp(x)[1]) - 8, -133))
    assert rounded % step == 0.0
    assert abs(rounded - x) <= step / 2.0
    if abs(rounded - x) == step / 2.0:
        assert (rounded / step) % 2.0 == 0.0
    assert float(bfloat16(np.array([rounded]))[0]) == rounded


def test_bfloat16_keeps_nan() -> None:
    assert np.isnan(bfloat16(np.array([np.nan, -np.nan]))).all()


def test_axes_and_packing() -> None:
    x = np.random.default_rng(0).normal(size=(2, 3, 4))
    turn = matrix(3, 3)
    assert along(x, 1, turn) == pytest.approx(np.einsum("ij,ajb->aib", turn, x))
    assert gram(x, 2) == pytest.approx(np.einsum("abi,abj->ij", x, x))
    parts = [matrix(2, 2), matrix(3, 3)]
    assert all((a == b).all() for a, b in zip(squares(packed(parts), (2, 3)), parts, strict=True))
    assert packed([]).shape == (0,)


# The rules that take only some shapes


def rows(size: int, dtype: str) -> list[Any]:
    return list(np.random.default_rng(1).normal(size=(8, size)).astype(DTYPES[dtype]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("specification", OF_SOME_SHAPES.values(), ids=OF_SOME_SHAPES)
def test_a_split_fold_is_the_whole_and_no_input_is_touched(specification: Any, dtype: str) -> None:
    subject = build(specification, Layout(tuple(MATRICES), tuple(MATRICES.values()), DTYPES[dtype]))
    states = [subject.init(rows(22, dtype)[0])]
    for row in rows(22, dtype):
        for array in (states[-1].params, *states[-1].slots, row):
            array.flags.writeable = False
        states.append(subject.step(states[-1], row).state)
    again = states[4]
    for row in rows(22, dtype)[4:]:
        again = subject.step(again, row).state
    assert same(again, states[-1])
    assert all(array.dtype == DTYPES[dtype] for array in (again.params, *again.slots))
    absent = subject.step(states[4], rows(22, dtype)[0], (0,)).state
    assert absent.params[:12].tobytes() == states[4].params[:12].tobytes()
    assert absent.params[12:].tobytes() != states[4].params[12:].tobytes()


@pytest.mark.parametrize("specification", OF_SOME_SHAPES.values(), ids=OF_SOME_SHAPES)
def test_what_does_not_fit_is_refused_at_creation_and_may_be_frozen(specification: Any) -> None:
    with pytest.raises(Invalid, match=r"The parameter 'layer\.bias' cannot be: muon is for matrices") as caught:
        build(specification, layout())
    assert caught.value.places[0].pointer == "/optimizer"
    frozen = [{"match": "layer.bias", "frozen": True}, {"match": "scale", "frozen": True}]
    subject = build(specification, layout(), groups=frozen)
    state = subject.init(np.ones(18))
    after = subject.step(state, np.arange(18.0)).state
    assert (after.params[12:] == 1.0).all()
    assert (after.params[:12] != 1.0).any()


def test_shampoo_takes_four_axes_at_most() -> None:
    with pytest.raises(Invalid, match="at most 4 axes"):
        build({"name": "shampoo"}, Layout(("x",), ((2, 1, 2, 1, 2),), DTYPES["float64"]))


# Muon: what goes to Adam


def slot_sizes(specification: Any, shapes: dict[str, tuple[int, ...]]) -> list[int]:
    subject = build(specification, Layout(tuple(shapes), tuple(shapes.values()), DTYPES["float64"]))
    place = next(place for place in subject.places if place.name == "second_moment")
    return [int(np.prod(shape)) for shape in place.shapes]


MODEL = {"embedding.weight": (6, 2), "hidden": (3, 2), "head": (2, 4), "filters": (2, 2, 3, 3), "bias": (5,)}


@pytest.mark.parametrize(
    ("specification", "sizes"),
    [
        ({"like": "keras.optimizers.Muon"}, [12, 0, 0, 36, 5]),
        ({"like": "keras.optimizers.Muon", "exclude_embeddings": False}, [0, 0, 0, 36, 5]),
        ({"like": "keras.optimizers.Muon", "exclude_layers": ["head"]}, [12, 0, 8, 36, 5]),
        ({"like": "optax.contrib.muon", "learning_rate": 0.1}, [0, 0, 0, 36, 5]),
        ({"name": "muon", "dialect": "optax", "learning_rate": 0.1, "exclude": ["emb", "he"]}, [12, 0, 8, 36, 5]),
        ({"name": "muon", "dialect": "paper"}, [0, 0, 0, 0, 5]),
        ({"name": "muon", "dialect": "paper", "exclude": ["head", "filters"]}, [0, 0, 8, 36, 5]),
    ],
)
def test_names_and_shapes_say_what_goes_to_adam(specification: Any, sizes: list[int]) -> None:
    assert slot_sizes(specification, MODEL) == sizes


def test_rows_of_coefficients_are_no_more_than_iterations() -> None:
    with pytest.raises(Invalid, match="has 5 rows for 3 iterations") as caught:
        build({"like": "optax.contrib.muon", "learning_rate": 0.1, "ns_coeffs": "dion", "ns_steps": 3}, layout())
    assert caught.value.places[0].pointer == "/optimizer/ns_coeffs"


@pytest.mark.parametrize("preconditioning", ["frobenius", "spectral", "aol", "schatten"])
def test_the_step_of_a_matrix_has_singular_values_near_one(preconditioning: str) -> None:
    for shape in ((6, 9), (9, 6)):
        asked = {"name": "muon", "dialect": "optax", "learning_rate": 1.0, "preconditioning": preconditioning}
        subject = build(asked, Layout(("x",), (shape,), DTYPES["float64"]))
        state = subject.init(np.zeros(54))
        moved = subject.step(state, matrix(1, 54, 2)[0]).state.params.reshape(shape)
        values = np.linalg.svd(moved / np.sqrt(max(1.0, shape[1] / shape[0])))[1]
        assert (values > 0.6).all()
        assert (values < 1.3).all()
