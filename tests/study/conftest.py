"""A small real model, and samples for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def model(fixtures) -> str:
    """A transformer over bytes."""
    return str(fixtures / "tiny_lm.mlpackage")


@pytest.fixture
def samples(fixtures) -> list[dict[str, np.ndarray]]:
    """Two texts for it."""
    with np.load(fixtures / "tiny_lm.npz") as truth:
        tokens = truth["input:tokens"]
    return [{"tokens": tokens}, {"tokens": np.roll(tokens, 17, axis=1)}]


@pytest.fixture
def stacked(samples, tmp_path) -> Path:
    """The same as a file."""
    path = tmp_path / "samples.npz"
    np.savez(path, tokens=np.stack([sample["tokens"] for sample in samples]))
    return path
