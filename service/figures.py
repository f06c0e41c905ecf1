"""Pictures of runs: contours with the paths on them, values by step, the surface.

    png = draw(function, runs, view="both", form="png")

matplotlib's `Figure` is used directly and never pyplot, which keeps figures and a backend in global state. matplotlib
takes a while to import, so that this module is imported where the first picture is asked for. The same runs give the
same bytes. The colours are those of M. Okabe and K. Ito, Color Universal Design (2008), which people with any common
colour vision tell apart; a mark at the end of each path and along each line says the same without colour.

Five runs or more are drawn as small multiples: one path each, over the same contours.
"""

from __future__ import annotations

import io
import math
import re
import threading
import warnings
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.mathtext import MathTextParser
from matplotlib.path import Path
from matplotlib.transforms import Affine2D

from service.errors import Invalid
from service.functions.base import Array, Function
from service.sandbox import Run

View = Literal["path", "values", "both", "surface"]
Form = Literal["png", "svg"]

MAX_RUNS = 25  # in one picture
TOGETHER = 4  # runs up to which one panel holds all paths
MAX_POINTS = 2_000  # of one path that are drawn; more could not be told apart
MAX_DOTS = 160  # steps up to which each gets a dot

COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#000000", "#56B4E9")
DASHES: tuple[Any, ...] = ("-", (0, (4, 1.2)), (0, (1.5, 1)), (0, (6, 1.5, 1.5, 1.5)))  # one for each round of colours
MARKERS = ("o", "s", "^", "D", "v", "p", "h")
WATER = LinearSegmentedColormap.from_list("water", ["#9fb8cf", "#f4f7fa"])  # behind the paths: low is dark
CONTOUR = "#7f93a8"
_SETTINGS: dict[str, Any] = {
    "axes.edgecolor": "#404040",
    "axes.titlesize": 11,
    "figure.titlesize": 14,
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "legend.frameon": False,
    "mathtext.fontset": "dejavusans",
    "svg.fonttype": "none",  # text stays text: small, searchable, read aloud
    "svg.hashsalt": "thalweg",
}
_MARKS: dict[str, dict[str, Any]] = {
    "start": {"marker": "o", "markersize": 8, "color": "white", "markeredgecolor": "black", "markeredgewidth": 1.6},
    "global": {"marker": "*", "markersize": 15, "color": "#FFD21F", "markeredgecolor": "black", "markeredgewidth": 0.8},
    "local": {"marker": "*", "markersize": 10, "color": "white", "markeredgecolor": "black", "markeredgewidth": 0.8},
}
_drawing = threading.Lock()  # matplotlib's settings and font caches are global


class Style(NamedTuple):
    """How one run looks, wherever it is drawn."""

    colour: str
    dash: Any
    marker: str


class Window(NamedTuple):
    """The part of the plane that is shown, and the function there.

    x, y     (n,) each, the grid from side to side
    z        (n, n), rows along y; NaN where the function is not finite
    levels   heights of the contours, ascending; empty where the function is flat
    spacing  how they are spaced: "even", "square" (even rings in a bowl) or "factor"
    """

    x: Array
    y: Array
    z: Array
    levels: Array
    spacing: Literal["even", "square", "factor"]


def draw(
    function: Function,
    runs: Sequence[Run],
    *,
    view: View = "both",
    form: Form = "png",
    width: int | None = None,
    height: int | None = None,
    dpi: int = 100,
) -> bytes:
    """The picture as a file, so many pixels wide and high; more dots per inch make all that is in it larger.

    Raises Invalid, as `check` does.
    """
    d = runs[0].params.shape[1]
    check(view, d, len(runs))
    if d > 2:
        view = "values"
    usual = _size(view, len(runs), d)
    pixels = width or usual[0], height or usual[1]
    settings: Any = {k: v for k, v in mpl.rcParamsDefault.items() if not k.startswith("backend")}  # no matplotlibrc
    with _drawing, mpl.rc_context(settings | _SETTINGS), warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # a glyph that the font lacks, panels without room: the picture is still one
        figure = Figure((pixels[0] / dpi, pixels[1] / dpi), dpi, layout="constrained")
        figure.suptitle(_title(function, pixels[0] / dpi))
        _compose(figure, function, runs, view)
        return _written(figure, form, pixels)


