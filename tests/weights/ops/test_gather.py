"""Tables that are gathered from: how often each row is read, and a layout of their own."""

from __future__ import annotations

import numpy as np
import pytest

from mlpass.errors import NotApplicable
from mlpass.weights.ops.gather import row_counts, table_layout
from tests.weights.ops.law import NAMESPACES, normal, over_namespaces


@over_namespaces
@pytest.mark.parametrize("axis", [{}, {"axis": 0}, {"axis": np.int32(-2)}])
def test_rows_of_a_table_are_counted(axis, namespace):
    xp, make = NAMESPACES[namespace]
    indices = np.array([[0, 3, 3, -1], [2, -5, 3, 7]], np.int32)
    arguments = {"x": make(normal(5, 2)), "indices": make(indices), **axis}
    assert np.asarray(row_counts(xp, arguments)).tolist() == [2, 0, 1, 3, 1]
    inside = {**arguments, "indices": make(np.array(4, np.int32))}
    assert np.asarray(row_counts(xp, inside)).tolist() == [0, 0, 0, 0, 1]


def test_tables_read_along_another_axis_have_no_rows():
    arguments = {"x": normal(5, 2), "indices": np.array([0]), "axis": 1}
    with pytest.raises(NotApplicable, match="gather reads along axis 1 of its table"):
        row_counts(np, arguments)


def test_each_row_of_a_table_meets_an_input_of_its_own():
    table = normal(5, 2, 3)
    layout = table_layout(table.shape)
    assert layout.sizes == (1, 6, 5, 1)
    np.testing.assert_array_equal(layout.split(table)[0, :, :, 0], table.reshape(5, 6).T)
