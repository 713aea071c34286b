"""Tables against coremltools' own k-means on one axis, which is exact."""

from __future__ import annotations

import numpy as np
import pytest

from mlpass.storage.kmeans import fitted_tables

DRAWS = {
    "normal": lambda draw, shape: draw.standard_normal(shape),
    "laplace": lambda draw, shape: draw.laplace(size=shape),
    "heavy": lambda draw, shape: draw.standard_t(4, shape),
    "shifted": lambda draw, shape: draw.uniform(10, 11, shape),
    "outliers": lambda draw, shape: (
        draw.standard_normal(shape) * np.where(draw.random(shape) < 1e-3, 30, 1)
    ),
}


def spent(values, shares, entries):
    """Returns the weighted square distance to the nearest entry."""
    entries = np.sort(entries.astype(np.float64))
    nearest = entries[np.searchsorted((entries[1:] + entries[:-1]) / 2, values)]
    return float(np.sum(shares * np.square(values - nearest)))


def exact(values, shares, count):
    from coremltools._deps import kmeans1d

    distinct, place = np.unique(values, return_inverse=True)
    weights = np.bincount(place.reshape(-1), shares)
    used = weights > 0
    count = min(count, int(used.sum()))
    return np.array(kmeans1d.cluster(distinct[used], count, weights=weights[used]).centroids)


@pytest.mark.slow_but_every(3)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("name", DRAWS)
def test_entries_are_the_best_there_are(name, bits, weighted):
    draw = np.random.default_rng(bits)
    values = DRAWS[name](draw, (2, 2048)).astype(np.float16).astype(np.float32)
    shares = draw.random(values.shape, np.float32) * (draw.random(values.shape) < 0.9)
    given = shares.astype(np.float32) if weighted else None
    found = fitted_tables(values, given, 1 << bits, zero=False)
    assert found.shape == (2, 1 << bits) and np.all(np.diff(found) >= 0)
    for own, share, entries in zip(
        values, shares if weighted else np.ones_like(values), found, strict=True
    ):
        best = spent(own, share, exact(own, share, 1 << bits))
        assert spent(own, share, entries) <= 1.015 * best + 1e-9


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("name", DRAWS)
def test_a_rough_start_is_near_the_best(name, bits, zero):
    values = DRAWS[name](np.random.default_rng(bits), (3, 2048)).astype(np.float32)
    rough, found = (
        fitted_tables(values, None, 1 << bits, zero, roughly=roughly) for roughly in (True, False)
    )
    for own, start, entries in zip(values, rough, found, strict=True):
        assert (0 in start) is (0 in entries) is zero
        assert spent(own, 1.0, start) <= 1.05 * spent(own, 1.0, entries)


def test_many_values_are_counted_first():
    values = np.random.default_rng(0).standard_normal((1, 50_000), np.float32)
    for shares in (None, np.ones_like(values)):
        found = fitted_tables(values, shares, 16, zero=False)
        best = spent(values[0], 1.0, exact(values[0].astype(np.float16), np.ones(50_000), 16))
        assert spent(values[0], 1.0, found[0]) <= 1.002 * best


@pytest.mark.slow_but_every(8)
@pytest.mark.parametrize("size", [6144, 40_000])
@pytest.mark.parametrize("name", ["cauchy", "one far out", "lognormal", "few far out"])
def test_values_far_out_cost_the_others_nothing(name, size):
    draw = np.random.default_rng(0)
    values = {
        "cauchy": lambda: np.clip(draw.standard_cauchy(size), -1e5, 1e5),
        "one far out": lambda: np.append(draw.standard_normal(size - 1), 3000.0),
        "lognormal": lambda: np.exp(2 * draw.standard_normal(size)) * draw.choice([-1, 1], size),
        "few far out": lambda: np.where(draw.random(size) < 0.005, 50, 1) * draw.random(size),
    }[name]()
    values = (values / 50).astype(np.float16).astype(np.float32)
    (found,) = fitted_tables(values[None], None, 256, zero=False)
    best = spent(values, 1.0, exact(values, np.ones(size), 256))
    assert spent(values, 1.0, found) <= 1.01 * best


def test_a_zero_among_them_is_exact_and_costs_little():
    values = np.random.default_rng(0).standard_normal((3, 2048), np.float32)
    shares = (np.abs(values) > 0.2).astype(np.float32)
    for bits in (1, 2, 4, 6):
        found = fitted_tables(values, shares, 1 << bits, zero=True)
        assert np.all((found == 0).sum(axis=1) >= 1)
        for own, share, entries in zip(values, shares, found, strict=True):
            one_less = spent(own, share, exact(own, share, (1 << bits) - 1))
            assert spent(own, share, entries) <= 1.01 * one_less


@pytest.mark.parametrize("zero", [False, True])
def test_few_values_are_kept_as_they_are(zero):
    few = np.float32([-3e4, -1e-3, 1e-3, 0.5, 0.50048828125])
    values = np.random.default_rng(0).choice(few, (2, 512))
    found = fitted_tables(values, None, 8, zero=zero)
    for entries in found:
        assert set(few.tolist()) | ({0.0} if zero else set()) == set(entries.tolist())


def test_what_no_sample_reaches_counts_alike():
    values = np.random.default_rng(0).standard_normal((2, 256), np.float32)
    shares = np.stack([np.zeros(256, np.float32), np.ones(256, np.float32)])
    found = fitted_tables(values, shares, 4, zero=False)
    alone = fitted_tables(values, None, 4, zero=False)
    assert np.array_equal(found, alone)
    assert not fitted_tables(
        np.zeros((1, 8), np.float32), np.zeros((1, 8), np.float32), 4, True
    ).any()


def test_the_check_of_the_best_can_fail():
    values = np.random.default_rng(0).standard_normal(2048).astype(np.float32)
    shares, even = np.ones(2048), np.linspace(values.min(), values.max(), 16)
    assert spent(values, shares, even) > 1.05 * spent(values, shares, exact(values, shares, 16))