def check(view: View, d: int, runs: int) -> None:
    """Raises Invalid for a view that there is not of d coordinates, and for too many runs."""
    if (view == "surface" and d != 2) or (view == "path" and d > 2):
        sentence = f"There is no {view} to be drawn of {d} coordinate{'s' if d > 1 else ''}; ask for view=values."
        raise Invalid(sentence, pointer="/view")
    if runs > MAX_RUNS:
        raise Invalid(f"A picture shows at most {MAX_RUNS} runs; this request has {runs}.", pointer="/optimizers")


def _size(view: View, runs: int, d: int) -> tuple[int, int]:
    """Pixels that suit what is drawn."""
    legend = 22 * math.ceil(runs / 2)
    if view in ("values", "surface"):
        return 960, 600 + legend
    if runs <= TOGETHER or d == 1:
        return (800, 760 + legend) if view == "path" else (1300, 660 + legend)
    columns = math.ceil(math.sqrt(runs))
    return 300 * columns + (640 if view == "both" else 0), 300 * math.ceil(runs / columns) + 80


def _title(function: Function, inches: float) -> str:
    """The function's title, with its formula where that can be set and finds room."""
    formula = f"{function.title}:  ${function.formula}$"
    try:
        points = MathTextParser("path").parse(formula, 72, FontProperties(size=14)).width
    except ValueError:  # LaTeX that mathtext does not know
        return function.title
    return formula if points < 0.95 * 72 * inches else function.title


def _written(figure: Figure, form: Form, pixels: tuple[int, int]) -> bytes:
    file = io.BytesIO()
    if form == "png":
        figure.savefig(file, format="png", metadata={"Software": "Thalweg"})
        return file.getvalue()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": "Thalweg"})
    size = f'width="{pixels[0]}" height="{pixels[1]}"'
    svg = re.sub(r"<!DOCTYPE[^>]*>\s*", "", file.getvalue().decode(), count=1)  # it names a file to be fetched
    svg = re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', size, svg, count=1)
    # a hundredth of a point is finer than any screen; the rest of the digits is half of the file
    return re.sub(r' d="[^"]+"', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), svg).encode()


