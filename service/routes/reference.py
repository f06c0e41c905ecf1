"""/docs/optimizers, /docs/schedules, /docs/transforms, /docs/functions: the catalogue as pages.

Made from what the API answers, at each request, so that a page cannot be behind the catalogue. Equations are MathML,
which browsers draw themselves. No script, nothing fetched.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from html import escape
from importlib.resources import files
from typing import Any

from fastapi import APIRouter
from starlette.responses import HTMLResponse

from service.functions import catalogue as functions
from service.optim import catalogue as optimizers
from service.optim.libraries.catalogue import spellings_of
from service.optim.schedules import catalogue as schedules
from service.optim.transforms import catalogue as transforms
from service.routes.docs import STYLE

FAMILIES: dict[str, Callable[[], str]] = {}


def router() -> APIRouter:
    """A page for each family of the catalogue."""
    routes = APIRouter(include_in_schema=False)

    def serve(name: str) -> None:
        @routes.get(f"/docs/{name}")
        def shown() -> HTMLResponse:
            return HTMLResponse(page(name))

    for name in FAMILIES:
        serve(name)
    return routes


@cache
def page(name: str) -> str:
    """The page of a family."""
    links = " · ".join(f"<a href=/docs/{other}>{other}</a>" for other in FAMILIES)
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>Thalweg: {name}</title>"
        f"<meta name=viewport content='width=device-width'><style>{STYLE}{MORE_STYLE}</style>"
        f"<p><a href=/docs>API</a> · {links}</p><h1>{name.title()}</h1>{FAMILIES[name]()}"
    )


MORE_STYLE = """
th { text-align: left; padding: 0.1rem 1rem 0.1rem 0; vertical-align: top; font-weight: 600 }
td:first-child { white-space: nowrap } .wide { overflow-x: auto } math { font-size: 1.15rem }
section { border-top: 1px solid color-mix(in srgb, currentColor 20%, transparent); margin-top: 2rem }
"""


def mathml(latex: str) -> str:
    """An equation as browsers draw it."""
    from latex2mathml.converter import convert

    drawn: str = convert(latex, display="block")
    return drawn


@cache
def convergence() -> dict[str, Any]:
    """What `python -m tests.docs.convergence` measured: per function and optimizer, how low it came."""
    measured: dict[str, Any] = json.loads(files("service").joinpath("convergence.json").read_text())
    return measured


# Pieces


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    top = "".join(f"<th>{cell}" for cell in head)
    lines = "".join("<tr>" + "".join(f"<td>{cell}" for cell in row) for row in rows)
    return f"<div class=wide><table><tr>{top}{lines}</table></div>"


def _code(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"<code>{escape(text)}</code>"


def _range(schema: Mapping[str, Any]) -> str:
    if "enum" in schema:
        return " ".join(_code(choice) for choice in schema["enum"])
    words = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    items = schema.get("items", schema)
    bounds = [f"{sign} {_number(items[key])}" for key, sign in words.items() if key in items]
    return escape(f"{schema.get('type', 'any')} {', '.join(bounds)}".strip())


def _number(value: float) -> str:
    return "2⁵³ - 1" if value == 2**53 - 1 else f"{value:g}"


def _arguments(properties: Mapping[str, Mapping[str, Any]]) -> str:
    rows = ((_code(name), escape(s.get("description", "")), _range(s)) for name, s in properties.items())
    return _table(("name", "meaning", "range"), rows)


def _section(name: str, title: str, parts: Iterable[str]) -> str:
    return f"<section id={name}><h2>{escape(title)} <small>{_code(name)}</small></h2>{''.join(parts)}</section>"


def _contents(members: Mapping[str, Any]) -> str:
    rows = ((f"<a href=#{name}>{_code(name)}</a>", escape(m.summary)) for name, m in members.items())
    return _table(("name", ""), rows)


# Families


def _optimizers() -> str:
    entries = [optimizers.describe(a, spellings_of(a.name)) for a in optimizers.ALGORITHMS.values()]
    return _contents(optimizers.ALGORITHMS) + _compared() + "".join(map(_optimizer, entries))


def _compared() -> str:
    """The convergence table."""
    measured = convergence()
    names = list(measured["functions"])
    head = ("", *(f"{escape(name)}, default" for name in names), *(f"{escape(name)}, tuned" for name in names))
    rows = []
    for optimizer, found in measured["optimizers"].items():
        default = (_gap(found[name]["default"]) for name in names)
        tuned = (_tuned(found[name]) for name in names)
        rows.append((f"<a href=#{optimizer}>{_code(optimizer)}</a>", *default, *tuned))
    return (
        f"<section id=convergence><h2>How low they come</h2><p>{escape(measured['about'])}</p>{_table(head, rows)}"
        "</section>"
    )


def _gap(value: float | str | None) -> str:
    if value is None:
        return "diverges"
    return value if isinstance(value, str) else f"{value:.1e}"


def _tuned(found: Mapping[str, Any]) -> str:
    return "" if found["rate"] is None else f"{_gap(found['tuned'])} <small>at {found['rate']:g}</small>"


def _optimizer(entry: Mapping[str, Any]) -> str:
    dialects = (
        (
            f"{_code(name)}{' (default)' if name == entry['default_dialect'] else ''}",
            " ".join(_code(f"{key}={json.dumps(value)}") for key, value in d["defaults"].items())
            + "".join(f" <b>{_code(key)}</b>" for key in d["required"]),
            escape(d["differs"]),
            "<br>".join(escape(bug) for bug in d.get("known_bugs", ())),
        )
        for name, d in entry["dialect_details"].items()
    )
    state = ((_code(s["name"]), escape(str(s["shape"])), f"{s['bytes_per_parameter']:g}") for s in entry["state"])
    likes = ((_code(s["like"]), " ".join(map(_code, s["arguments"]))) for s in entry["like"])
    parts = [
        f"<p>{escape(entry['summary'])} {escape(entry['when'])}</p>{mathml(entry['equation'])}",
        f"<p><small>{escape(entry['source'])}</small></p>{_arguments(entry['hyperparameters']['properties'])}",
        "<h3>Dialects</h3>" + _table(("", "defaults (required in bold)", "how it differs", "its bugs"), dialects),
        f"<h3>State: {entry['bytes_per_parameter']:g} bytes a parameter in float64</h3>",
        _table(("slot", "shape", "bytes"), state) if entry["state"] else "<p>None but the count of steps.</p>",
        "<h3>like</h3>" + _table(("class", "arguments"), likes) if entry["like"] else "",
    ]
    return _section(entry["name"], entry["title"], parts)


def _plain(members: Mapping[str, Any], describe: Callable[[Any], Mapping[str, Any]]) -> str:
    """A family whose entries are an equation and arguments."""
    shown = []
    for name, member in members.items():
        entry = describe(member)
        parts = [f"<p>{escape(entry['summary'])}</p>{mathml(entry['equation'])}"]
        if "source" in entry:
            parts.append(f"<p><small>{escape(entry['source'])}</small></p>")
        parts.append(_arguments(entry["arguments"]))
        if entry.get("like"):
            spelled = ((_code(s["like"]), " ".join(map(_code, s["arguments"]))) for s in entry["like"])
            parts.append("<h3>like</h3>" + _table(("class", "arguments"), spelled))
        shown.append(_section(name, entry["title"], parts))
    return _contents(members) + "".join(shown)


def _functions() -> str:
    shown = []
    for name, function in functions.FUNCTIONS.items():
        parts = [f"<p>{escape(function.summary)}</p>{mathml(function.formula)}"]
        parts.append(f"<p><small>{escape(function.source)}</small></p>")
        shown.append(_section(name, function.title, parts))
    return _contents(functions.FUNCTIONS) + "".join(shown)


FAMILIES |= {
    "optimizers": _optimizers,
    "schedules": lambda: _plain(schedules.SCHEDULES, schedules.describe),
    "transforms": lambda: _plain(transforms.TRANSFORMS, transforms.describe),
    "functions": _functions,
}
