"""Torch's own kernels hand on to the common ones what torch's functions do otherwise."""

from __future__ import annotations

from typing import Any

import array_api_compat.torch as xp
import numpy as np
import pytest
import torch
from harness import run

from mlpass.runtime.kernels.registry import find_kernel

INTS = np.int32([[7, -7, 0], [5, 2, -9]])
FLOATS = np.float32([[0.5, -1.5, 2.0], [3.0, np.inf, -4.0]])


def test_operands_of_two_types_meet_as_the_namespace_has_it() -> None:
    total = run("add", {"x": FLOATS, "y": INTS}, "torch")
    assert total.dtype == np.float32
    np.testing.assert_array_equal(total, FLOATS + INTS)
    np.testing.assert_array_equal(run("less", {"x": INTS, "y": FLOATS}, "torch"), INTS < FLOATS)


@pytest.mark.parametrize(
    ("op", "x", "y", "expected"),
    [
        ("real_div", INTS, np.int32([[2, 2, 2], [0, 4, 4]]), [[3, -3, 0], [0, 0, -2]]),
        ("pow", INTS, np.int32(2), INTS**2),
        ("pow", FLOATS, np.float32(2), FLOATS * FLOATS),
        ("pow", np.float32([2, 3]), np.float32([3, -1]), np.float32([8, 1 / 3])),
        ("matmul", INTS, INTS.T.copy(), INTS @ INTS.T),
    ],
)
def test_integers_and_powers(op: str, x: Any, y: Any, expected: Any) -> None:
    made = run(op, {"x": x, "y": y}, "torch")
    assert made.dtype == x.dtype
    np.testing.assert_allclose(made, expected, rtol=1e-6)


def test_an_exponent_that_learns_has_a_gradient() -> None:
    power = find_kernel("pow", 18, "torch")
    assert power is not None
    x, y = torch.tensor([2.0, 3.0]), torch.tensor(2.0, requires_grad=True)
    power(xp, x=x, y=y).sum().backward()
    assert y.grad is not None
    np.testing.assert_allclose(y.grad, 4 * np.log(2) + 9 * np.log(3), rtol=1e-6)


def test_parts_of_given_sizes() -> None:
    parts = run("split", {"x": INTS, "axis": 1, "split_sizes": [1, 2]}, "torch")
    np.testing.assert_array_equal(parts[0], INTS[:, :1])
    np.testing.assert_array_equal(parts[1], INTS[:, 1:])
    with pytest.raises(ValueError, match="do not add up to 3"):
        run("split", {"x": INTS, "axis": 1, "num_splits": 2}, "torch")


def test_padding_of_integers_and_of_inner_axes() -> None:
    made = run("pad", {"x": INTS, "pad": [1, 0, 0, 2], "constant_val": 4}, "torch")
    np.testing.assert_array_equal(made, np.pad(INTS, [(1, 0), (0, 2)], constant_values=4))
    made = run("pad", {"x": FLOATS, "pad": [1, 0, 0, 2], "constant_val": 4.0}, "torch")
    np.testing.assert_array_equal(made, np.pad(FLOATS, [(1, 0), (0, 2)], constant_values=4))
    with pytest.raises(ValueError, match="must be pairs of sizes of 0 or more"):
        run("pad", {"x": FLOATS, "pad": [-1, 0]}, "torch")
