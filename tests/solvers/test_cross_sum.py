"""Sums of products of two activations: numpy's, however the samples come."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from mlpass.errors import NotApplicable
from mlpass.solvers import cross_sum
from mlpass.solvers.cross_sum import CrossSum, plus


def pairs(counts, groups=2, columns=5, others=3, size=1.0):
    rng = np.random.default_rng(1)
    return [
        tuple(
            (size * rng.standard_normal((groups, count, width))).astype(np.float32)
            for width in (columns, others)
        )
        for count in counts
    ]


def total(given, make=np.asarray):
    sums = CrossSum()
    for left, right in given:
        sums.add(make(left), make(right))
    return np.asarray(sums.total())


def expected(given):
    return sum(left.astype(np.float64).mT @ right.astype(np.float64) for left, right in given)


@pytest.mark.parametrize("counts", [[7], [1, 300, 0, 40], [256] * 70, [20000]], ids=str)
def test_it_is_numpys_product(counts):
    given = pairs(counts)
    found = total(given)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected(given), rtol=1e-3, atol=0.02)


@pytest.mark.parametrize("make", [torch.from_numpy], ids=["torch"])
def test_tensors_in_the_hosts_memory_are_read_as_arrays(make):
    given = pairs([30, 40])
    assert total(given, make).tobytes() == total(given).tobytes()


@pytest.mark.parametrize("size", [1e20, 1e-20])
def test_what_fp32_cannot_hold_goes_to_fp64(size):
    given = pairs([300, 20], size=size)
    found = total(given)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected(given), rtol=1e-4, atol=1e-4 * size**2)


def test_wide_and_narrow_batches_add_up(monkeypatch):
    monkeypatch.setattr(cross_sum, "_ROWS", 1)  # no less than 256 rows in a batch
    given = [*pairs([256]), *pairs([256], size=1e20)]
    np.testing.assert_allclose(total(given), expected(given), rtol=1e-4, atol=1e36)


def test_zeros_are_none():
    left = np.ones((1, 4, 3), np.float32)
    sums = CrossSum()
    assert sums.total() is None
    sums.add(left, np.zeros((1, 4, 2), np.float32))
    assert sums.total() is None
    sums.add(left, left)
    np.testing.assert_array_equal(sums.total(), np.full((1, 3, 3), 4))
    assert plus(None, None) is None
    assert plus(None, left) is left
    assert plus(left, None) is left
    np.testing.assert_array_equal(plus(left, left.astype(np.float64)), left + left)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_nan_and_inf_are_refused(wrong):
    left, right = pairs([5])[0]
    right[0, 2, 1] = wrong
    sums = CrossSum()
    sums.add(left, right)
    with pytest.raises(NotApplicable, match="what the dense model makes there holds NaN or inf"):
        sums.total()


@pytest.mark.slow
def test_the_bytes_are_the_same_on_any_number_of_threads():
    script = (
        "import hashlib\nfrom tests.solvers.test_cross_sum import *\n"
        "given = pairs([500] * 40, 1, 400, 300)\n"
        "print(hashlib.sha256(total(given).tobytes()).hexdigest())"
    )
    found = {
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", script],
            check=True,
            capture_output=True,
            env=os.environ | {"MLPASS_THREADS": threads, "OPENBLAS_NUM_THREADS": threads},
        ).stdout
        for threads in ("1", "2", "4")
    }
    assert len(found) == 1
