"""A small model to prune on samples."""

from __future__ import annotations

import pytest
from coremltools.converters.mil.mil import Builder as mb

from tests.calibrate.layers import save, weights


@pytest.fixture
def mlp(tmp_path):
    """x -> linear -> relu -> linear -> relu -> linear, fp32."""
    first, second, third = weights(3)

    def build(x):
        x = mb.relu(x=mb.linear(x=x, weight=first, name="first"))
        x = mb.relu(x=mb.linear(x=x, weight=second, name="second"))
        return mb.linear(x=x, weight=third, name="third")

    return save(build, tmp_path)
