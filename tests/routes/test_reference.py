"""The catalogue as pages: every member on its page, drawn by the browser alone."""

from __future__ import annotations

import re

import pytest

from service.functions.catalogue import FUNCTIONS
from service.optim.catalogue import ALGORITHMS
from service.optim.schedules.catalogue import SCHEDULES
from service.optim.transforms.catalogue import TRANSFORMS
from service.routes import reference
from tests.conftest import Serve

MEMBERS = {"optimizers": ALGORITHMS, "schedules": SCHEDULES, "transforms": TRANSFORMS, "functions": FUNCTIONS}


def test_there_is_a_page_for_each_family() -> None:
    assert set(reference.FAMILIES) == set(MEMBERS)


@pytest.mark.parametrize("family", MEMBERS)
def test_a_page_holds_every_member_with_its_equation(family: str, serve: Serve) -> None:
    answer = serve().get(f"/docs/{family}")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")
    for name, member in MEMBERS[family].items():
        (section,) = re.findall(rf"<section id={name}>.*?</section>", answer.text, re.DOTALL)
        assert "<math" in section
        assert member.title.split("'")[0] in section
    assert "\\" not in re.sub(r"<code>.*?</code>", "", answer.text.replace("\\\\", ""))


@pytest.mark.parametrize("family", MEMBERS)
def test_a_page_fetches_nothing(family: str, serve: Serve) -> None:
    text = serve().get(f"/docs/{family}").text
    assert not re.search(r"<script|\bsrc=|<link|@import|url\(", text)


def test_the_optimizers_page_tells_all_that_the_catalogue_knows(serve: Serve) -> None:
    text = serve().get("/docs/optimizers").text
    for algorithm in ALGORITHMS.values():
        assert all(f"<code>{name}</code>" in text for name in algorithm.dialects)
    assert "How low they come" in text
    assert "optax.rprop" in text
