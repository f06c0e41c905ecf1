"""The generated tables of the README: `make docs` writes them, a test asserts that they are current."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from service.functions.catalogue import FUNCTIONS
from service.optim.catalogue import ALGORITHMS
from service.optim.libraries.catalogue import SPELLINGS
from service.optim.schedules.catalogue import SCHEDULES
from service.optim.schedules.catalogue import SPELLINGS as SCHEDULE_SPELLINGS
from service.optim.transforms.catalogue import TRANSFORMS
from service.settings import PREFIX, Settings

README = Path(__file__).parent.parent.parent / "README.md"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def optimizers() -> str:
    """One row an optimizer."""
    rows = []
    for a in ALGORITHMS.values():
        like = ", ".join(f"`{s.path}`" for s in SPELLINGS.values() if s.algorithm == a.name)
        rows.append((f"`{a.name}`", a.summary, ", ".join(a.dialects), like))
    return table(("name", "what it does", "dialects", "`like`"), rows)


def schedules() -> str:
    """One row a schedule."""
    rows = []
    for f in SCHEDULES.values():
        like = ", ".join(f"`{s.path}`" for s in SCHEDULE_SPELLINGS.values() if f.name in s.forms)
        rows.append((f"`{f.name}`", f.summary, ", ".join(f"`{a.name}`" for a in f.arguments), like))
    return table(("name", "what it does", "arguments", "`like`"), rows)


def transforms() -> str:
    """One row a transform."""
    rows = [(f"`{t.name}`", t.summary, ", ".join(f"`{a.name}`" for a in t.arguments)) for t in TRANSFORMS.values()]
    return table(("name", "what it does", "arguments"), rows)


def functions() -> str:
    """One row a benchmark function."""
    rows = [(f"`{f.name}`", f.summary, str(f.dimensions or "any")) for f in FUNCTIONS.values()]
    return table(("name", "what it teaches", "dimensions"), rows)


def settings() -> str:
    """One row a setting."""
    rows = [
        (f"`{PREFIX}{name.upper()}`", f"`--{name.replace('_', '-')}`", f"`{field.default}`", field.description or "")
        for name, field in Settings.model_fields.items()
    ]
    return table(("environment", "flag", "default", "meaning"), rows)


TABLES: dict[str, Callable[[], str]] = {
    "optimizers": optimizers,
    "schedules": schedules,
    "transforms": transforms,
    "functions": functions,
    "settings": settings,
}


def filled(text: str) -> str:
    """The text with each `<!-- name -->...<!-- end -->` holding its table."""
    for name, make in TABLES.items():
        marked = re.compile(rf"(<!-- {name} -->\n).*?(\n<!-- end -->)", re.DOTALL)
        assert len(marked.findall(text)) == 1, f"README.md has not exactly one place for the table of {name}"
        text = marked.sub(_between(make()), text)
    return text


def _between(made: str) -> Callable[[re.Match[str]], str]:
    return lambda match: match[1] + made + match[2]


if __name__ == "__main__":
    README.write_text(filled(README.read_text()))
