"""A Gram that several weights share, a Gram that is diagonal, and the error before."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

from mlpass.errors import CalibrationError
from mlpass.solvers import dampening as factors
from mlpass.solvers.admm import ADMM
from mlpass.solvers.gram import Gram, GramSum, accumulate
from mlpass.solvers.solve import solve
from mlpass.solvers.sparsegpt import SparseGPT
from mlpass.solvers.wanda import Magnitude, Wanda
from mlpass.sparsity.layout import matrix_layout
from mlpass.sparsity.modes import NM, Block, Channel, Percentile
from mlpass.storage.palette import Palette
from mlpass.storage.quantized import Quantized
from mlpass.weights.ops.convolutions import conv_layout

from .layers import METHODS, exact_error, layer, stored

MODES = [Percentile(0.5), Percentile(0.4, scope="row"), NM(2, 4), Block(0.5, 4), Channel(0.5)]


def same(first, second):
    """Returns whether two solutions are equal in every bit."""

    def told(solution):
        values = vars(solution) | {f"part {name}": part for name, part in solution.parts.items()}
        del values["parts"]
        return {
            name: value.tobytes() if isinstance(value, np.ndarray) else value
            for name, value in values.items()
        }

    return told(first) == told(second)


@pytest.mark.slow_but_every(2)
@pytest.mark.parametrize("mode", [Percentile(0.5), NM(2, 4)], ids=str)
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_a_shared_gram_changes_no_bit(method, mode):
    layout = conv_layout((24, 16, 3, 3), 2)
    weight, gram = stored(layout)
    shared = Gram(gram)
    for number in range(3):
        other = weight * np.float32(number + 1) + np.float32(0.01 * number)
        plain = solve(other, gram, mode, method=method, layout=layout)
        assert same(plain, solve(other, shared, mode, method=method, layout=layout))
    quantized = [
        solve(weight, each, mode, storage=Quantized("int4"), method=method, layout=layout)
        for each in (gram, shared)
    ]
    assert same(*quantized)


def test_a_shared_gram_is_factored_once_for_each_order_and_dampening(monkeypatch):
    factored = []
    plain = factors.dampened_factor

    def counted(gram, dampening):
        factored.append(dampening)
        return plain(gram, dampening)

    monkeypatch.setattr(factors, "dampened_factor", counted)
    weight, inputs = layer(16, 48)
    shared = Gram(accumulate(None, inputs))
    for mode in (Percentile(0.5), Percentile(0.7), NM(2, 4)):
        solve(weight, shared, mode, method=SparseGPT())
    assert factored == [0.01]
    solve(weight, shared, NM(2, 4), method=SparseGPT(dampening=0.1))
    assert factored == [0.01, 0.1, 1e-5]  # the last tells whether samples are few
    solve(weight, shared, NM(2, 4), method=ADMM(iterations=2))
    assert len(factored) == 6  # one for what columns have of their own, one for each penalty
    solve(weight, shared, NM(2, 4), method=ADMM(iterations=2))
    assert len(factored) == 6


def test_what_a_gram_holds_goes_with_it():
    weight, inputs = layer(16, 48)
    shared = Gram(inputs.T @ inputs)
    for method in METHODS:
        solve(weight, shared, NM(2, 4), method=method)
    held = [weakref.ref(each) for each in (shared, shared.conditional(0.01)[1], shared.matrix)]
    del shared
    gc.collect()
    assert [each() for each in held] == [None, None, None]


def test_what_others_do_not_tell_of_a_column_is_what_a_regression_leaves():
    _, inputs = layer(4, 16)
    inputs[:, 5] = 0
    left = []
    for column in range(16):
        others = np.delete(inputs, column, axis=1)
        told = others @ np.linalg.lstsq(others, inputs[:, column])[0]
        left.append(np.linalg.norm(inputs[:, column] - told))
    lengths, gram = Gram(accumulate(None, inputs)).conditional(0.0)
    mean = np.square(inputs).sum() / 15
    np.testing.assert_allclose(lengths[0], np.array(left) / np.sqrt(mean), rtol=1e-4)
    divided = np.delete(inputs, 5, axis=1) / np.delete(left, 5)
    exact = divided.T @ divided
    exact /= np.mean(np.diagonal(exact))
    live = np.delete(np.delete(gram.matrix[0], 5, axis=0), 5, axis=1)
    np.testing.assert_allclose(live, exact, rtol=1e-3, atol=1e-5)
    assert not gram.matrix[0, 5].any()


def test_a_gram_of_another_shape_says_so():
    weight = np.ones((4, 6), np.float32)
    with pytest.raises(CalibrationError, match=r"gram: must be \(1, 6, 6\) .* Got \(1, 5, 5\)"):
        solve(weight, Gram(np.eye(5)), NM(2, 4), method=Wanda())
    with pytest.raises(CalibrationError, match=r"gram: must be \(1, 6, 6\) .* Got \(5,\)"):
        solve(weight, np.ones(5), NM(2, 4), method=Wanda())
    with pytest.raises(CalibrationError, match=r"is diagonal, \(columns,\). Got shape \(2, 3\)"):
        Gram(np.ones((2, 3)))
    layout = conv_layout((4, 3, 1), 2)
    with pytest.raises(CalibrationError, match=r"gram: must be \(2, 3, 3\) .* Got \(3,\)"):
        solve(np.ones((4, 3, 1)), np.ones(3), Percentile(0.5), method=Wanda(), layout=layout)
    with pytest.raises(CalibrationError, match="gram: is diagonal, so it has no matrix"):
        _ = Gram(np.ones(3)).matrix
    for bad, text in ((np.nan, "holds NaN or inf"), (-1, "has a negative diagonal")):
        with pytest.raises(CalibrationError, match=text):
            Gram(np.array([1, bad]))


# Without dampening, and with all columns decided at once, they rank alike.
PLAIN = [Magnitude(), Magnitude(refit=True), Wanda(), Wanda(refit=True), SparseGPT(0.0)]


@pytest.mark.parametrize("dead", [False, True])
@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("method", PLAIN, ids=str)
def test_a_diagonal_gram_is_the_matrix_without_the_zeros(method, mode, dead):
    weight = layer(24, 40)[0]
    power = np.random.default_rng(3).uniform(0.5, 20, 40).astype(np.float32)
    power[::7] *= not dead
    short = solve(weight, power, mode, method=method, error_before=True)
    full = solve(weight, np.diag(power), mode, method=method, error_before=True)
    assert short.keep.tobytes() == full.keep.tobytes()
    assert np.allclose(short.weight, full.weight, atol=1e-5)
    assert short.weight[short.keep].tobytes() == weight[short.keep].tobytes()
    assert short.error == pytest.approx(full.error, rel=1e-4)
    assert short.error_before == pytest.approx(full.error_before, rel=1e-4)
    wanted = exact_error(weight, short.weight, np.diag(power), matrix_layout(24, 40))
    assert short.error == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_admm_on_a_diagonal_gram_is_at_the_optimum(mode):
    weight = layer(24, 40)[0]
    power = np.random.default_rng(3).uniform(0.5, 20, 40).astype(np.float32)
    short = solve(weight, power, mode, method=ADMM())
    assert short.keep.tobytes() == solve(weight, power, mode, method=SparseGPT()).keep.tobytes()
    assert short.error <= solve(weight, np.diag(power), mode, method=ADMM()).error * (1 + 1e-5)


@pytest.mark.parametrize("method", [SparseGPT(0.0), Wanda()], ids=str)
def test_joint_results_of_a_diagonal_gram_are_those_of_its_matrix(method):
    weight = layer(24, 40)[0]
    power = np.random.default_rng(3).uniform(0.5, 20, 40).astype(np.float32)
    for how in (
        Quantized("int4", 8),
        Quantized("uint8"),
        Palette(group_size=4),
        Palette(table="normal_float"),
    ):
        short = solve(weight, power, NM(2, 4), storage=how, method=method)
        full = solve(weight, np.diag(power), NM(2, 4), storage=how, method=method)
        assert np.array_equal(short.keep, full.keep)
        assert full.error <= short.error * (1 + 1e-3)  # which begins roughly, and is settled
        assert np.mean(short.parts["codes"] == full.parts["codes"]) > 0.9
        assert not short.weight[~short.keep].any()


def test_a_long_diagonal_gram_builds_no_matrix():
    weight = np.random.default_rng(0).standard_normal((8, 50_000), np.float32)
    power = np.arange(50_000, dtype=np.float32)  # 10 GB as a matrix
    for method in METHODS:
        solution = solve(weight, power, Percentile(0.5), method=method)
        assert np.count_nonzero(solution.keep) * 2 == weight.size
    found = solve(weight, power, Percentile(0.5), storage=Quantized(), method=SparseGPT())
    assert 0 < found.error - solution.error < 1e-2


@pytest.mark.slow_but_every(3)
@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_the_error_before_is_what_magnitude_gives(method, mode):
    weight, inputs = layer(32, 48)
    gram = accumulate(None, inputs)
    wanted = solve(weight, gram, mode, method=Magnitude())
    assert wanted.error_before is None
    found = solve(weight, gram, mode, method=method, error_before=True)
    assert found.error_before == wanted.error
    joint = solve(weight, gram, mode, storage=Quantized(), method=method, error_before=True)
    table = solve(weight, gram, mode, storage=Palette(), method=method, error_before=True)
    assert joint.error_before == table.error_before == wanted.error


def test_a_dead_layer_has_no_error_before():
    weight = layer(16, 32)[0]
    found = solve(weight, np.zeros(32), NM(2, 4), method=SparseGPT(), error_before=True)
    assert found.error == found.error_before == 0


@pytest.mark.parametrize("columns", [5, 300])
@pytest.mark.parametrize("groups", [1, 3])
def test_a_sum_does_not_depend_on_its_portions(columns, groups):
    inputs = layer(1, groups * columns, samples=1400)[1]
    inputs = inputs.reshape(1400, groups, columns).swapaxes(0, 1)
    whole = accumulate(None, inputs)
    wanted = np.matmul(inputs.swapaxes(1, 2).astype(np.float64), inputs)
    assert np.allclose(whole, wanted, rtol=1e-4, atol=1e-4 * wanted.max())
    assert whole.tobytes() == np.ascontiguousarray(whole.swapaxes(1, 2)).tobytes()
    for step in (100, 512, 700, 1399):
        total = GramSum()
        for start in range(0, 1400, step):
            portion = inputs[:, start : start + step].copy()
            total.add(portion)
            portion[:] = 7  # the caller may use its memory again
        assert total.total().tobytes() == whole.tobytes()
        assert total.total().tobytes() == whole.tobytes()


def test_a_sum_of_nothing_is_an_error():
    with pytest.raises(CalibrationError, match="sample_data: no inputs came in for a layer"):
        GramSum().total()


def test_the_gram_of_faint_inputs_keeps_its_digits():
    rows = np.random.default_rng(0).standard_normal((40, 12)).astype(np.float32)
    total = GramSum()
    total.add(rows * np.float32(1e-20))
    exact = rows.astype(np.float64)
    np.testing.assert_allclose(total.total()[0] / 1e-40, exact.T @ exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("storage", [None, Quantized("int4")], ids=str)
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_a_solution_says_what_ran_and_why(method, storage):
    weight, inputs = layer(8, 16)
    dead, power = np.zeros((16, 16), np.float32), np.square(inputs).sum(axis=0)
    found, none, apart = (
        solve(weight, gram, NM(2, 4), method=method, storage=storage)
        for gram in (accumulate(None, inputs), dead, power)
    )
    assert (found.method, found.reason) == (str(method), None)
    assert none.method == "magnitude"
    why = f"not {method}: no sample gives it an input"
    assert none.reason == (None if method == Magnitude() else why)
    # What ran gives the same when it is asked for.
    same_mask = solve(weight, dead, NM(2, 4), method=Magnitude(), storage=storage)
    assert none.weight.tobytes() == same_mask.weight.tobytes()
    scoring = isinstance(method, Magnitude | Wanda)
    plain = type(method).__name__.lower()
    assert apart.method == (plain if scoring else "wanda over the whole weight")
    why = f"not {method}: its inputs do not correlate"
    assert apart.reason == (None if str(method) == plain and scoring else why)
