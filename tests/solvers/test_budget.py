"""A budget of bytes is never exceeded, and no division of it is better."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlpass.errors import ConfigError
from mlpass.solvers.budget import divide


def menus(seed: int, weights: int, forms: int) -> tuple[list[list[int]], list[list[float]]]:
    rng = np.random.default_rng(seed)
    nbytes = [rng.integers(1, 5000, forms).tolist() for _ in range(weights)]
    return nbytes, [rng.random(forms).tolist() for _ in range(weights)]


@given(st.integers(0, 10_000), st.floats(0, 1))
def test_no_division_is_better(seed: int, share: float) -> None:
    nbytes, errors = menus(seed, 4, 5)
    low, high = sum(map(min, nbytes)), sum(map(max, nbytes))
    budget = int(low + share * (high - low))

    chosen = divide(nbytes, errors, budget)
    spent = sum(sizes[form] for sizes, form in zip(nbytes, chosen, strict=True))
    error = sum(costs[form] for costs, form in zip(errors, chosen, strict=True))
    # Bytes are rounded up to units: what is as good must be found within as many units less.
    tight = budget - 4 * (budget - low) / 1600
    every = [
        sum(costs[form] for costs, form in zip(errors, forms, strict=True))
        for forms in itertools.product(range(5), repeat=4)
        if sum(sizes[form] for sizes, form in zip(nbytes, forms, strict=True)) <= tight
    ]
    assert spent <= budget
    assert error <= min(every, default=np.inf) + 1e-12


def test_all_that_is_asked_for_is_given_where_it_fits() -> None:
    nbytes, errors = menus(0, 6, 4)
    assert divide(nbytes, errors, 10**6) == [int(np.argmin(costs)) for costs in errors]


def test_a_budget_of_the_smallest_forms_alone() -> None:
    nbytes, errors = menus(1, 3, 4)
    assert divide(nbytes, errors, sum(map(min, nbytes))) == [int(np.argmin(s)) for s in nbytes]


def test_a_budget_that_cannot_be_met() -> None:
    with pytest.raises(ConfigError, match=r"budget: .* take 30 bytes .* Got 29\."):
        divide([[10, 20], [20, 30]], [[1.0, 0.0], [1.0, 0.0]], 29)
