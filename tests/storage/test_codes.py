"""Codes of values in tables, beside numpy's own search in each table."""

from __future__ import annotations

import numpy as np
import pytest

from mlpass.storage.codes import codes_of, column_codes


def case(bits: int, tables: int, values: int):
    rng = np.random.default_rng(bits)
    between = np.sort(rng.standard_normal((tables, (1 << bits) - 1)).astype(np.float32), axis=1)
    found = rng.standard_normal((tables, values)).astype(np.float32)
    found[:, 0] = between[:, 0]  # on a middle: not above it
    wanted = np.stack(
        [np.searchsorted(*each, side="left") for each in zip(between, found, strict=True)]
    )
    return between, found, wanted


@pytest.mark.parametrize("tables", [1, 5])
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 8])
def test_a_value_takes_as_many_middles_as_it_is_above(bits, tables):
    between, values, wanted = case(bits, tables, 8)
    assert np.array_equal(column_codes(between, 8)(values.reshape(-1)), wanted.reshape(-1))
    between, values, wanted = case(bits, tables, 300)
    assert np.array_equal(codes_of(between, values), wanted)
