"""Weights that nobody trained, known by their numbers, and trained ones that are none of those."""

from __future__ import annotations

import numpy as np
import pytest

from mlpass.program.fixed import is_position_table

TRAINED = np.random.default_rng(0).standard_normal((256, 24))
POSITIONS = np.arange(64)[:, None] / 10000 ** (np.arange(24) / 24)


@pytest.mark.parametrize(
    "table",
    [
        np.cos(POSITIONS),
        np.sin(POSITIONS),
        np.concatenate([np.sin(POSITIONS), np.cos(POSITIONS)], axis=1),
        np.stack([np.cos(POSITIONS), np.sin(POSITIONS)], axis=-1) * 1.2,
        np.cos(POSITIONS).astype(np.float16),
        np.cos(POSITIONS)[:8],
        np.cos(np.arange(4096)[:, None] / 1e6 ** (np.arange(24) / 24)).astype(np.float16),
    ],
    ids=["cos", "sin", "both", "pairs", "fp16", "short", "long"],
)
def test_tables_of_positions_are_known_by_their_numbers(table):
    assert is_position_table(table)


@pytest.mark.parametrize(
    "table",
    [
        TRAINED,
        TRAINED.cumsum(axis=0),
        np.zeros((64, 24)),
        np.cos(POSITIONS)[:7],
        np.ones(64),
        np.ones((256, 24), np.float16),
        np.repeat(TRAINED[:1], 256, axis=0),
        np.concatenate([np.repeat(TRAINED[:1], 100, axis=0), TRAINED]),
        np.concatenate([TRAINED, np.repeat(TRAINED[:1], 100, axis=0)]),
        np.repeat(TRAINED[:3], 100, axis=0),
        1 + 1e-4 * TRAINED,
        np.concatenate([np.cos(POSITIONS), TRAINED]),
        np.full((64, 24), np.inf),
        np.where(TRAINED > 0, np.nan, TRAINED),
    ],
    ids=[
        "trained",
        "smooth",
        "zeros",
        "short",
        "vector",
        "constant",
        "rows-equal",
        "first-rows-equal",
        "last-rows-equal",
        "steps",
        "nearly-constant",
        "positions-then-trained",
        "inf",
        "nan",
    ],
)
def test_other_tables_are_not(table):
    assert not is_position_table(table)
