"""A small network in NumPy: fully connected layers with ReLU between them, softmax and cross-entropy at the end.

Pure functions over a dict of named parameters, W1, b1, W2, b2, ...; the parameters themselves live at the service.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.floating[Any]]
Labels: TypeAlias = NDArray[np.integer[Any]]
Params: TypeAlias = Mapping[str, Array]

SIZES = (64, 100, 100, 100, 100, 10)


def initialise(rng: np.random.Generator, sizes: Sequence[int] = SIZES) -> dict[str, Array]:
    """Weights after He et al. 2015, normal with variance 2 / (number of inputs), and zero biases."""
    params: dict[str, Array] = {}
    for layer, (inputs, outputs) in enumerate(pairwise(sizes), 1):
        params[f"W{layer}"] = rng.normal(0.0, np.sqrt(2.0 / inputs), (inputs, outputs))
        params[f"b{layer}"] = np.zeros(outputs)
    return params


def activations(params: Params, x: Array) -> list[Array]:
    """What each layer passes on: the input, then the output of every layer; the last are the scores of the classes."""
    layers = len(params) // 2
    passed = [x]
    for layer in range(1, layers + 1):
        a = passed[-1] @ params[f"W{layer}"] + params[f"b{layer}"]
        passed.append(np.maximum(a, 0.0) if layer < layers else a)
    return passed


def loss_and_gradients(params: Params, x: Array, t: Labels) -> tuple[float, dict[str, Array]]:
    """The mean cross-entropy of a batch with labels `t`, and its gradient by every parameter, by backpropagation."""
    passed = activations(params, x)
    scores, rows = passed[-1], np.arange(len(t))
    shifted = scores - scores.max(axis=1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    loss = -float(log_probabilities[rows, t].mean())

    delta = np.exp(log_probabilities)
    delta[rows, t] -= 1.0
    delta /= len(t)
    gradients: dict[str, Array] = {}
    for layer in range(len(passed) - 1, 0, -1):
        gradients[f"W{layer}"] = passed[layer - 1].T @ delta
        gradients[f"b{layer}"] = delta.sum(axis=0)
        if layer > 1:
            delta = (delta @ params[f"W{layer}"].T) * (passed[layer - 1] > 0.0)
    return loss, {name: gradients[name] for name in params}


def predict(params: Params, x: Array) -> Labels:
    """The most probable class of every row."""
    labels: Labels = activations(params, x)[-1].argmax(axis=1)
    return labels


def accuracy(params: Params, x: Array, t: Labels) -> float:
    """The share of rows whose class is found."""
    return float((predict(params, x) == t).mean())
