"""A small model to prune on samples."""

from __future__ import annotations

import pytest

from tests.calibrate.layers import save_mlp


@pytest.fixture
def mlp(tmp_path):
    """Three linear layers."""
    return save_mlp(tmp_path)
