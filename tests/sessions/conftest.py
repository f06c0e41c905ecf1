"""Every test of sessions runs on every store."""

from __future__ import annotations

import pytest

from tests.conftest import Serve, Service


@pytest.fixture(params=["memory", "sqlite"])
def kind(request: pytest.FixtureRequest) -> str:
    """The name of a store."""
    name: str = request.param
    return name


@pytest.fixture
def service(serve: Serve, kind: str) -> Service:
    """One service with default settings."""
    return serve(kind=kind)
