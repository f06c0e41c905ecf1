"""Pictures: files that are what they say, that show what was run, and that are the same every time."""

from __future__ import annotations

import os
import re
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest

from service import figures
from service.errors import Invalid
from service.functions import catalogue
from service.functions.base import Function
from service.routes.sandbox import EXAMPLES
from service.sandbox import Run, plan, run

TWO = [{"name": "adam", "learning_rate": 0.1}, {"name": "sgd", "learning_rate": 0.01}]


def ran(function: str, start: Any = None, steps: int = 20, optimizers: Any = TWO) -> tuple[Function, tuple[Run, ...]]:
    made = plan(function, start, steps, optimizers)
    return made.function, run(made)


def text(svg: bytes) -> str:
    return "\n".join(ElementTree.fromstring(svg).itertext())


def size(png: bytes) -> tuple[int, int]:
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    assert png.endswith(b"IEND\xaeB`\x82")
    width, height = struct.unpack(">II", png[16:24])
    return width, height


@pytest.mark.parametrize("name", catalogue.FUNCTIONS)
def test_every_function_is_drawn(name: str) -> None:
    function, runs = ran(name)
    drawn = figures.draw(function, runs, form="svg")
    assert {"start", "step"} <= set(text(drawn).splitlines())
    for done in runs:
        assert f"{done.label}:  " in text(drawn)
    assert len(drawn) < (1_000_000 if "multimodal" in function.tags else 400_000)
    assert b"DOCTYPE" not in drawn


@pytest.mark.parametrize("view", ["path", "values", "both", "surface"])
@pytest.mark.parametrize("form", ["png", "svg"])
def test_every_view_in_every_form(view: figures.View, form: figures.Form) -> None:
    function, runs = ran("rosenbrock")
    drawn = figures.draw(function, runs, view=view, form=form)
    if form == "png":
        assert min(size(drawn)) >= 600
    else:
        assert ElementTree.fromstring(drawn).tag == "{http://www.w3.org/2000/svg}svg"
        assert "adam" in text(drawn)
        assert ("x₁" in text(drawn)) == (view != "values")
        assert ("step" in text(drawn).splitlines()) == (view in ("values", "both"))


@pytest.mark.parametrize("example", [name for name in EXAMPLES if name.startswith("nine paths")])
def test_nine_paths_are_nine_panels(example: str) -> None:
    made = plan(**EXAMPLES[example])
    runs = run(made)
    drawn = figures.draw(made.function, runs, form="svg")
    words = text(drawn).splitlines()
    for done in runs:
        assert words.count(done.label) == 2  # above its panel, and in the legend
        assert f"f = {done.values[-1]:.3g} at step {done.steps}" in words
    assert drawn.count(b'id="axes_') == 10
    assert len(drawn) < 600_000
    alone = figures.draw(made.function, runs, view="path", form="svg")
    assert alone.count(b'id="axes_') == 9
    assert size(figures.draw(made.function, runs)) == (1540, 980)


def test_the_legend_says_what_came_of_each() -> None:
    optimizers = [
        {"name": "sgd", "learning_rate": 1.5, "label": "too fast"},
        {"name": "sgd", "learning_rate": 0.5, "label": "at once"},
        {"name": "sgd", "learning_rate": 0.001, "label": "slow"},
    ]
    made = plan("sphere", [3.0, 4.0], 1000, optimizers, stop={"gradient_norm": 1e-3})
    runs = run(made)
    words = text(figures.draw(made.function, runs, form="svg"))
    assert f"too fast:  diverged at step {runs[0].diverged_at}" in words
    assert "at once:  f = 0 converged at step 1" in words
    assert re.search(r"slow:  f = [\d.]+ at step 1000", words)
    assert "global minimum" in words
    assert "local minimum" not in words


@pytest.mark.parametrize("form", ["png", "svg"])
@pytest.mark.parametrize("view", ["both", "surface"])
def test_the_same_runs_give_the_same_bytes(form: figures.Form, view: figures.View) -> None:
    """In this process, under a reader's own settings of matplotlib, and in a process with other hashes."""
    function, runs = ran("himmelblau")
    drawn = figures.draw(function, runs, form=form, view=view)
    with mpl.rc_context({"lines.linewidth": 9, "font.size": 30, "axes.facecolor": "red"}):
        assert figures.draw(function, runs, form=form, view=view) == drawn
    program = (
        "import sys; from service import figures; from service.sandbox import plan, run\n"
        f"made = plan('himmelblau', None, 20, {TWO!r})\n"
        f"sys.stdout.buffer.write(figures.draw(made.function, run(made), form={form!r}, view={view!r}))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7", "SOURCE_DATE_EPOCH": "0"}
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, env=environment)
    assert other.stdout == drawn
    assert b"<dc:date>" not in drawn


def test_threads_may_draw_at_once() -> None:
    function, runs = ran("booth")
    drawn = figures.draw(function, runs, form="svg")
    with ThreadPoolExecutor(4) as threads:
        futures = [threads.submit(figures.draw, function, runs, form="svg") for _ in range(4)]
        assert {future.result() for future in futures} == {drawn}


