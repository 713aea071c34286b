"""What tests of the runtime share."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import pytest

from mlpass.runtime.backends.base import load_kernels
from mlpass.runtime.kernels import registry


@pytest.fixture
def forget_kernels() -> Iterator[None]:
    """Takes kernels that a test registers out again."""
    # All of mlpass's own come first: a module registers them only once, as it is imported.
    load_kernels("torch" if importlib.util.find_spec("torch") else "numpy")
    before = registry.registered()
    yield
    registry._KERNELS.clear()
    registry._KERNELS.update(before)
