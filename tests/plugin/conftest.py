"""The passes registered, and coremltools as it was afterwards."""

from __future__ import annotations

import gc

import pytest

import mlpass.plugin


@pytest.fixture
def _installed():
    mlpass.plugin.install()
    yield
    mlpass.plugin.uninstall()


@pytest.fixture(autouse=True)
def _registered():
    mlpass.plugin.passes.register_passes()


@pytest.fixture
def _swept():
    yield
    gc.collect()