def test_no_pyplot_and_no_matplotlib_before_the_first_picture() -> None:
    program = """
import sys
from service import main
assert not any(name.split(".")[0] == "matplotlib" for name in sys.modules), "imported at the start"
from service import figures
from service.sandbox import plan, run
for view in ("both", "surface"):
    for form in ("png", "svg"):
        made = plan("sphere", None, 5, [{"name": "adam"}])
        figures.draw(made.function, run(made), view=view, form=form)
assert "matplotlib" in sys.modules
assert "matplotlib.pyplot" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "label", ["日本語の名前", "$x^2$ & <b> \\frac{", "$\\frac$", "_hidden", "]]> -->", "x" * 80, "%s {0}"]
)
@pytest.mark.parametrize("runs", [1, 6])
def test_labels_are_shown_as_they_are(label: str, runs: int) -> None:
    optimizers = [{"name": "sgd", "label": label}] + [{"name": "adam"}] * (runs - 1)
    function, done = ran("sphere", None, 5, optimizers)
    assert label in text(figures.draw(function, done, form="svg"))


@pytest.mark.parametrize(
    ("width", "height", "dpi"), [(200, 200, 50), (200, 200, 300), (1234, 567, 100), (1000, 300, 200)]
)
@pytest.mark.parametrize("optimizers", [TWO, TWO * 3], ids=["two", "six"])
def test_sizes(width: int, height: int, dpi: int, optimizers: Any) -> None:
    function, runs = ran("booth", optimizers=optimizers)
    assert size(figures.draw(function, runs, width=width, height=height, dpi=dpi)) == (width, height)
    root = ElementTree.fromstring(figures.draw(function, runs, form="svg", width=width, height=height, dpi=dpi))
    assert (root.get("width"), root.get("height")) == (str(width), str(height))
    *_, wide, high = map(float, root.get("viewBox", "").split())
    assert wide / high == pytest.approx(width / height, rel=1e-3)


@pytest.mark.parametrize(("d", "views"), [(1, "path values both"), (2, "path values both surface"), (5, "values both")])
def test_views_by_dimension(d: int, views: str) -> None:
    function, runs = ran("sphere", [3.0] * d)
    for view in ("path", "values", "both", "surface"):
        if view in views.split():
            size(figures.draw(function, runs, view=view))
        else:
            with pytest.raises(Invalid, match="ask for view=values") as caught:
                figures.draw(function, runs, view=view)
            assert caught.value.places[0].pointer == "/view"


def test_too_many_runs_for_a_picture() -> None:
    function, runs = ran("sphere", optimizers=[{"name": "sgd"}] * 26)
    with pytest.raises(Invalid, match="at most 25 runs"):
        figures.draw(function, runs)
    size(figures.draw(function, runs[:25]))


def test_a_long_run_does_not_make_a_long_file() -> None:
    function, runs = ran("rosenbrock", None, 50_000, [{"name": "adam"}])
    assert len(figures.draw(function, runs, form="svg")) < 400_000


# What is shown of the plane


def window(name: str, start: Any, steps: int, *optimizers: Any) -> figures.Window:
    return figures._window(*ran(name, start, steps, list(optimizers)), 60)


def test_a_path_that_runs_away_does_not_take_the_picture_with_it() -> None:
    calm = window("rosenbrock", None, 200, {"name": "adam"})
    wild = window("rosenbrock", None, 200, {"name": "adam"}, {"name": "sgd", "learning_rate": 0.01})
    assert (calm.x[0], calm.x[-1], calm.y[0], calm.y[-1]) == (-2, 2, -1, 3)
    assert np.abs(np.concatenate([wild.x, wild.y])).max() < 5


def test_the_window_goes_near_where_all_happens_in_a_corner() -> None:
    near = window("easom", [2.0, 4.2], 50, {"name": "adam", "learning_rate": 0.1})
    assert np.ptp(near.x) < 4  # of 200
    assert near.x[0] < 2.0 < np.pi < near.x[-1]
    assert near.y[0] < np.pi < 4.2 < near.y[-1]
    still = window("easom", [-25.0, -25.0], 5, {"name": "sgd"})
    assert np.ptp(still.x) > 0


def test_a_start_outside_of_the_domain_is_in_the_picture() -> None:
    shown = window("booth", [40.0, -50.0], 3, {"name": "adam"})
    assert shown.x[-1] >= 40
    assert shown.y[0] <= -50


@pytest.mark.parametrize("name", [name for name, f in catalogue.FUNCTIONS.items() if f.dimensions != 1])
def test_contours_ascend_and_lie_in_the_picture(name: str) -> None:
    shown = window(name, None, 20, {"name": "adam"})
    assert (np.diff(shown.levels) > 0).all()
    assert len(shown.levels) >= 9
    assert shown.levels[-1] < np.nanmax(shown.z)
    crossed = [(shown.z < level).any() for level in shown.levels]
    assert sum(crossed) >= 0.6 * len(crossed)


@pytest.mark.parametrize(
    ("name", "spacing"),
    [("rosenbrock", "factor"), ("beale", "factor"), ("steep_bowl", "square"), ("saddle", "even"), ("sphere", "square")],
)
def test_contours_are_spaced_as_the_function_asks(name: str, spacing: str) -> None:
    function = catalogue.get(name)
    (low, high), (bottom, top) = function.domain_at(2)
    x, y = np.linspace(low, high, 60), np.linspace(bottom, top, 60)
    lowest = min((m.value for m in function.minima_at(2)), default=None)
    z = function.value(np.stack(np.meshgrid(x, y), axis=-1))
    assert figures._levels(z, lowest, 10)[1] == spacing


def test_a_flat_function_has_no_contours() -> None:
    levels, _ = figures._levels(np.ones((5, 5)), 1.0, 10)
    assert levels.size == 0
