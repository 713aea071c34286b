"""Settling a weight on its grid: least squares as numpy's, codes that no other one beats."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import mlpass
from mlpass import NM, Palette, Percentile, Quantized, SparseGPT, solve
from mlpass.solvers import rounding, settle
from mlpass.solvers.solve import make_problem
from mlpass.sparsity.layout import matrix_layout

STORAGES = [
    Palette(1),
    Palette(3),
    Palette(4, group_size=0),
    Palette(4, table="normal_float"),
    Quantized("int4", block_size=8),
    Quantized("uint4"),
    Quantized("int8"),
]


def case(rows: int, columns: int, samples: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    mixed = np.eye(columns) + rng.standard_normal((columns, columns)) / columns**0.5
    inputs = (rng.standard_normal((samples, columns)) @ mixed).astype(np.float32)
    return rng.standard_t(4, (rows, columns)).astype(np.float32), inputs


def unsettled(problem, grid, weight, *_):
    return weight


def lost(weight, found, inputs):
    return np.square((weight - found).astype(np.float64) @ inputs.T).sum()


@pytest.mark.parametrize("mode", [Percentile(0), Percentile(0.5), NM(2, 4)], ids=str)
@pytest.mark.parametrize("storage", STORAGES, ids=str)
def test_the_outputs_lose_less_than_by_the_sweep_alone(storage, mode, monkeypatch):
    weight, inputs = case(32, 64, 400)
    gram = inputs.T @ inputs
    settled = solve(weight, gram, mode, method=SparseGPT(), storage=storage)
    monkeypatch.setattr(rounding, "settle", unsettled)
    swept = solve(weight, gram, mode, method=SparseGPT(), storage=storage)
    assert np.array_equal(settled.keep, swept.keep)
    assert lost(weight, settled.weight, inputs) < 0.95 * lost(weight, swept.weight, inputs)
    assert not settled.weight[~settled.keep].any()


@pytest.mark.parametrize("storage", [Palette(2, group_size=4), Quantized("int4", block_size=8)])
def test_values_are_the_least_squares_of_their_codes(storage):
    weight, inputs = case(4, 16, 100)
    problem = make_problem(weight, inputs.T @ inputs, Percentile(0))
    grid = storage.grid(matrix_layout(*weight.shape), problem.gram.diagonal, np.dtype(np.float32))
    keep = np.ones((1, *weight.shape), bool)
    grid.fit(problem.weight, keep)
    start = grid.nearest(problem.weight)
    found = settle._fit(problem.gram.matrix, problem.weight, grid, start, keep)

    sets = grid.gathered(start).shape
    directions = []
    for place in np.ndindex(sets):
        unit = np.zeros(sets, np.float32)
        unit[place] = 1
        directions.append((grid.spread(unit)[0] @ inputs.T).reshape(-1))
    wanted = (weight @ inputs.T).reshape(-1)
    best, *_ = np.linalg.lstsq(np.stack(directions, 1).astype(np.float64), wanted, rcond=None)
    least = np.square(wanted - np.stack(directions, 1) @ best).sum()
    assert lost(weight, found[0], inputs) == pytest.approx(least, rel=1e-3)
    assert least < 0.99 * lost(weight, start[0], inputs)


def test_no_other_code_of_an_element_is_better():
    weight, inputs = case(2, 6, 50, seed=3)
    how = {"method": SparseGPT(dampening=0), "storage": Palette(2, group_size=2), "rounds": 40}
    found = solve(weight, inputs.T @ inputs, Percentile(0), **how)
    (table,) = found.parts["tables"]
    least = lost(weight, found.weight, inputs)
    for row, column in itertools.product(range(2), range(6)):
        for value in table:
            other = found.weight.copy()
            other[row, column] = value
            assert lost(weight, other, inputs) >= least * (1 - 1e-5)


@pytest.mark.parametrize("samples", [24, 96])
def test_few_samples_are_not_fitted_too_closely(samples, monkeypatch):
    """What samples show that no solve saw is what counts."""
    ratios = []
    for seed in range(4):
        weight, inputs = case(48, 144, samples + 2000, seed)
        seen, unseen = inputs[:samples], inputs[samples:]
        errors = []
        for each in (settle.settle, unsettled):
            monkeypatch.setattr(rounding, "settle", each)
            found = solve(
                weight, seen.T @ seen, Percentile(0), method=SparseGPT(), storage=Palette(3)
            )
            errors.append(lost(weight, found.weight, unseen))
        ratios.append(errors[0] / errors[1])
    assert np.mean(ratios) < 1


def test_a_table_of_a_stored_zero_keeps_it():
    weight, inputs = case(16, 64, 200)
    storage = Palette(4, group_size=0)
    found = solve(weight, inputs.T @ inputs, Percentile(0.1), method=SparseGPT(), storage=storage)
    assert not storage.masked(weight.size, int(found.keep.sum()))  # so zeros are codes
    assert (found.parts["tables"] == 0).any(axis=1).all()
    decoded = found.parts["tables"][0][found.parts["codes"]]
    assert np.array_equal(decoded, found.weight)


def test_the_same_bytes_on_any_number_of_threads(monkeypatch):
    weight, inputs = case(300, 256, 500)
    gram, made = inputs.T @ inputs, []
    for count in ("1", "2", "3", "7"):
        monkeypatch.setenv("MLPASS_THREADS", count)
        found = mlpass.solve(
            weight, gram, Percentile(0), method=SparseGPT(), storage=Quantized("int4")
        )
        made.append(found.weight.tobytes())
    assert len(set(made)) == 1


@pytest.mark.parametrize("storage", [Palette(2), Quantized("int4"), Quantized("uint8")], ids=str)
def test_what_the_type_cannot_hold_is_left_as_it_was(storage):
    weight, inputs = case(16, 32, 100)
    weight *= np.float32(65504 / np.abs(weight).max())
    with np.errstate(over="raise"):
        found = solve(
            weight.astype(np.float16),
            inputs.T @ inputs,
            Percentile(0),
            method=SparseGPT(),
            storage=storage,
        )
    assert np.isfinite(found.weight).all()
