"""Layouts: one table for each run of rows, in the axes of the stored weight."""

from __future__ import annotations

import numpy as np
import pytest

from mlpass.errors import NotApplicable
from mlpass.weights.ops.record import layout_of


@pytest.mark.parametrize(
    ("case", "tables", "shape"),
    [
        (("linear", "weight", 0, (6, 8), {}), 3, (3, 1)),
        (("matmul", "y", 0, (8, 6), {}), 2, (1, 2)),
        (("conv", "weight", 0, (6, 4, 3, 3), {"groups": 2}), 6, (6, 1, 1, 1)),
        (("conv", "weight", 0, (12, 1, 3), {"groups": 12}), 4, (4, 1, 1)),
        (("conv_transpose", "weight", 0, (6, 4, 3), {"groups": 3}), 6, (3, 2, 1)),
        (("conv_transpose", "weight", 0, (6, 4, 3), {"groups": 3}), 1, (1, 1, 1)),
        (("matmul", "x", 0, (2, 6, 8, 4), {"transpose_x": True}), 4, (2, 2, 1, 1)),
        (("einsum", "values", 1, (2, 5, 3, 4), {"equation": "nchw,nwhu->nchu"}), 12, (2, 1, 3, 2)),
    ],
)
def test_tables_are_for_runs_of_rows(case, tables, shape):
    layout = layout_of(*case)
    groups, rows, channels, positions = layout.sizes
    numbers = layout.tabled(tables).join(np.arange(tables))
    assert numbers.shape == shape
    for axis, (few, many) in enumerate(zip(shape, layout.shape, strict=True)):
        numbers = np.repeat(numbers, many // few, axis=axis)
    wanted = np.repeat(np.arange(tables), groups * rows // tables)
    found = layout.split(numbers).reshape(groups * rows, channels * positions)
    assert np.array_equal(found, np.broadcast_to(wanted[:, None], found.shape))


def test_tables_that_are_for_no_block_say_so():
    layout = layout_of("conv", "weight", 0, (12, 4, 3), {"groups": 3})
    with pytest.raises(NotApplicable, match="2 tables do not split its axes into whole blocks"):
        layout.tabled(2)
