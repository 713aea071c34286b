"""Norms: the widening is exact, and means are numpy's."""

from __future__ import annotations

import numpy as np

from mlpass.sparsity.norms import mean_squares, widened


def test_every_finite_fp16_number_widens_exactly():
    numbers = np.arange(0x7C00, dtype=np.uint16).view(np.float16)
    assert np.array_equal(widened(numbers), numbers.astype(np.float32))
    assert np.array_equal(widened(numbers[::3]), numbers[::3].astype(np.float32))


def test_fp32_widens_to_fp64():
    assert widened(np.ones(3, np.float32)).dtype == np.float64


def test_mean_squares_of_full_and_short_blocks():
    values = np.random.default_rng(0).random((2, 7, 3)).astype(np.float32)
    out = np.empty((2, 3, 3))
    mean_squares(values, 3, out)
    wide = values.astype(np.float64)
    wanted = [np.mean(wide[:, start : start + 3] ** 2, axis=1) for start in (0, 3, 6)]
    assert np.allclose(out, np.stack(wanted, axis=1))