def _compose(figure: Figure, function: Function, runs: Sequence[Run], view: View) -> None:
    """Lay out the panels of a view and fill them."""
    d = runs[0].params.shape[1]
    styles = [Style(COLOURS[i % 7], DASHES[i // 7], MARKERS[i % 7]) for i in range(len(runs))]
    multiples = d == 2 and len(runs) > TOGETHER and view in ("path", "both")
    halves: Any = (figure, figure)
    if view == "both":
        halves = figure.subfigures(1, 2, width_ratios=(1.5, 1) if multiples else (1, 1))
    left, right = halves
    if view in ("path", "both"):
        panel = _curve if d == 1 else _multiples if multiples else _together
        panel(left, function, runs, styles)
    if view in ("values", "both"):
        _values(right.add_subplot(), function, runs, styles)
    if view == "surface":
        _surface(figure, function, runs, styles)
    names = [run.label if multiples else f"{run.label}:  {_outcome(run)}" for run in runs]
    if multiples:  # their names are above the panels already
        _legend(right, names if view == "both" else [], styles, _kinds(function, d))
    else:
        _legend(figure, names, styles, [] if view == "values" else _kinds(function, d))


# What is shown of the plane


def _window(function: Function, runs: Sequence[Run], n: int) -> Window:
    """Where the function is known and the paths go, within reach: a path that runs away leaves the picture.

    Where all of it happens in a corner of the domain, the window goes near.
    """
    domain = np.array(function.domain_at(2)).T
    start = runs[0].params[0]
    low, high = np.minimum(domain[0], start), np.maximum(domain[1], start)
    reach = 0.3 * (high - low)
    points = np.concatenate([run.params for run in runs])
    points = points[((points >= low - reach) & (points <= high + reach)).all(axis=1)]
    minima = np.array([m.point for m in function.minima_at(2) if m.kind == "global"]).reshape(-1, 2)
    if len(minima):
        nearest = minima[np.argmin(np.hypot(*(minima - points[-1]).T))]
        points = np.vstack([points, nearest])
    inner_low, inner_high = points.min(axis=0), points.max(axis=0)
    side = (inner_high - inner_low).max()
    whole = (domain[1] - domain[0]).min()
    if side < 0.25 * whole:
        half = max(0.65 * side, 1e-3 * whole)
        low, high = (inner_low + inner_high) / 2 - half, (inner_low + inner_high) / 2 + half
    else:
        margin = 0.04 * (inner_high - inner_low)
        low, high = np.minimum(domain[0], inner_low - margin), np.maximum(domain[1], inner_high + margin)
    x, y = np.linspace(low[0], high[0], n), np.linspace(low[1], high[1], n)
    z = function.value(np.stack(np.meshgrid(x, y), axis=-1))
    z = np.where(np.isfinite(z), z, np.nan)
    lowest = min((m.value for m in function.minima_at(2)), default=None)
    return Window(x, y, z, *_levels(z, lowest, 10 if n < 100 else 14))


def _levels(z: Array, lowest: float | None, n: int) -> tuple[Array, Literal["even", "square", "factor"]]:
    """n - 1 heights for contours, and how they are spaced, above the function's lowest value if it has one.

    By factors where most of the picture lies far below its highest point, as in a valley between steep walls.
    """
    floor = float(np.nanmin(z)) if lowest is None else lowest
    top = float(np.nanmax(z)) - floor
    if not top > 0.0:
        return np.array([]), "even"
    shares = np.linspace(0, 1, n + 1)[1:-1]
    if lowest is None:
        return floor + top * shares, "even"
    if np.nanmedian(z - floor) > 0.12 * top:
        return floor + top * shares**2, "square"
    bottom = max(float(np.nanpercentile(z - floor, 0.4)), 1e-6 * top)
    return floor + np.geomspace(bottom, top, n)[:-1], "factor"


def _contours(ax: Any, function: Function, window: Window) -> None:
    """The function from above: darker is lower. Minima as stars, the local ones hollow."""
    sides = window.x[-1] - window.x[0], window.y[-1] - window.y[0]
    if len(window.levels):
        shades = [tuple(shade) for shade in WATER(np.linspace(0, 1, len(window.levels) + 1))]
        bands = ax.contourf(
            window.x, window.y, window.z, levels=window.levels, colors=shades, extend="both", antialiased=True
        )
        bands.set(edgecolor=CONTOUR, linewidth=0.4)  # the lines: drawn apart, they would double an SVG
        pixels = Affine2D().scale(len(window.x) * 4 / sides[0], len(window.x) * 4 / sides[1])
        bands.set_paths([_simplified(path, pixels) for path in bands.get_paths()])
    for minimum in function.minima_at(2):
        ax.plot(*minimum.point, linestyle="none", zorder=6.5, **_MARKS[minimum.kind])
    ax.set_xlim(window.x[0], window.x[-1])
    ax.set_ylim(window.y[0], window.y[-1])
    if 0.45 <= sides[1] / sides[0] <= 2.2:
        ax.set_aspect("equal")  # a gradient is then seen to stand on its contour


def _simplified(path: Path, pixels: Affine2D) -> Path:
    """The same outline, to a ninth of a pixel, with a third of the vertices."""
    simple = path.cleaned(pixels, simplify=True)
    kept = np.asarray(simple.codes) != Path.STOP
    return Path(np.asarray(simple.vertices)[kept], np.asarray(simple.codes)[kept]).transformed(pixels.inverted())


# Panels


def _together(figure: Any, function: Function, runs: Sequence[Run], styles: Sequence[Style]) -> None:
    """All paths over one set of contours; the later ones thinner, so that they do not hide the earlier ones."""
    ax = figure.add_subplot()
    _contours(ax, function, _window(function, runs, 220))
    for i, (run, style) in enumerate(zip(runs, styles, strict=True)):
        _path(ax, run.params, style, 2.6 - 1.1 * i / max(1, len(runs) - 1))
    ax.plot(*runs[0].params[0], zorder=8, **_MARKS["start"])
    ax.set(xlabel=_names(function)[0], ylabel=_names(function)[1])


def _multiples(figure: Any, function: Function, runs: Sequence[Run], styles: Sequence[Style]) -> None:
    """One small panel a path, over the same contours."""
    window = _window(function, runs, 80)
    columns = math.ceil(math.sqrt(len(runs)))
    axes = figure.subplots(math.ceil(len(runs) / columns), columns, sharex=True, sharey=True, squeeze=False)
    for ax in axes.flat[len(runs) :]:
        ax.set_axis_off()
    for ax in axes.flat[max(0, len(runs) - columns) : len(runs)]:
        ax.tick_params(labelbottom=True)  # below some of them there is no other
    for ax, run, style in zip(axes.flat, runs, styles, strict=False):
        _contours(ax, function, window)
        _path(ax, run.params, style, 1.4)
        ax.plot(*run.params[0], zorder=8, **_MARKS["start"])
        name = run.label if len(run.label) <= 32 else run.label[:31] + "…"
        ax.set_title(name, fontweight="bold", parse_math=False, pad=16)
        ax.text(0.5, 1.02, _outcome(run), transform=ax.transAxes, ha="center", va="bottom", fontsize=8.5)


def _path(ax: Axes, points: Array, style: Style, width: float) -> None:
    """A path, (n, 2), on a white casing: a dot for each step where they are few, and its own mark at the end."""
    drawn = points[_thinned(len(points))].T
    ax.plot(*drawn, color="white", linewidth=width + 1.8, alpha=0.7, zorder=5)
    ax.plot(*drawn, color=style.colour, linewidth=width, zorder=6)
    if len(points) <= MAX_DOTS:
        ax.plot(*drawn, ".", color=style.colour, markersize=5.5 + width, markeredgewidth=0, zorder=6)
    ax.plot(*points[-1], style.marker, color=style.colour, markersize=7.5, markeredgecolor="white", zorder=7)


def _curve(figure: Any, function: Function, runs: Sequence[Run], styles: Sequence[Style]) -> None:
    """A function of one coordinate, with the paths hopping along it."""
    ax = figure.add_subplot()
    ((low, high),) = function.domain_at(1)
    start = runs[0].params[0, 0]
    x = np.linspace(min(low, start), max(high, start), 600)
    y = function.value(x[:, None])
    ax.plot(x, y, color=CONTOUR, linewidth=2.5)
    for minimum in function.minima_at(1):
        ax.plot(*minimum.point, minimum.value, linestyle="none", zorder=6.5, **_MARKS[minimum.kind])
    for run, style in zip(runs, styles, strict=True):
        _path(ax, np.column_stack([run.params[:, 0], run.values]), style, 1.6)
    ax.plot(start, runs[0].values[0], zorder=8, **_MARKS["start"])
    margin = 0.05 * np.ptp(y)
    ax.set(xlim=(x[0], x[-1]), ylim=(y.min() - margin, y.max() + margin), xlabel="x", ylabel="f(x)")


def _values(ax: Axes, function: Function, runs: Sequence[Run], styles: Sequence[Style]) -> None:
    """Values by step: the height above the lowest value on a logarithmic scale, where that is known."""
    lowest = min((m.value for m in function.minima_at(runs[0].params.shape[1])), default=None)
    heights = [run.values[_thinned(len(run.values))] - (lowest or 0.0) for run in runs]
    for i, (run, style) in enumerate(zip(runs, styles, strict=True)):
        every = max(1, len(heights[i]) // 8)
        ax.plot(
            run.recorded_steps[_thinned(len(run.values))],
            heights[i] if lowest is None else np.where(heights[i] > 0, heights[i], np.nan),
            color=style.colour,
            linestyle=style.dash,
            marker=style.marker,
            markersize=6.5,
            markeredgecolor="white",
            markevery=(i * every // len(runs), every),
            linewidth=1.8,
        )
    first, everything = heights[0][0], np.concatenate(heights)
    if lowest is None:
        unit = max(1.0, abs(first))
        if np.abs(everything).max() > 1e3 * unit:
            ax.set_yscale("symlog", linthresh=unit)
            ax.set_ylim(max(everything.min(), -1e6 * unit), 2 * min(max(everything.max(), unit), 1e6 * unit))
    elif (everything > 0).any():
        ax.set_yscale("log")
        low, high = everything[everything > 0].min(), everything.max()
        if first > 0:  # neither rounding at the bottom nor a run that runs away sets the scale
            low, high = max(low, 1e-16 * first), min(high, 1e3 * first)
        ax.set_ylim(low * (low / high) ** 0.04, high * (high / low) ** 0.04 if high > low else 2 * high)
    ax.set(xlabel="step", ylabel="f" if lowest is None else "f − f*  (height above the minimum)")
    ax.grid(color="#dddddd", linewidth=0.6)
    ax.spines[["top", "right"]].set_visible(False)


def _surface(figure: Any, function: Function, runs: Sequence[Run], styles: Sequence[Style]) -> None:
    """The surface from above and aside with the paths on it; logarithmic where the contours are spaced by factors."""
    window = _window(function, runs, 90)
    minima = function.minima_at(2)
    lowest = min((m.value for m in minima), default=0.0)

    def height(z: Array) -> Array:
        # the floor is where a valley is still wider than the mesh
        return np.log10(np.maximum(z, window.levels[3]) - lowest) if window.spacing == "factor" else z

    ax = figure.add_subplot(projection="3d", computed_zorder=False)
    top = height(window.z)
    mesh = np.meshgrid(window.x, window.y)
    ax.plot_surface(*mesh, top, cmap=WATER, rcount=60, ccount=60, edgecolor=CONTOUR, linewidth=0.15, zorder=1)
    for run, style in zip(runs, styles, strict=True):
        inside = _thinned(len(run.params))
        x, y = run.params[inside].T
        seen = (x >= window.x[0]) & (x <= window.x[-1]) & (y >= window.y[0]) & (y <= window.y[-1])
        z = np.where(seen, height(run.values[inside]), np.nan)
        ax.plot(x, y, z, color="white", linewidth=4, zorder=5)
        ax.plot(x, y, z, color=style.colour, linewidth=2, zorder=6)
        ax.plot(x[-1:], y[-1:], z[-1:], style.marker, color=style.colour, markeredgecolor="white", zorder=7)
    for minimum in minima:
        ax.plot(*minimum.point, height(np.array(minimum.value)), linestyle="none", zorder=6.5, **_MARKS[minimum.kind])
    ax.plot(*runs[0].params[0], height(runs[0].values[0]), zorder=8, **_MARKS["start"])
    ax.view_init(elev=44, azim=-108)
    ax.set_box_aspect((1, 1, 0.6), zoom=1.1)
    first, second = _names(function)
    ax.set(xlabel=first, ylabel=second, zlabel="log₁₀(f − f*)" if window.spacing == "factor" else "f")


# Words


def _legend(figure: Any, names: Sequence[str], styles: Sequence[Style], kinds: Sequence[str]) -> None:
    """Whose line is whose, and what the marks mean."""
    words = {"start": "start", "global": "global minimum", "local": "local minimum"}
    handles = [
        Line2D([], [], color=s.colour, linestyle=s.dash, marker=s.marker, markeredgecolor="white", markersize=7.5)
        for s in styles[: len(names)]
    ] + [Line2D([], [], linestyle="none", **_MARKS[kind]) for kind in kinds]
    labels = [*names, *(words[kind] for kind in kinds)]
    room = figure.bbox.width / figure.dpi * 11  # characters side by side
    columns = max(1, min(4, int(room // (max(map(len, labels)) + 8)), len(labels)))
    legend = figure.legend(handles, labels, loc="outside lower center", ncols=columns)
    for text in legend.get_texts():
        text.set_parse_math(False)


def _kinds(function: Function, d: int) -> list[str]:
    """The kinds of marks in a picture of the plane."""
    kinds = {minimum.kind for minimum in function.minima_at(d)}
    return ["start", *(kind for kind in ("global", "local") if kind in kinds)]


def _outcome(run: Run) -> str:
    """What a run came to, in a few words."""
    if run.status == "diverged":
        return f"diverged at step {run.diverged_at}"
    how = "converged at step" if run.status == "converged" else "at step"
    return f"f = {run.values[-1]:.3g} {how} {run.steps}"


def _names(function: Function) -> tuple[str, str]:
    return ("x", "y") if function.dimensions == 2 else ("x₁", "x₂")


def _thinned(n: int) -> Array:
    """Indices of at most MAX_POINTS of n points, the first and the last among them."""
    return np.unique(np.linspace(0, n - 1, min(n, MAX_POINTS)).astype(int))
