"""How far outputs are from what they were."""

from __future__ import annotations

import numpy as np
import pytest

from mlpass.calibrate.outputs import error_of


def test_the_error_is_relative_and_the_mean_of_all_outputs():
    dense = [{"a": np.array([3.0, 4.0]), "b": np.ones(4), "label": "cat"}]
    other = [{"a": np.array([3.0, 5.0]), "b": np.ones(4), "label": "dog"}]
    assert error_of(dense, other) == pytest.approx((1 / 25 + 0) / 2)


def test_an_output_of_another_shape_is_wrong_as_a_whole():
    dense = [{"a": np.ones((12, 3))}, {"a": np.ones((4, 3))}]
    other = [{"a": np.ones((11, 3))}, {"a": np.ones((4, 3))}]
    assert error_of(dense, other) == pytest.approx(12 / 16)
