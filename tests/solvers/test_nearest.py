"""A weight in a storage without samples, against coremltools' own quantization and brute force."""

from __future__ import annotations

import numpy as np
import pytest

from mlpass import Palette, Percentile, Quantized
from mlpass.solvers.nearest import nearest
from mlpass.solvers.solve import solve
from mlpass.solvers.wanda import Magnitude
from mlpass.sparsity.layout import Layout, matrix_layout

RNG = np.random.default_rng(3)
WEIGHT = RNG.standard_normal((16, 48)).astype(np.float32)
STORAGES = [Quantized("int8"), Quantized("int4", 16), Quantized("uint4"), Palette(group_size=4)]


@pytest.mark.parametrize("storage", STORAGES, ids=str)
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_it_is_what_inputs_that_are_all_alike_give(storage, share):
    keep = Percentile(share).keep(np.abs(WEIGHT))
    found = nearest(WEIGHT, keep, storage, matrix_layout(16, 48))
    solved = solve(
        WEIGHT,
        np.ones(48, np.float32),
        Percentile(share),
        method=Magnitude(),
        storage=storage,
    )
    np.testing.assert_array_equal(found.weight, solved.weight)
    np.testing.assert_array_equal(found.keep, keep)
    assert found.error == pytest.approx(solved.error, rel=1e-5)
    assert found.parts.keys() == solved.parts.keys()
    for name, part in found.parts.items():
        np.testing.assert_array_equal(part, solved.parts[name])


def test_each_element_is_at_the_nearest_entry_of_its_table():
    keep = np.ones(WEIGHT.shape, bool)
    found = nearest(WEIGHT, keep, Palette(group_size=4), matrix_layout(16, 48))
    for row, weight in enumerate(WEIGHT):
        table = found.parts["tables"][row // 4]
        best = np.abs(weight[:, None] - table).min(axis=1)
        np.testing.assert_allclose(np.abs(found.weight[row] - weight), best, rtol=1e-6)


def test_groups_are_rounded_each_by_itself():
    layout = Layout((16, 12), (4, 4, 12), ((0,), (1,), (2,), ()))
    weight = WEIGHT[:, :12]
    found = nearest(weight, np.ones(weight.shape, bool), Quantized("int8"), layout)
    scale = found.parts["scale"]
    assert scale.shape == (16, 1)
    np.testing.assert_allclose(found.weight, found.parts["codes"] * scale, rtol=1e-6)
    assert found.error < 1e-4


def test_a_storage_that_does_not_fit_becomes_another_and_says_so():
    found = nearest(WEIGHT, WEIGHT != 0, Quantized("int8", 5), matrix_layout(16, 48))
    reason = "a scale for 4 input channels: its 48 channels do not divide into blocks of 5"
    assert found.reason == reason
    assert found.parts["scale"].shape == (16, 12)
