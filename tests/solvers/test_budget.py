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


@pytest.mark.parametrize("more", [57, 69, 201, 64 * 1001, 10**9 + 7])
def test_a_form_that_just_fits_is_taken(more: int) -> None:
    assert divide([[100, 100 + more]], [[1.0, 0.0]], 100 + more) == [1]
    assert divide([[100, 100 + more]], [[1.0, 0.0]], 99 + more) == [0]


@given(st.integers(0, 10_000), st.floats(0, 1))
def test_what_was_spent_buys_as_much_again(seed: int, share: float) -> None:
    """Sizes in a file are all multiples of one."""
    nbytes, errors = menus(seed, 4, 5)
    nbytes = [[64 * (size // 8) for size in sizes] for sizes in nbytes]
    low, high = sum(map(min, nbytes)), sum(map(max, nbytes))
    chosen = divide(nbytes, errors, int(low + share * (high - low)))
    spent = sum(sizes[form] for sizes, form in zip(nbytes, chosen, strict=True))
    assert divide(nbytes, errors, spent) == chosen


def test_what_rounding_leaves_is_spent() -> None:
    """Of two that just fit, both do, though each is a little more than so many units."""
    nbytes = [[0, 100_001], [0, 99_998]]
    assert divide(nbytes, [[1.0, 0.5], [1.0, 0.0]], 199_999) == [1, 1]


def test_nothing_to_divide() -> None:
    assert divide([], [], 1000) == []


def test_errors_that_are_not_numbers_break_no_budget() -> None:
    nan = float("nan")
    assert divide([[30, 10, 20], [10, 20, 30]], [[nan] * 3, [2.0, 1.0, 0.0]], 30) == [1, 1]
