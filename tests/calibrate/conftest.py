"""A small model to prune on samples."""

from __future__ import annotations

import shutil

import pytest

from tests.calibrate.layers import save_mlp


@pytest.fixture(scope="session")
def _converted(tmp_path_factory):
    return save_mlp(tmp_path_factory.mktemp("mlp"))


@pytest.fixture
def mlp(tmp_path, _converted):
    """Three linear layers: a copy of the test's own."""
    return shutil.copytree(_converted, tmp_path / _converted.name)
