"""The Gram: sums, checks, factors; and what becomes of degenerate samples."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from time import sleep

import numpy as np
import pytest
import scipy.linalg

from mlpass.arrays import as_factor, triangular_inverse
from mlpass.errors import CalibrationError
from mlpass.solvers.dampening import dampened_factor
from mlpass.solvers.factor import factor_in_place, inverse
from mlpass.solvers.gram import Gram, GramSum, accumulate, scaled
from mlpass.solvers.solve import solve
from mlpass.sparsity.layout import matrix_layout
from mlpass.sparsity.modes import NM, Channel, Percentile

from .layers import METHODS, layer


@pytest.mark.parametrize("columns", [1, 5, 128, 129, 300])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_factor_and_its_inverse(columns, dtype):
    gram = accumulate(None, layer(1, columns)[1])[0].astype(np.float64) + np.eye(columns)
    upper = gram.copy()
    factor_in_place(upper)
    assert np.array_equal(upper, np.triu(upper)) and np.all(np.diag(upper) > 0)
    assert np.allclose(upper @ upper.T, gram, rtol=1e-10, atol=1e-10 * gram.max())
    tolerance = 1e-2 if dtype == np.float32 else 1e-8
    assert np.allclose(inverse(upper.astype(dtype)) @ gram, np.eye(columns), atol=tolerance)


def test_all_that_a_factor_is_made_of_is_multiplied_by_blas(monkeypatch):
    """Otherwise numpy before 2.3 adds in an order of its own, and the last bits are others."""
    corners = []

    def inverted(upper):
        corners.append(upper)
        return triangular_inverse(upper)

    monkeypatch.setattr("mlpass.solvers.factor.triangular_inverse", inverted)
    factor_in_place(np.eye(300) + 1)
    assert len(corners) == 3 and all(as_factor(corner) is corner for corner in corners)


def test_a_penalty_is_the_same_for_loud_groups_and_quiet_ones():
    parts = [layer(1, 12, seed=seed)[1] * scale for seed, scale in enumerate((0.1, 1, 10))]
    gram = Gram(accumulate(None, np.stack(parts).astype(np.float32)))
    solver, used = gram.inverse(0.02, 0.5)
    for found, group in zip(solver, gram.matrix.astype(np.float64), strict=True):
        exact = np.linalg.inv(group + (0.02 * np.mean(np.diag(group)) + 0.5) * np.eye(12))
        np.testing.assert_allclose(found, exact, rtol=1e-3, atol=1e-5)
    assert used == pytest.approx(0.02, abs=1e-6)


def test_a_gram_that_is_not_positive_definite_has_no_factor():
    with pytest.raises(np.linalg.LinAlgError):
        factor_in_place(np.array([[1, 2], [2, 1]], np.float64))


def test_of_the_factor_every_digit_of_fp32_is_right():
    gram = accumulate(None, layer(1, 300)[1])[0]
    upper, used = dampened_factor(gram, 1e-4)
    damped = gram.astype(np.float64) + used * np.mean(np.diag(gram), dtype=np.float64) * np.eye(300)
    exact = scipy.linalg.cholesky(damped[::-1, ::-1], lower=True)[::-1, ::-1]
    assert upper.dtype == np.float32 and used == 1e-4
    assert np.allclose(upper, exact, rtol=2**-23, atol=1e-12)


def test_samples_add_up_in_any_portions_and_groups():
    inputs = layer(1, 12, samples=40)[1]
    whole = accumulate(None, inputs)
    parts = accumulate(accumulate(None, inputs[:7]), inputs[7:])
    assert whole.shape == (1, 12, 12) and whole.dtype == np.float32
    assert np.allclose(whole[0], inputs.T.astype(np.float64) @ inputs, rtol=1e-4, atol=1e-4)
    assert np.allclose(parts, whole, rtol=1e-5, atol=1e-4)
    grouped = accumulate(None, inputs.reshape(40, 3, 4).swapaxes(0, 1))
    assert np.allclose(grouped[1], whole[0, 4:8, 4:8], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("cuts", [[], [100], [256, 300], [40, 41, 299, 690]])
def test_portions_make_no_difference_to_any_bit(cuts, groups, monkeypatch):
    monkeypatch.setattr("mlpass.solvers.accumulate._HELD", 1)  # 256 rows in a product
    inputs = layer(1, groups * 12, samples=700)[1].reshape(700, groups, 12).swapaxes(0, 1)
    one_by_one, at_once = GramSum(), GramSum()
    portions = np.split(inputs, cuts, axis=1)
    for portion in portions:
        one_by_one.add(portion)
    at_once.add_all((portion, "") for portion in portions)
    whole = accumulate(None, inputs)
    wanted = inputs.swapaxes(1, 2).astype(np.float64) @ inputs
    assert np.allclose(whole, wanted, rtol=1e-4, atol=1e-3)
    assert at_once.total().tobytes() == one_by_one.total().tobytes() == whole.tobytes()


def test_an_error_says_of_which_portion_it_is():
    good, bad = layer(1, 5)[1], np.full((2, 5), np.nan, np.float32)
    with pytest.raises(CalibrationError, match=r"NaN or inf\. \(the third\)"):
        GramSum().add_all([(good, " (the first)"), (good, " (the second)"), (bad, " (the third)")])
    with pytest.raises(CalibrationError, match=r"\(1, 5\)\. \(the second\)"):
        GramSum().add_all([(good, " (the first)"), (good[:, 1:], " (the second)")])


def test_half_precision_inputs_do_not_overflow():
    inputs = np.full((64, 3), 60000, np.float16)
    assert accumulate(None, inputs)[0, 0, 0] == pytest.approx(64 * 60000.0**2, rel=1e-3)


def test_squares_beyond_fp32_go_to_fp64_and_stay_there():
    small, large = layer(1, 4)[1], np.full((2, 4), 1e25, np.float32)
    gram = accumulate(accumulate(accumulate(None, small), large), small)
    assert gram.dtype == np.float64 and np.isfinite(gram).all()
    assert gram[0, 0, 0] == pytest.approx(2e50)
    narrow, unit = scaled(gram)
    assert narrow.dtype == np.float32
    assert np.diagonal(narrow[0]).mean() == pytest.approx(1)
    assert float(narrow[0, 0, 0]) * unit == pytest.approx(2e50, rel=1e-6)
    total = GramSum()
    total.add_all([(small, ""), (large, ""), (small, "")])
    assert np.allclose(total.total(), gram, rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_doubles_beyond_fp32_keep_their_digits(scale):
    inputs = layer(1, 4)[1].astype(np.float64)
    gram = accumulate(None, inputs * scale)
    assert gram.dtype == np.float64
    assert np.allclose(gram[0] / scale**2, inputs.T @ inputs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite_are_an_error(bad):
    inputs = layer(1, 5)[1]
    inputs[3, 2] = bad
    with pytest.raises(CalibrationError, match="sample_data: a layer's inputs hold NaN or inf"):
        accumulate(None, inputs)


def test_samples_of_another_width_are_an_error():
    gram = accumulate(None, layer(1, 5)[1])
    with pytest.raises(CalibrationError, match=r"\(groups, columns\) \(1, 6\), before .*\(1, 5\)"):
        accumulate(gram, layer(1, 6)[1])


@pytest.mark.parametrize("scale", [1e-34, 1e-8, 1.0, 1e8, 1e34])
def test_the_unit_of_the_gram_does_not_matter(scale):
    weight, inputs = layer(24, 32)
    gram = (inputs.T @ inputs).astype(np.float64)
    for method in METHODS:
        wanted = solve(weight, gram, Percentile(0.5), method=method)
        found = solve(weight, gram * scale, Percentile(0.5), method=method)
        assert np.mean(found.keep != wanted.keep) < 0.01
        assert found.error == pytest.approx(wanted.error, rel=0.01)


def test_dampening_is_raised_until_the_factor_exists_and_reported():
    gram = np.ones((200, 200), np.float32)  # of rank one: constant inputs
    upper, used = dampened_factor(gram, 0.0)
    assert 0 < used <= 1e-3
    assert np.allclose(upper @ upper.T, gram + np.float32(used) * np.eye(200), atol=1e-4)
    solution = solve(layer(8, 200)[0], gram, Percentile(0.5), method=METHODS[4])
    assert solution.dampening == pytest.approx(0.01)


def degenerate(kind, columns):
    inputs = layer(1, columns)[1]
    return {
        "dead": np.zeros_like(inputs),
        "one sample": inputs[:1],
        "few samples": inputs[: columns // 4],
        "constant": np.broadcast_to(np.float32(3), inputs.shape).copy(),
        "one live column": inputs * (np.arange(columns) == 5),
        "equal columns": np.repeat(inputs[:, ::2], 2, axis=1),
        "dead columns": inputs * (np.arange(columns) % 3 > 0),
        "loud column": inputs * np.where(np.arange(columns) == 5, 1e3, 1).astype(np.float32),
    }[kind]


KINDS = [
    "dead",
    "one sample",
    "few samples",
    "constant",
    "one live column",
    "equal columns",
    "dead columns",
    "loud column",
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", [Percentile(0.5), NM(2, 4), Channel(0.5)], ids=str)
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_degenerate_samples_give_a_result(kind, mode, method):
    weight = layer(16, 32)[0]
    inputs = degenerate(kind, 32)
    solution = solve(weight, accumulate(None, inputs), mode, method=method)
    assert np.isfinite(solution.weight).all()
    assert np.count_nonzero(solution.keep) * 2 == weight.size
    assert 0 <= solution.error < 1.5
    assert np.abs(solution.weight).max() < 1000 * np.abs(weight).max()
    if kind == "dead":
        assert solution.error == 0
        assert np.array_equal(solution.keep, mode.keep(np.abs(weight), matrix_layout(16, 32)))
        assert np.allclose(solution.weight, weight * solution.keep, atol=1e-6)


def test_weights_of_dead_columns_go_first_and_stay_as_they_were_where_kept():
    weight = layer(16, 32)[0]
    gram = accumulate(None, degenerate("dead columns", 32))
    dead = np.arange(32) % 3 == 0
    for method in METHODS[4:]:
        keep = solve(weight, gram, Percentile(0.5, scope="row"), method=method).keep
        assert not keep[:, dead].any()
        solution = solve(weight, gram, NM(1, 4), method=method)
        kept = solution.keep & dead
        assert np.allclose(solution.weight[kept], weight[kept], rtol=1e-4)


def test_many_rows_of_many_columns_sum_to_the_same_however_they_come():
    rng = np.random.default_rng(8)
    inputs = rng.standard_normal((9000, 800)).astype(np.float32)
    whole = accumulate(None, inputs)
    total = GramSum()
    for portion in np.split(inputs, [1, 700, 4100, 8200]):
        total.add(portion)
    assert whole.tobytes() == total.total().tobytes()
    exact = inputs.astype(np.float64).T @ inputs
    np.testing.assert_allclose(whole[0], exact, rtol=1e-4, atol=1e-2)
    np.testing.assert_array_equal(whole[0], whole[0].T)


def test_inverses_and_shrunk_ones_of_small_grams_alone_are_kept(monkeypatch):
    inputs = np.random.default_rng(0).standard_normal((50, 20)).astype(np.float32)
    small = Gram(inputs.T @ inputs)
    assert small.inverse(0.01, 1.0)[0] is small.inverse(0.01, 1.0)[0]
    assert small.shrunk(0.1) is small.shrunk(0.1) is not small.shrunk(0.3)
    monkeypatch.setattr("mlpass.solvers.gram._KEPT", 20 * 20 - 1)
    wide = Gram(inputs.T @ inputs)
    first, second = wide.inverse(0.01, 1.0)[0], wide.inverse(0.01, 1.0)[0]
    assert first is not second
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(wide.shrunk(0.1).matrix, small.shrunk(0.1).matrix)
    assert wide.shrunk(0.1) is not wide.shrunk(0.1)


def test_weights_that_are_solved_for_side_by_side_derive_a_thing_once():
    gram, both, made = Gram(np.eye(3, dtype=np.float32)), Barrier(2), []

    def make():
        made.append(len(made))
        sleep(0.05)  # in which the other asks
        return made[-1]

    def ask(_):
        both.wait()
        return gram.derived("thing", make)

    with ThreadPoolExecutor(2) as threads:
        assert [*threads.map(ask, range(2))] == [0, 0]
    assert made == [0]
    assert pickle.loads(pickle.dumps(gram)).derived("thing", make) == 0
