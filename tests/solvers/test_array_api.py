"""Solvers on array-api-strict, which has nothing that the standard does not have.

SparseGPT and ADMM write in place and index with arrays: those are for numpy and torch alone.
"""

from __future__ import annotations

import array_api_strict as strict
import numpy as np
import pytest

from mlpass.errors import CalibrationError, NotApplicable
from mlpass.solvers.dampening import dampened_factors, inverses
from mlpass.solvers.gram import Gram, GramSum, accumulate
from mlpass.solvers.solve import solve
from mlpass.solvers.wanda import Magnitude, Wanda
from mlpass.sparsity.masks import keep_mask
from mlpass.sparsity.modes import NM, Percentile

from .layers import LAYOUTS, MODES, fits, layer, stored

METHODS = [Magnitude(), Wanda(), Magnitude(refit=True), Wanda(refit=True)]
CASES = [(mode, layout) for mode in MODES for layout in LAYOUTS if fits(mode, layout)]


@pytest.mark.slow_but_every(3)
@pytest.mark.parametrize(("mode", "layout"), CASES, ids=str)
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_solutions_are_numpys(method, mode, layout):
    weight, gram = stored(layout)
    options = {"method": method, "layout": layout, "error_before": True}
    ours = solve(weight, gram, mode, **options)
    theirs = solve(strict.asarray(weight), strict.asarray(gram), mode, **options)
    assert theirs.weight.__array_namespace__() is strict
    assert np.array_equal(np.asarray(theirs.keep), ours.keep)
    np.testing.assert_allclose(np.asarray(theirs.weight), ours.weight, rtol=1e-3, atol=1e-3)
    assert theirs.error == pytest.approx(ours.error, rel=1e-4)
    assert theirs.error_before == pytest.approx(ours.error_before, rel=1e-4)


@pytest.mark.parametrize("mode", [Percentile(0.5), Percentile(0.4, "row"), NM(5, 7)], ids=str)
def test_ties_go_as_numpys(mode):
    layout = LAYOUTS[0]
    score = np.abs(np.round(stored(layout)[0] * 4) / 4)
    found = keep_mask(mode, strict.asarray(score), layout)
    assert np.array_equal(np.asarray(found), mode.keep(score, layout))


def test_sums_factors_and_inverses_are_numpys():
    inputs = layer(1, 40)[1]
    total = GramSum()
    for part in np.array_split(inputs, 3):
        total.add(strict.asarray(part))
    gram = total.total()
    wanted = accumulate(None, inputs)
    np.testing.assert_allclose(np.asarray(gram), wanted, rtol=1e-4, atol=1e-2)
    theirs, ours = Gram(gram), Gram(wanted)
    upper, taking = dampened_factors(theirs.matrix, 0.01)
    assert taking == [0.01]
    np.testing.assert_allclose(
        np.asarray(upper), np.asarray(dampened_factors(ours.matrix, 0.01)[0]), rtol=1e-3, atol=1e-4
    )
    exact = np.linalg.inv(np.asarray(ours.matrix)[0] + 0.01 * np.eye(40))
    np.testing.assert_allclose(np.asarray(inverses(upper))[0], exact, rtol=2e-2, atol=2e-2)


def test_what_does_not_fit_or_has_no_factor_is_refused():
    with pytest.raises(NotApplicable, match=r"its input channels \(3\) are fewer than m \(4\)"):
        solve(strict.ones((2, 3)), strict.eye(3), NM(2, 4), method=Wanda())
    none = strict.asarray(np.array([[[1, 50], [50, 1]]], np.float32))
    with pytest.raises(CalibrationError, match="is not positive semidefinite"):
        dampened_factors(none, 0.01)


def test_samples_that_are_not_finite_are_an_error():
    rows = np.ones((4, 3), np.float32)
    rows[1, 2] = np.nan
    with pytest.raises(CalibrationError, match="a layer's inputs hold NaN or inf"):
        accumulate(None, strict.asarray(rows))
