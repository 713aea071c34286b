"""Grams of torch tensors: summed where the tensors are, in fp64 where that can be."""

from __future__ import annotations

import numpy as np
import pytest

from mlpass.errors import CalibrationError
from mlpass.solvers.gram import GramSum, accumulate
from mlpass.solvers.solve import solve
from mlpass.solvers.sparsegpt import SparseGPT
from mlpass.sparsity.modes import NM

from .layers import layer

torch = pytest.importorskip("torch")
from tests import pretended  # noqa: E402 - imports torch


@pytest.mark.parametrize("make", [torch.from_numpy, pretended.far], ids=["apart", "device"])
@pytest.mark.parametrize("groups", [1, 3])
def test_a_sum_is_numpys(apart, device, make, groups):
    inputs = layer(1, groups * 20, samples=300)[1]
    inputs = inputs.reshape(300, groups, 20).swapaxes(0, 1).copy()
    total = GramSum()
    for start in range(0, 300, 70):
        total.add(make(inputs[:, start : start + 70]))
    total.add(make(inputs[:, :0]))
    found = total.total()
    assert found.device == make(inputs).device
    gram = found.cpu().numpy()
    assert np.allclose(gram, accumulate(None, inputs), rtol=1e-5, atol=1e-4)
    assert gram.tobytes() == np.ascontiguousarray(gram.swapaxes(1, 2)).tobytes()
    again = accumulate(found, make(inputs)).cpu().numpy()
    assert np.allclose(again, 2 * gram, rtol=1e-5, atol=1e-4)
    assert found.cpu().numpy().tobytes() == gram.tobytes()  # what it started from is as it was


def test_a_sum_of_half_precision_does_not_overflow(apart):
    inputs = torch.full((64, 3), 60000, dtype=torch.float16)
    assert float(accumulate(None, inputs)[0, 0, 0]) == pytest.approx(64 * 60000.0**2, rel=1e-3)


@pytest.mark.parametrize("scale", [1e-20, 1e25])
def test_faint_and_huge_samples_go_to_fp64_on_the_processor_where_the_device_has_none(
    device, scale
):
    weight, inputs = layer(24, 32)
    total = GramSum()
    for part in np.split(inputs, 4):
        total.add(pretended.far(part * np.float32(scale)))
    gram = total.total()
    assert gram.dtype == torch.float64 and gram.device.type == "cpu"
    exact = inputs.astype(np.float64)
    np.testing.assert_allclose(gram[0] / scale**2, exact.T @ exact, rtol=1e-4, atol=1e-3)
    found = solve(pretended.far(weight), gram, NM(2, 4), method=SparseGPT())
    assert found.weight.device.type == pretended.NAME
    wanted = solve(weight, accumulate(None, inputs), NM(2, 4), method=SparseGPT())
    assert found.error == pytest.approx(wanted.error, rel=0.01)


def test_a_sum_goes_on_outside_the_mode_that_it_began_in(apart):
    rows = torch.from_numpy(layer(1, 12)[1])
    total = GramSum()
    with torch.inference_mode():
        total.add(rows * 1)
    total.add(rows)
    with torch.inference_mode():
        total.add(rows * 1e25)
    total.add(rows)
    assert total.total().dtype == torch.float64


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite_are_an_error(apart, bad):
    inputs = torch.from_numpy(layer(1, 5)[1])
    inputs[3, 2] = bad
    with pytest.raises(CalibrationError, match="sample_data: a layer's inputs hold NaN or inf"):
        accumulate(None, inputs)
