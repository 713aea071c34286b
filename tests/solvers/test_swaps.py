"""Swaps never raise the error, keep a mode's pattern, and find what trying all of them would."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from mlpass.arrays import host
from mlpass.solvers.problem import Pruned
from mlpass.solvers.solve import make_problem, solve
from mlpass.solvers.sparsegpt import SparseGPT
from mlpass.solvers.swaps import swapped
from mlpass.solvers.wanda import Magnitude, Wanda
from mlpass.sparsity.layout import matrix_layout
from mlpass.sparsity.modes import NM, Block, Channel, Kernel, Percentile, Threshold
from tests.solvers.layers import GROUPED, LAYOUTS, MODES, exact_error, fits, layer, stored

CASES = [(mode, layout) for mode in MODES for layout in LAYOUTS + GROUPED if fits(mode, layout)]
KINDS = [Magnitude, Wanda, SparseGPT]


def zeros_each(keep, layout):
    groups, rows, channels, positions = layout.sizes
    return (~layout.split(keep)).reshape(groups * rows, channels, positions)


@pytest.mark.slow_but_every(3)
@pytest.mark.parametrize(("mode", "layout"), CASES, ids=str)
def test_swaps_keep_the_pattern_and_never_raise_the_error(mode, layout):
    weight, gram = stored(layout, decay=1.0)
    for kind in KINDS:
        plain = solve(weight, gram, mode, method=kind(refit=True), layout=layout)
        found = solve(weight, gram, mode, method=kind(swaps=2), layout=layout)
        errors = [exact_error(weight, each.weight, gram, layout) for each in (plain, found)]
        assert errors[1] <= errors[0] * (1 + 1e-5)
        assert found.error == pytest.approx(errors[1], rel=1e-3, abs=1e-7)
        assert not found.weight[~found.keep].any()
        before, after = (zeros_each(each.keep, layout) for each in (plain, found))
        assert np.array_equal(before.sum(axis=(1, 2)), after.sum(axis=(1, 2)))
        if isinstance(mode, Threshold | Block | Kernel | Channel):
            assert np.array_equal(plain.keep, found.keep)
        elif isinstance(mode, NM):
            again = mode.keep(found.keep.astype(np.float32), layout)
            assert np.array_equal(again, found.keep)


@pytest.mark.parametrize("mode", [Percentile(0.5), NM(2, 4)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_swaps_pay_after_methods_that_score(kind, mode):
    weight, inputs = layer(96, 96, decay=0.5)
    gram = inputs.T @ inputs
    base = solve(weight, gram, mode, method=kind(refit=True)).error
    assert solve(weight, gram, mode, method=kind(swaps=2)).error < 0.97 * base


@pytest.mark.parametrize("columns", [4, 12])
def test_a_group_is_swapped_as_all_its_swaps_tried_would_be(columns):
    weight, inputs = layer(1, columns, decay=1.0, seed=3)
    gram = (inputs.T @ inputs).astype(np.float64)
    problem = make_problem(weight, gram, NM(2, 4))
    scaled = host(problem.gram.matrix)[0].astype(np.float64)
    row = weight[0].astype(np.float64)
    kept = [np.array([0, 1]) + start for start in range(0, columns, 4)]
    keep = np.zeros(columns, bool)
    keep[np.concatenate(kept)] = True
    current = row * keep
    wanted, pattern = current.copy(), keep.copy()
    for start in range(0, columns, 4):

        def error(values):
            return (values - row) @ scaled @ (values - row)

        best = (error(wanted), wanted, pattern)
        for out, into in itertools.product(range(start, start + 4), repeat=2):
            if not pattern[out] or pattern[into]:
                continue
            values, mask = wanted.copy(), pattern.copy()
            values[out], mask[out], mask[into] = 0, False, True
            values[into] = (row - values) @ scaled[:, into] / scaled[into, into]
            best = min(best, (error(values), values, mask), key=lambda one: one[0])
        _, wanted, pattern = best
    start = Pruned(current[None, None].astype(np.float32), keep[None, None])
    found = swapped(problem, start, 1, 0.0)
    assert np.array_equal(host(found.keep)[0, 0], pattern)
    solved = np.linalg.lstsq(inputs[:, pattern], inputs @ weight[0], rcond=None)[0]
    np.testing.assert_allclose(found.weight[0, 0, pattern], solved, rtol=2e-2, atol=2e-3)


def test_none_are_made_where_a_mode_ties_elements():
    weight, inputs = layer(16, 16)
    problem = make_problem(weight, inputs.T @ inputs, Channel(0.5))
    keep = Channel(0.5).keep(np.abs(weight), matrix_layout(16, 16))[None]
    start = Pruned(weight[None] * keep, keep)
    assert swapped(problem, start, 3, 0.01) is start


def test_a_method_with_swaps_is_named_so():
    assert str(SparseGPT(refit=True, swaps=2)) == "sparsegpt + refit + swaps"
    assert str(Wanda(swaps=1)) == "wanda + swaps"


def test_tensors_are_swapped_as_arrays_are(apart):
    torch = pytest.importorskip("torch")
    weight, inputs = layer(48, 64, decay=1.0)
    gram = inputs.T @ inputs
    plain = solve(weight, gram, NM(2, 4), method=SparseGPT(swaps=2))
    tensors = torch.from_numpy(weight), torch.from_numpy(gram)
    found = solve(*tensors, NM(2, 4), method=SparseGPT(swaps=2))
    assert isinstance(found.weight, torch.Tensor)
    assert found.error == pytest.approx(plain.error, rel=0.02)
