"""The losses of several runs as one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Okabe and Ito's colours, which stay apart for colour-blind eyes; the markers do without any colour.
STYLES = (("#000000", "o"), ("#E69F00", "X"), ("#009E73", "s"), ("#0072B2", "D"), ("#CC79A7", "^"))
INK, GRID = "#333333", "#E3E3E3"


def smooth(values: Sequence[float], window: int) -> NDArray[np.float64]:
    """The moving average over `window` values, an odd number, in Kaiser's weights; the ends are mirrored."""
    weights = np.kaiser(window, 6.0)
    padded = np.pad(np.asarray(values, np.float64), window // 2, mode="reflect")
    return np.convolve(padded, weights / weights.sum(), mode="valid")


def draw(losses: Mapping[str, Sequence[float]], accuracies: Mapping[str, float], path: Path) -> None:
    """Write the picture; the suffix of `path` says in which form."""
    from matplotlib.figure import Figure  # here, so that workers start without it

    iterations = len(next(iter(losses.values())))
    window = min(61, iterations - 1 + iterations % 2)
    figure = Figure(figsize=(9.0, 5.6), dpi=160, layout="constrained")
    axes = figure.add_subplot()
    steps = np.arange(1, iterations + 1)
    for (name, values), (colour, marker) in zip(losses.items(), STYLES, strict=False):
        axes.plot(steps, values, color=colour, linewidth=0.5, alpha=0.16, zorder=1)
        axes.plot(
            steps,
            smooth(values, window),
            color=colour,
            linewidth=1.8,
            marker=marker,
            markersize=6.5,
            markevery=(iterations // 20, iterations // 10),
            markeredgecolor="white",
            label=f"{name}, test accuracy {accuracies[name]:.1%}",
            zorder=2,
        )
    _dress(axes, window)
    figure.savefig(path)


def _dress(axes: Any, window: int) -> None:
    axes.set_yscale("log")
    axes.set_xlabel("iteration", color=INK)
    axes.set_ylabel(f"training loss (moving average over {window})", color=INK)
    axes.set_title(
        "One network, five optimizers: 64-100-100-100-100-10 on 8×8 digits", loc="left", color=INK, fontweight="bold"
    )
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.margins(x=0.02)
    axes.tick_params(colors=INK, length=0, which="both")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(INK)
    axes.legend(frameon=False, labelcolor=INK, loc="lower left")
