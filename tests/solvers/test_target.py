"""Solving towards the outputs of another weight than the one that is pruned."""

from __future__ import annotations

import numpy as np
import pytest

from mlpass.errors import CalibrationError
from mlpass.solvers.admm import ADMM
from mlpass.solvers.solve import solve
from mlpass.solvers.sparsegpt import SparseGPT
from mlpass.solvers.wanda import Magnitude, Wanda
from mlpass.sparsity.layout import matrix_layout
from mlpass.sparsity.modes import NM, Percentile
from mlpass.storage.quantized import Quantized
from mlpass.weights.ops.convolutions import conv_layout

from .layers import layer, stored

UPDATING = [
    SparseGPT(dampening=0.0, refit=True),
    ADMM(iterations=8, finish=20, dampening=1e-6),
    Magnitude(refit=True),
    Wanda(refit=True),
]


def moved(weight, seed=5):
    """Another weight of that shape, not far from it."""
    draw = np.random.default_rng(seed).standard_normal(weight.shape, np.float32)
    return weight + draw * weight.std() / 2


def least_squares(inputs, target, keep):
    """numpy's best weight for the outputs of `target`, row by row, on a mask."""
    best = np.zeros(target.shape)
    for row, kept in enumerate(keep):
        wanted = inputs @ target[row]
        best[row, kept] = np.linalg.lstsq(inputs[:, kept], wanted, rcond=None)[0]
    return best


def relative(inputs, weight, target):
    """The error that a solution states."""
    lost, whole = (inputs @ (weight - target).T), inputs @ target.T
    return np.sum(np.square(lost, dtype=np.float64)) / np.sum(np.square(whole, dtype=np.float64))


@pytest.mark.parametrize("mode", [Percentile(0.5), NM(2, 4)], ids=str)
@pytest.mark.parametrize("method", UPDATING, ids=repr)
def test_what_is_kept_is_near_numpys_least_squares_on_the_mask(method, mode):
    weight, inputs = layer(24, 32, samples=400)
    target = moved(weight)
    found = solve(weight, inputs.T @ inputs, mode, method=method, target=target)
    best = least_squares(inputs.astype(np.float64), target, found.keep)
    assert not found.weight[~found.keep].any()
    assert found.error == pytest.approx(relative(inputs, found.weight, target), rel=1e-3)
    assert found.error <= 1.03 * relative(inputs, best, target)
    own = solve(weight, inputs.T @ inputs, mode, method=method)
    assert found.error < 0.8 * relative(inputs, own.weight, target)


@pytest.mark.parametrize("method", [*UPDATING, SparseGPT(), Wanda()], ids=repr)
@pytest.mark.parametrize("layout", [matrix_layout(32, 48), conv_layout((16, 12, 5), 2)])
def test_the_weight_itself_as_the_target_changes_nothing(method, layout):
    weight, gram = stored(layout)
    options = {"method": method, "layout": layout, "error_before": True}
    for storage in (None, Quantized("int8")):
        alone = solve(weight, gram, Percentile(0.5), storage=storage, **options)
        aimed = solve(weight, gram, Percentile(0.5), storage=storage, target=weight, **options)
        assert alone.weight.tobytes() == aimed.weight.tobytes()
        assert (alone.error, alone.error_before) == (aimed.error, aimed.error_before)


def test_methods_that_only_score_keep_the_weights_own_values():
    weight, inputs = layer(8, 16)
    found = solve(weight, inputs.T @ inputs, NM(2, 4), method=Wanda(), target=moved(weight))
    assert np.array_equal(found.weight, np.where(found.keep, weight, 0))
    assert found.error == pytest.approx(relative(inputs, found.weight, moved(weight)), rel=1e-3)


def test_a_target_that_does_not_fit_says_why():
    weight, eye = np.ones((2, 3), np.float32), np.eye(3, dtype=np.float32)
    for target, text in (
        (np.ones((3, 2)), r"target: must have the weight's shape, \(2, 3\). Got \(3, 2\)"),
        (weight * np.nan, "target: holds NaN or inf"),
    ):
        with pytest.raises(CalibrationError, match=text):
            solve(weight, eye, Percentile(0.5), method=SparseGPT(), target=target)
