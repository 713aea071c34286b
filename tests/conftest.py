"""What all tests share: the fixtures' paths, and a guard for the noise of coremltools off macOS."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from hypothesis import settings

# Machines differ in speed, and a failure must be one that anybody can see again.
settings.register_profile("steady", deadline=None, derandomize=True)
settings.load_profile("steady")

FIXTURES = Path(__file__).parents[1] / "fixtures"
PACKAGES = sorted(path.name for path in FIXTURES.glob("*.mlpackage"))


@pytest.fixture(autouse=True, scope="session")
def _quiet_coremltools() -> None:
    logging.getLogger("coremltools").setLevel(logging.ERROR)


@pytest.fixture
def fixtures() -> Path:
    """The directory with the model packages."""
    return FIXTURES


@pytest.fixture(params=PACKAGES)
def package(request: pytest.FixtureRequest) -> Path:
    """Each fixture package in turn."""
    return FIXTURES / str(request.param)
