"""How a budget is divided: exactly met, and at the optimum."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlpass.errors import ConfigError
from mlpass.solvers.allocate import Curve, error_curve, least_error, outlier_share, owl
from mlpass.solvers.solve import solve
from mlpass.solvers.sparsegpt import SparseGPT
from mlpass.sparsity.modes import Percentile

from .layers import layer

LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)


def curves(seed, count=3):
    """Returns convex error curves of random layers."""
    rng = np.random.default_rng(seed)
    return [
        Curve(
            int(rng.integers(1, 50)) * 100,
            LEVELS,
            [0.0, *np.cumsum(np.sort(rng.random(4)))],
            [int(n) for n in np.linspace(1000, 100, 5)],
        )
        for _ in range(count)
    ]


@given(st.floats(0, 1), st.integers(0, 1000))
def test_least_error_meets_a_sparsity_exactly(sparsity, seed):
    layers = curves(seed)
    found = least_error(layers, sparsity=sparsity)
    total = sum(curve.size for curve in layers)
    zeros = sum(share * curve.size for share, curve in zip(found, layers, strict=True))
    assert zeros == pytest.approx(sparsity * total, abs=1e-6 * total)
    assert all(0 <= share <= 1 for share in found)


@given(st.floats(0.05, 0.95), st.integers(0, 1000))
def test_no_choice_of_levels_is_better(sparsity, seed):
    layers = curves(seed)
    total = sum(curve.size for curve in layers)

    def error(shares):
        return sum(
            np.interp(share, LEVELS, curve.errors)
            for share, curve in zip(shares, layers, strict=True)
        )

    found = error(least_error(layers, sparsity=sparsity))
    assert found <= error([sparsity] * 3) + 1e-9
    for shares in itertools.product(LEVELS, repeat=3):
        if sum(s * c.size for s, c in zip(shares, layers, strict=True)) >= sparsity * total:
            assert found <= error(shares) + 1e-9


@given(st.integers(300, 3000), st.integers(0, 1000))
def test_least_error_holds_a_budget_of_bytes(nbytes, seed):
    layers = curves(seed)
    found = least_error(layers, nbytes=nbytes)
    used = sum(
        curve.nbytes[LEVELS.index(share)] for share, curve in zip(found, layers, strict=True)
    )
    assert used <= nbytes


def test_curves_of_real_layers_lower_the_summed_error():
    layers = [layer(32, 64, decay=decay, seed=seed) for seed, decay in enumerate((0.0, 0.5, 1.5))]
    grams = [inputs.T @ inputs for _, inputs in layers]
    levels = [0.0, 0.3, 0.4, 0.5, 0.6, 0.7, 0.9]
    measured = [
        error_curve(weight, gram, levels, method=SparseGPT())
        for (weight, _), gram in zip(layers, grams, strict=True)
    ]
    assert all(curve.size == 32 * 64 and curve.errors[0] < 1e-6 for curve in measured)
    shares = least_error(measured, sparsity=0.5)

    def summed(shares):
        return sum(
            solve(weight, gram, Percentile(share), method=SparseGPT()).error
            for (weight, _), gram, share in zip(layers, grams, shares, strict=True)
        )

    assert summed(shares) < summed([0.5] * 3)
    assert shares[0] <= shares[1] < shares[2]  # what is correlated makes up for more


def test_a_curve_with_a_bump_is_walked_past_it():
    bump = Curve(100, LEVELS, [0.0, 0.9, 0.5, 0.8, 2.0])
    assert least_error([bump], sparsity=0.25) == [0.25]
    straight = Curve(100, LEVELS, [0.0, 0.3, 0.6, 0.9, 1.2])
    assert least_error([bump, straight], sparsity=0.25) == [0.5, 0.0]


def test_owl_spares_layers_with_outliers_and_keeps_the_total():
    sizes, outliers = [100, 300, 200], [0.1, 0.0, 0.05]
    found = owl(sizes, outliers, 0.6)
    assert found[0] < found[2] < found[1]
    assert np.average(found, weights=sizes) == pytest.approx(0.6)
    assert max(abs(share - 0.6) for share in found) <= 0.08 + 1e-12
    assert owl(sizes, [0.2] * 3, 0.6) == [0.6] * 3
    assert all(0 <= share <= 1 for share in owl(sizes, outliers, 0.99))


def test_outliers_are_counted_against_the_mean_score():
    weight, inputs = layer(20, 40)
    gram = inputs.T @ inputs
    assert outlier_share(weight, gram) < 0.01
    inputs[:, 3] *= 100
    assert outlier_share(weight, inputs.T @ inputs) == pytest.approx(1 / 40, abs=0.015)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: owl([1], [0.1], 2.0), r"sparsity: must be a number in \[0, 1\]. Got 2.0"),
        (lambda: owl([1], [0.1], -1.0), r"sparsity: must be a number in \[0, 1\]"),
        (lambda: least_error(curves(0)), "give a sparsity or a number of bytes, not both"),
        (lambda: least_error(curves(0), sparsity=0.5, nbytes=3), "bytes, not both"),
        (lambda: least_error(curves(0), nbytes=10), "curves do not reach the budget; ask for less"),
        (lambda: least_error([Curve(1, [0.1], [0.1])], nbytes=1), "needs the bytes of every"),
        (lambda: least_error([Curve(1, [0.1], [])], sparsity=0.1), "as many errors and bytes"),
    ],
)
def test_what_cannot_be_divided_says_why(call, text):
    with pytest.raises(ConfigError, match=text):
        call()
