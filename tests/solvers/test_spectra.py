"""On any spectrum ADMM leaves at most 2% more error than the best of searches with other schedules.

Those are written here anew, in fp64, on columns of unit norm, as in Meng et al. 2024, "ALPS", arXiv
2406.07831: with its growing penalty, and with fixed ones, each solved for exactly on its mask.
"""

from __future__ import annotations

import numpy as np
import pytest

from mlpass.blas import one_blas_thread
from mlpass.solvers.admm import ADMM
from mlpass.solvers.solve import solve
from mlpass.sparsity.modes import NM, Percentile
from tests.solvers.layers import layer

SIZE = 128
MODES = {"50%": Percentile(0.5), "70%": Percentile(0.7), "2:4": NM(2, 4)}


def inputs_of(spectrum):
    """Returns a weight and its inputs: white, weakly correlated, or with a decay of variances."""
    if spectrum not in ("white", "weak"):
        weight, inputs = layer(SIZE, SIZE, decay=spectrum)
        return weight.astype(np.float64), inputs.astype(np.float64)
    rng = np.random.default_rng(1)
    weight, mixing = rng.standard_normal((2, SIZE, SIZE)) / SIZE**0.5
    inputs = rng.standard_normal((4 * SIZE, SIZE))
    if spectrum == "weak":
        inputs = inputs @ (np.eye(SIZE) + 0.3 * mixing) * rng.uniform(0, 2, SIZE)
    return weight, inputs


def mask_of(values, mode):
    """Returns the mask of the largest magnitudes."""
    size = np.abs(values)
    if mode == "2:4":
        ranks = size.reshape(-1, 4).argsort(axis=1).argsort(axis=1)
        return (ranks >= 2).reshape(size.shape)
    keep = np.ones(size.size, bool)
    keep[size.ravel().argsort()[: size.size * int(mode[:-1]) // 100]] = False
    return keep.reshape(size.shape)


@one_blas_thread()
def searched(weight, gram, mode, penalties):
    """Returns the weight that ADMM finds with a penalty for each iteration; None: those of ALPS."""
    scale = np.sqrt(np.diagonal(gram))
    square = gram / np.outer(scale, scale) + 0.01 * np.eye(SIZE)
    values, vectors = np.linalg.eigh(square)
    target, penalty = weight * scale, 0.1
    drift, keep = np.zeros_like(target), mask_of(target, mode)
    split, last = target * keep, keep
    for step in range(len(penalties or range(300))):
        if penalties and penalties[step] != penalty:
            penalty, drift = penalties[step], drift * penalty / penalties[step]
        solver = (vectors * (penalty / (values + penalty))) @ vectors.T
        free = target + (split - drift - target) @ solver
        keep = mask_of(free + drift, mode)
        split = (free + drift) * keep
        drift += free - split
        if not penalties and step % 3 == 2:
            changed, last = np.count_nonzero(keep != last) / np.count_nonzero(keep), keep
            if changed == 0:
                break
            growth = 1.3 if changed >= 0.1 else 1.2 if changed >= 0.005 else 1.1
            penalty, drift = penalty * growth, drift / growth
    result = np.zeros_like(weight)
    for row, kept, values in zip(result, keep, target, strict=True):
        row[kept] = np.linalg.solve(square[np.ix_(kept, kept)], (square @ values)[kept])
    return result / scale


def error_of(weight, pruned, gram):
    change = pruned - weight
    return np.vdot(change @ gram, change) / np.vdot(weight @ gram, weight)


@pytest.mark.slow_but_every(5)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("spectrum", ["white", "weak", 0.5, 1.0, 2.0])
def test_admm_is_near_the_best_schedule_on_any_spectrum(spectrum, mode):
    weight, inputs = inputs_of(spectrum)
    gram = inputs.T @ inputs
    others = [
        error_of(weight, searched(weight, gram, mode, penalties), gram)
        for penalties in (None, [0.3] * 4 + [0.65] * 4, [0.3] * 15 + [0.65] * 15, [1.0] * 30)
    ]
    found = solve(weight, gram, MODES[mode], method=ADMM()).weight
    assert error_of(weight, found, gram) <= 1.02 * min(others)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("spectrum", ["weak", 0.5, 2.0])
def test_more_iterations_leave_less(spectrum, mode):
    weight, inputs = inputs_of(spectrum)
    gram = inputs.T @ inputs
    few, some, many = (
        solve(weight, gram, MODES[mode], method=ADMM(iterations=count)).error
        for count in (8, 24, 96)
    )
    assert many < some < few * 1.005
