"""What holds for every method under every mode."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mlpass.errors import CalibrationError, ConfigError, NotApplicable
from mlpass.solvers.admm import ADMM
from mlpass.solvers.factored import factor
from mlpass.solvers.gram import Gram, output_power
from mlpass.solvers.problem import Method
from mlpass.solvers.refit import refit
from mlpass.solvers.solve import make_problem, solve
from mlpass.solvers.sparsegpt import SparseGPT, sweep
from mlpass.solvers.wanda import Magnitude, Wanda
from mlpass.sparsity.layout import matrix_layout
from mlpass.sparsity.modes import NM, Block, Channel, Kernel, Percentile, Threshold
from mlpass.weights.ops.convolutions import conv_layout

from .layers import GROUPED, LAYOUTS, METHODS, MODES, exact_error, fits, layer, stored

CASES = [(mode, layout) for mode in MODES for layout in LAYOUTS if fits(mode, layout)]
# A threshold leaves each method another number of zeros, so errors do not compare.
GROUPED_CASES = [
    (mode, layout)
    for mode in MODES
    for layout in LAYOUTS + GROUPED
    if fits(mode, layout) and not isinstance(mode, Threshold)
]


def name_of(value):
    return str(value.shape) if hasattr(value, "split_shape") else str(value)


def zeros_wanted(mode, layout):
    """Returns how many zeros a mode makes, by arithmetic of its own; None: any number."""
    groups, rows, channels, positions = layout.sizes
    size = groups * rows * channels * positions
    if isinstance(mode, Percentile):
        return math.floor(mode.target_sparsity * size)
    if isinstance(mode, NM):
        length = channels if mode.dim == 1 else groups * rows
        whole, tail = divmod(length, mode.m)
        return size // length * (whole * mode.n + tail * mode.n // mode.m)
    if isinstance(mode, Kernel):
        return math.floor(mode.target_sparsity * groups * rows * channels) * positions
    if isinstance(mode, Channel):
        return math.floor(mode.target_sparsity * groups * rows) * channels * positions
    return None


@pytest.mark.parametrize("method", METHODS, ids=str)
@pytest.mark.parametrize(("mode", "layout"), CASES, ids=name_of)
def test_every_method_obeys_every_mode(mode, layout, method):
    weight, gram = stored(layout)
    before = weight.copy()
    solution = solve(weight, gram, mode, method=method, layout=layout)
    assert np.array_equal(weight, before)
    assert solution.weight.shape == solution.keep.shape == weight.shape
    assert solution.weight.dtype == weight.dtype
    assert np.isfinite(solution.weight).all()
    assert not solution.weight[~solution.keep].any()
    wanted = zeros_wanted(mode, layout)
    if wanted is not None:
        assert np.count_nonzero(~solution.keep) == wanted
    # The mask is one that the mode itself would make: of a score that is the mask.
    if not isinstance(mode, Threshold):
        again = mode.keep(solution.keep.astype(np.float32), layout)
        assert np.array_equal(again, solution.keep)
    error = exact_error(weight, solution.weight, gram, layout)
    assert solution.error == pytest.approx(error, rel=1e-3, abs=1e-7)


@pytest.mark.slow_but_every(3)
@pytest.mark.parametrize("layout", LAYOUTS + GROUPED, ids=name_of)
@pytest.mark.parametrize("share", [0.25, 0.5, 0.73])
@pytest.mark.parametrize("method", [SparseGPT(block_size=7), *METHODS], ids=str)
def test_each_row_loses_its_own_share(method, share, layout):
    weight, gram = stored(layout)
    keep = solve(weight, gram, Percentile(share, "row"), method=method, layout=layout).keep
    groups, rows, channels, positions = layout.sizes
    zeros = (~layout.split(keep)).reshape(groups * rows, channels * positions).sum(axis=1)
    exact = share * channels * positions
    assert set(zeros.tolist()) <= {math.floor(exact), math.ceil(exact)}
    assert zeros.sum() == math.floor(exact * groups * rows)


@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_blocks_stay_whole(method, dim):
    layout = conv_layout((24, 12, 3), 1)
    weight, gram = stored(layout)
    keep = solve(weight, gram, Block(0.5, 4, dim), method=method, layout=layout).keep
    blocks = np.moveaxis(keep, dim, -1).reshape(-1, 4).sum(axis=1)
    assert set(blocks.tolist()) == {0, 4}
    assert np.count_nonzero(blocks == 0) == len(blocks) // 2


@pytest.mark.parametrize("mode", [NM(2, 4), NM(1, 3), NM(3, 8)], ids=str)
def test_nm_of_a_convolution_runs_along_channels_at_one_position(mode):
    layout = conv_layout((16, 24, 3, 3), 1)
    weight, gram = stored(layout)
    for method in METHODS:
        keep = solve(weight, gram, mode, method=method, layout=layout).keep
        groups = np.moveaxis(keep, 1, -1).reshape(-1, mode.m)
        assert np.all((~groups).sum(axis=1) == mode.n)


@pytest.mark.parametrize("method", [Magnitude(), Wanda()], ids=str)
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_methods_that_only_score_leave_what_is_kept(method, dtype):
    layout = LAYOUTS[1]
    weight, gram = stored(layout)
    weight = weight.astype(dtype)
    solution = solve(weight, gram, Percentile(0.5), method=method, layout=layout)
    kept = solution.keep
    assert solution.weight[kept].tobytes() == weight[kept].tobytes()


def test_magnitude_is_the_mode_on_the_magnitudes():
    weight, gram = stored(LAYOUTS[0])
    keep = solve(weight, gram, NM(2, 4), method=Magnitude()).keep
    assert np.array_equal(keep, NM(2, 4).keep(np.abs(weight), LAYOUTS[0]))


def test_wanda_ranks_each_row_by_itself_with_input_norms():
    weight, inputs = layer(30, 40)
    inputs[:, ::3] *= 5
    solution = solve(weight, inputs.T @ inputs, Percentile(0.5), method=Wanda())
    score = np.abs(weight) * np.linalg.norm(inputs, axis=0)
    wanted = np.sort(score, axis=1)[:, 20:]
    for row, kept, values in zip(score, solution.keep, wanted, strict=True):
        assert np.allclose(np.sort(row[kept]), values)


def test_a_global_percentile_stays_one_under_wanda():
    mode = Percentile(0.5, scope="global")
    assert mode.per_row() is mode
    assert NM(2, 4).per_row() == NM(2, 4)


@pytest.mark.parametrize("mode", [Percentile(0.5), Percentile(0.7), NM(2, 4)], ids=str)
def test_sparsegpt_is_never_worse_than_magnitude_at_its_own_mask(mode):
    weight, inputs = layer(64, 96)
    gram = inputs.T @ inputs
    solution = solve(weight, gram, mode, method=SparseGPT())
    at_its_mask = exact_error(weight, weight * solution.keep, gram, matrix_layout(64, 96))
    assert solution.error < at_its_mask
    assert solution.error < solve(weight, gram, mode, method=Magnitude()).error


@pytest.mark.parametrize(("mode", "layout"), CASES, ids=name_of)
@pytest.mark.parametrize(
    "method", [Magnitude, Wanda, SparseGPT], ids=lambda method: method.__name__
)
def test_refit_never_raises_the_error(method, mode, layout):
    weight, gram = stored(layout)
    plain = solve(weight, gram, mode, method=method(), layout=layout)
    refitted = solve(weight, gram, mode, method=method(refit=True), layout=layout)
    assert np.array_equal(plain.keep, refitted.keep)
    assert refitted.error <= plain.error * (1 + 1e-5)


@pytest.mark.parametrize("decay", [0.2, 0.5, 1.0])
@pytest.mark.parametrize("mode", [Percentile(0.5), Percentile(0.7), NM(2, 4)], ids=str)
def test_admm_and_refit_beat_sparsegpt_by_what_they_are_for(mode, decay):
    weight, inputs = layer(256, 256, decay=decay)
    gram = inputs.T @ inputs
    base = solve(weight, gram, mode, method=SparseGPT()).error
    assert solve(weight, gram, mode, method=ADMM()).error < 0.6 * base
    assert solve(weight, gram, mode, method=SparseGPT(refit=True)).error < 0.8 * base


@pytest.mark.slow_but_every(3)
@pytest.mark.parametrize("samples", [0.5, 4])
@pytest.mark.parametrize("decay", [0.2, 3.0])
@pytest.mark.parametrize(("mode", "layout"), GROUPED_CASES, ids=name_of)
def test_admm_is_no_worse_than_sparsegpt_with_refit(mode, layout, decay, samples):
    weight, gram = stored(layout, samples=samples, decay=decay, loudness=2)
    base = solve(weight, gram, mode, method=SparseGPT(refit=True), layout=layout)
    found = solve(weight, gram, mode, method=ADMM(), layout=layout)
    if not isinstance(mode, Block):  # its last block may be smaller
        assert np.count_nonzero(found.keep) == np.count_nonzero(base.keep)
    base_error, error = (exact_error(weight, each.weight, gram, layout) for each in (base, found))
    assert error <= base_error * 1.001 + 1e-9


@pytest.mark.slow_but_every(2)
@pytest.mark.parametrize("loudness", [0, 1, 3])
@pytest.mark.parametrize("mode", [Percentile(0.4), Percentile(0.7)], ids=str)
@pytest.mark.parametrize("layout", GROUPED[:3], ids=name_of)
def test_admm_is_better_than_sparsegpt_however_loud_groups_are(layout, mode, loudness):
    weight, gram = stored(layout, decay=1.0, loudness=loudness)
    base = solve(weight, gram, mode, method=SparseGPT(refit=True), layout=layout).error
    assert solve(weight, gram, mode, method=ADMM(), layout=layout).error < 0.97 * base


def test_a_refit_of_groups_is_that_of_each_by_itself():
    layout = conv_layout((24, 14, 3), 2)
    weight, gram = stored(layout, loudness=3)
    problem = make_problem(weight, gram, Percentile(0.5), layout)
    keep = np.random.default_rng(0).random(problem.weight.shape) < 0.5
    together = refit(problem, keep, problem.weight * keep, dampening=0.1)
    for group in range(2):
        one = make_problem(problem.weight[group], gram[group], Percentile(0.5), None)
        alone = refit(one, keep[group][None], one.weight * keep[group], dampening=0.1)
        np.testing.assert_allclose(together[group], alone[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_two_runs_give_the_same_bytes(method):
    weight, gram = stored(LAYOUTS[1])
    first, second = (
        solve(weight, gram, Percentile(0.5), method=method, layout=LAYOUTS[1]) for _ in range(2)
    )
    assert first.weight.tobytes() == second.weight.tobytes()
    assert first.keep.tobytes() == second.keep.tobytes()
    assert (first.error, first.dampening) == (second.error, second.dampening)


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_nothing_to_prune_changes_nothing(method):
    weight, gram = stored(LAYOUTS[0])
    solution = solve(weight, gram, Percentile(0.0), method=method)
    assert solution.keep.all()
    assert np.allclose(solution.weight, weight, atol=2e-5)
    assert solution.error == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_everything_pruned_is_all_zero(method):
    weight, gram = stored(LAYOUTS[0])
    solution = solve(weight, gram, Percentile(1.0), method=method)
    assert not solution.weight.any() and not solution.keep.any()
    assert solution.error == pytest.approx(1, rel=1e-4)


@pytest.mark.parametrize(
    "layout", [conv_layout((32, 1, 3, 3), 32), conv_layout((8, 1, 1), 8)], ids=name_of
)
@pytest.mark.parametrize("mode", [Percentile(0.5), NM(2, 4, dim=0), Channel(0.5)], ids=str)
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_depthwise_convolutions_rank_over_all_their_groups(method, mode, layout):
    weight, gram = stored(layout)
    solution = solve(weight, gram, mode, method=method, layout=layout)
    assert np.count_nonzero(solution.keep) * 2 == weight.size
    assert solution.error == pytest.approx(
        exact_error(weight, solution.weight, gram, layout), rel=1e-3, abs=1e-7
    )


@pytest.mark.parametrize(
    "mode", [NM(2, 4), Block(0.5, 4, 1), Kernel(0.5), NM(2, 4, 0), Block(0.5, 64)], ids=str
)
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_modes_that_do_not_fit_say_so(method, mode):
    with pytest.raises(NotApplicable):
        solve(np.ones((3, 3), np.float32), np.eye(3, dtype=np.float32), mode, method=method)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: SparseGPT(dampening=-1), r"dampening: must be a number in \[0, 1\]. Got -1"),
        (lambda: SparseGPT(dampening="a"), r"dampening: must be a number in \[0, 1\]. Got 'a'"),
        (lambda: SparseGPT(block_size=0), r"block_size: must be an int of 1 or more. Got 0"),
        (lambda: ADMM(iterations=0), r"iterations: must be an int in \[1, 10000\]. Got 0"),
        (lambda: ADMM(finish=-1), r"finish: must be an int in \[0, 10000\]. Got -1"),
        (
            lambda: ADMM(iterations=1 << 63),
            r"iterations: must be an int in .*. Got 9223372036854775808",
        ),
        (lambda: ADMM(finish=10**400), r"finish: must be an int in .*. Got 1000.*\.\.\."),
        (lambda: ADMM(penalty=0), r"penalty: must be a number above 0. Got 0"),
        (lambda: ADMM(dampening=2), r"dampening: must be a number in \[0, 1\]. Got 2"),
    ],
)
def test_wrong_options_say_which_and_why(make, text):
    with pytest.raises(ConfigError, match=text):
        make()


@pytest.mark.parametrize(
    ("weight", "gram", "layout", "text"),
    [
        (np.ones((2, 3, 1)), np.eye(3), None, r"weight: must be \(rows, columns\)"),
        (
            np.ones((2, 3)),
            np.eye(3),
            matrix_layout(3, 2),
            r"has shape \(2, 3\), its layout \(3, 2\)",
        ),
        (np.ones((2, 3)), np.eye(2), None, r"gram: must be \(1, 3, 3\) for this weight"),
        (np.full((2, 3), np.nan), np.eye(3), None, "weight: holds NaN or inf"),
        (np.ones((2, 3)), np.full((3, 3), np.inf), None, "gram: holds NaN or inf"),
        (np.ones((2, 3)), -np.eye(3), None, "gram: has a negative diagonal"),
    ],
)
def test_what_cannot_be_solved_says_why(weight, gram, layout, text):
    with pytest.raises(CalibrationError, match=text):
        solve(weight, gram, Percentile(0.5), method=SparseGPT(), layout=layout)


@pytest.mark.parametrize("method", [SparseGPT(), ADMM()], ids=str)
def test_a_gram_that_is_none_is_an_error(method):
    gram = np.array([[1, 50], [50, 1]], np.float32)
    with pytest.raises(CalibrationError, match="is not positive semidefinite"):
        solve(np.ones((4, 2), np.float32), gram, Percentile(0.5), method=method)


def test_a_method_is_no_solver_by_itself():
    with pytest.raises(NotImplementedError):
        Method().prune(make_problem(np.ones((2, 2)), np.eye(2), Percentile(0.5), None))


def test_output_power_is_the_square_sum_of_the_outputs():
    weight, inputs = layer(20, 30)
    gram = inputs.T @ inputs
    scale = np.mean(np.diagonal(gram))
    assert output_power(weight[None], Gram(gram)) * scale == pytest.approx(
        np.sum((inputs @ weight.T) ** 2), rel=1e-4
    )


def test_a_weight_that_fp16_cannot_hold_ends_at_its_limit():
    weight = np.full((4, 2), 60000, np.float16)  # the kept one of two equal inputs doubles
    gram = np.ones((2, 2), np.float32)
    solution = solve(weight, gram, NM(1, 2), method=SparseGPT())
    assert solution.weight.max() == np.finfo(np.float16).max
    wanted = exact_error(weight, solution.weight, gram, matrix_layout(4, 2))
    assert solution.error == pytest.approx(wanted, rel=1e-3)
    double = solve(weight.astype(np.float32), gram, NM(1, 2), method=SparseGPT())
    assert double.weight.max() == pytest.approx(120000, rel=0.05)


def test_refit_with_many_steps_is_least_squares():
    weight, inputs = layer(8, 24)
    problem = make_problem(weight, inputs.T @ inputs, Percentile(0.5), None)
    keep = np.random.default_rng(0).random((1, 8, 24)) < 0.5
    found = refit(problem, keep, weight[None] * keep, iterations=60)[0]
    for row, kept, values in zip(weight, keep[0], found, strict=True):
        wanted = np.linalg.lstsq(inputs[:, kept], inputs @ row, rcond=None)[0]
        assert np.allclose(values[kept], wanted, atol=2e-4)
        assert not values[~kept].any()


def test_a_sweep_with_a_known_mask_keeps_it():
    weight, inputs = layer(16, 40)
    problem = make_problem(weight, inputs.T @ inputs, NM(2, 4), None)
    windows = problem.mode.windows(problem.layout, 16)
    keep = np.random.default_rng(1).random((1, 16, 40)) < 0.5
    _, mask, power = sweep(problem.weight, factor(problem, windows, 0.01), windows, 16, fixed=keep)
    assert np.array_equal(mask, keep)
    assert power > 0
