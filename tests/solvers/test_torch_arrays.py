"""Solvers on torch tensors: numpy's results, where the tensors are.

Tensors in the host's memory are read as numpy's arrays, so torch's form of everything runs on other
devices alone. `apart` has it run on the processor, `device` on one that is not there.
"""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from mlpass import arrays
from mlpass.arrays import inner
from mlpass.errors import CalibrationError, NotApplicable
from mlpass.solvers.admm import ADMM
from mlpass.solvers.allocate import error_curve, outlier_share
from mlpass.solvers.gram import Gram, GramSum, accumulate, output_power
from mlpass.solvers.problem import Method
from mlpass.solvers.solve import solve
from mlpass.solvers.sparsegpt import SparseGPT
from mlpass.solvers.wanda import Magnitude, Wanda
from mlpass.sparsity.layout import matrix_layout
from mlpass.sparsity.modes import NM, Block, Channel, Kernel, Percentile, Threshold
from mlpass.storage.palette import Palette
from mlpass.storage.quantized import Quantized
from mlpass.weights.ops.convolutions import conv_layout

from .layers import LAYOUTS, METHODS, MODES, exact_error, fits, layer, stored
from .test_gram import KINDS, degenerate

torch = pytest.importorskip("torch")
from tests import pretended  # noqa: E402 - imports torch

from .test_peer import peer_weight  # noqa: E402 - imports torch

DEPTHWISE = conv_layout((32, 1, 3, 3), 32)
CASES = [(mode, at) for mode in MODES for at in [*LAYOUTS, DEPTHWISE] if fits(mode, at)]
SCORING = (Magnitude(), Wanda())


def name_of(value):
    return str(value.shape) if hasattr(value, "split_shape") else str(value)


def solved(weight, gram, mode, method, layout, as_tensor):
    """Returns numpy's solution and torch's; for each its refusal where it has no solution."""
    found = []
    for make in (np.asarray, as_tensor):
        try:
            found.append(
                solve(
                    make(weight), make(gram), mode, method=method, layout=layout, error_before=True
                )
            )
        except NotApplicable as reason:
            found.append(str(reason))
    return found


def check_equal(ours, theirs, method):
    """Asserts that torch's solution is numpy's, up to rounding."""
    if isinstance(ours, str) or isinstance(theirs, str):
        assert ours == theirs
        return
    keep, weight = theirs.keep.cpu().numpy(), theirs.weight.cpu().numpy()
    alike = np.count_nonzero(keep != ours.keep) <= 1e-3 * keep.size
    # A search may end at another mask that is as good, where the last bits on its way are others.
    assert alike or isinstance(method, ADMM)
    assert theirs.error == pytest.approx(ours.error, rel=0.01 if alike else 0.03, abs=1e-7)
    assert theirs.error_before == pytest.approx(ours.error_before, rel=1e-3, abs=1e-7)
    assert theirs.dampening == ours.dampening
    assert weight.dtype == ours.weight.dtype and weight.shape == ours.weight.shape
    assert not weight[~keep].any()
    if method in SCORING:
        assert np.array_equal(keep, ours.keep)
        assert weight.tobytes() == ours.weight.tobytes()


@pytest.mark.slow_but_every(5)
@pytest.mark.parametrize(("mode", "layout"), CASES, ids=name_of)
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_every_method_and_mode_comes_out_as_numpys(apart, method, mode, layout):
    weight, gram = stored(layout)
    ours, theirs = solved(weight, gram, mode, method, layout, torch.from_numpy)
    assert isinstance(theirs, str) or torch.is_tensor(theirs.weight)
    check_equal(ours, theirs, method)


@pytest.mark.slow_but_every(36)
@pytest.mark.parametrize(("mode", "layout"), CASES, ids=name_of)
def test_on_a_device_nothing_meets_a_tensor_of_the_processor(device, mode, layout):
    weight, gram = stored(layout)
    for method in (METHODS[1], METHODS[2], METHODS[5], METHODS[6]):
        ours, theirs = solved(weight, gram, mode, method, layout, pretended.far)
        assert isinstance(theirs, str) or theirs.weight.device.type == pretended.NAME
        check_equal(ours, theirs, method)


def test_the_pretended_device_refuses(device):
    there, here = pretended.far(np.ones(3, np.float32)), torch.ones(3)
    with pytest.raises(AssertionError, match="mul: one is on the processor"):
        there * here
    with pytest.raises(AssertionError, match="there is no fp64"):
        there.double()
    with pytest.raises((RuntimeError, TypeError)):
        there.numpy()
    assert not device.fetched
    assert np.array_equal(there.cpu().numpy(), here) and device.fetched == [(3,)]


@pytest.mark.parametrize(
    "mode",
    [
        Percentile(0.0),
        Percentile(1.0),
        Percentile(0.33, "row"),
        Percentile(1.0, "row"),
        NM(0, 3),
        NM(4, 4),
        NM(3, 4),
        NM(5, 7, 0),
        Block(0.5, 4, 1),
        Block(1.0, 3),
        Kernel(0.3),
        Channel(0.6),
        Threshold(0.5, 0.0),
        Threshold(0.5, 0.9),
        Threshold(float("inf")),
    ],
    ids=str,
)
@pytest.mark.parametrize("layout", [*LAYOUTS, DEPTHWISE], ids=name_of)
@pytest.mark.parametrize("values", ["all different", "many equal", "all zero"])
def test_masks_are_numpys_to_the_last_tie(apart, values, layout, mode):
    weight = stored(layout)[0]
    weight = {"all different": weight, "many equal": np.round(weight * 8) / 8}.get(
        values, weight * 0
    )
    gram = np.ones(layout.sizes[2] * layout.sizes[3], np.float32)
    if layout.sizes[0] > 1:
        gram = np.broadcast_to(np.diag(gram), (layout.sizes[0], gram.size, gram.size)).copy()
    ours, theirs = solved(weight, gram, mode, Magnitude(), layout, torch.from_numpy)
    if isinstance(ours, str):
        assert ours == theirs
    else:
        assert np.array_equal(ours.keep, theirs.keep.numpy())


@pytest.mark.parametrize("scale", [1e-30, 1e30])
@pytest.mark.parametrize("mode", [Block(0.5, 4), Kernel(0.5), Channel(0.5)], ids=str)
def test_norms_neither_overflow_nor_vanish_without_fp64(device, mode, scale):
    weight = stored(LAYOUTS[1])[0] * np.float32(scale)
    gram = np.ones(14 * 9, np.float32)
    ours, theirs = solved(weight, gram, mode, Magnitude(), LAYOUTS[1], pretended.far)
    assert np.array_equal(ours.keep, theirs.keep.cpu().numpy())


@pytest.mark.parametrize("mode", [Percentile(0.5), Percentile(0.7), NM(2, 4), NM(1, 4)], ids=str)
@pytest.mark.parametrize(("rows", "columns"), [(96, 256), (256, 200)])
def test_a_linear_layer_comes_out_as_coremltools_has_it(apart, rows, columns, mode):
    weight, inputs = layer(rows, columns)
    linear = torch.nn.Linear(columns, rows, bias=False)
    linear.weight.data = torch.from_numpy(weight.copy())
    theirs = peer_weight(linear, torch.from_numpy(inputs), mode, 0.01)
    gram = accumulate(None, torch.from_numpy(inputs))
    ours = solve(torch.from_numpy(weight), gram, mode, method=SparseGPT())
    # coremltools zeroes one element more in each block of 128 columns.
    off_by_one = 0 if isinstance(mode, NM) else -(-columns // 128)
    differing = np.count_nonzero(ours.keep.numpy() != (theirs != 0)) - off_by_one
    assert differing <= 1e-3 * weight.size
    wanted = exact_error(weight, theirs, gram.numpy(), matrix_layout(rows, columns))
    assert ours.error <= 1.01 * wanted


@pytest.mark.slow_but_every(5)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", [Percentile(0.5), NM(2, 4), Channel(0.5)], ids=str)
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_degenerate_samples_come_out_as_numpys(apart, kind, mode, method):
    weight, inputs = layer(16, 32)[0], degenerate(kind, 32)
    total = GramSum()
    total.add(torch.from_numpy(inputs))
    ours = solve(weight, accumulate(None, inputs), mode, method=method)
    theirs = solve(torch.from_numpy(weight), total.total(), mode, method=method)
    found = theirs.weight.numpy()
    assert np.isfinite(found).all()
    assert np.count_nonzero(theirs.keep) == np.count_nonzero(ours.keep)
    # What rounding decides, among columns of which one is the other's copy, costs nothing.
    assert theirs.error == pytest.approx(ours.error, rel=0.25, abs=1e-4)
    if kind in ("dead", "one live column", "dead columns", "loud column"):
        assert np.mean(theirs.keep.numpy() != ours.keep) <= 0.01
        assert theirs.error == pytest.approx(ours.error, rel=0.05, abs=1e-6)


@pytest.mark.parametrize("method", [SparseGPT(), ADMM()], ids=str)
def test_what_fp32_cannot_factor_is_raised_or_refused_as_numpys(device, method):
    weight = layer(8, 200)[0]
    constant = pretended.far(np.ones((200, 200), np.float32))
    found = solve(pretended.far(weight), constant, Percentile(0.5), method=SparseGPT(0.0))
    wanted = solve(weight, np.ones((200, 200), np.float32), Percentile(0.5), method=SparseGPT(0.0))
    assert found.dampening == wanted.dampening > 0
    none = pretended.far(np.array([[1, 50], [50, 1]], np.float32))
    with pytest.raises(CalibrationError, match="is not positive semidefinite"):
        solve(np.ones((4, 2), np.float32), none, Percentile(0.5), method=method)


@pytest.mark.parametrize("method", [SparseGPT(), ADMM()], ids=str)
def test_factors_that_a_device_has_not_are_made_on_the_processor(monkeypatch, method):
    weight, inputs = layer(48, 70)
    gram = accumulate(None, inputs)
    wanted = solve(weight, gram, NM(2, 4), method=method)
    missing = ("linalg_cholesky_ex", "linalg_solve_triangular")
    monkeypatch.setattr(arrays, "_SINGLE", frozenset({pretended.NAME}))
    with pretended.Pretending(missing):
        found = solve(weight, pretended.far(gram), NM(2, 4), method=method)
    assert np.array_equal(found.keep, wanted.keep)


def test_what_cannot_be_solved_says_why(apart):
    weight, eye = torch.ones(2, 3), torch.eye(3)
    for given, gram, text in (
        (weight[..., None], eye, r"weight: must be \(rows, columns\) .* Got shape \(2, 3, 1\)"),
        (weight, torch.eye(2), r"gram: must be \(1, 3, 3\) for this weight. Got \(1, 2, 2\)"),
        (weight, torch.ones(2, 3), r"gram: must be \(columns, columns\).* Got shape \(2, 3\)"),
        (weight * np.nan, eye, "weight: holds NaN or inf"),
        (weight, eye * np.inf, "gram: holds NaN or inf"),
        (weight, -eye, "gram: has a negative diagonal"),
    ):
        with pytest.raises(CalibrationError, match=text):
            solve(given, gram, Percentile(0.5), method=SparseGPT())
    total = GramSum(eye[None])
    with pytest.raises(CalibrationError, match=r"\(groups, columns\) \(1, 6\), before .*\(1, 3\)"):
        total.add(torch.ones(2, 6))
    with pytest.raises(NotApplicable, match=r"its input channels \(3\) are fewer than m \(4\)"):
        solve(weight, eye, NM(2, 4), method=Magnitude())


@pytest.mark.parametrize("dead", [False, True])
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_a_diagonal_gram_is_numpys(apart, method, dead):
    weight = layer(24, 40)[0]
    power = np.random.default_rng(3).uniform(0.5, 20, 40).astype(np.float32) * (not dead)
    ours, theirs = solved(weight, power, NM(2, 4), method, None, torch.from_numpy)
    check_equal(ours, theirs, method)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shared", [False, True])
def test_a_weight_comes_back_in_its_own_dtype(monkeypatch, dtype, shared):
    if not shared:
        monkeypatch.setattr(arrays, "_SHARED", frozenset())
    weight, inputs = layer(16, 24)
    gram = torch.from_numpy(accumulate(None, inputs))
    given = torch.from_numpy(weight).to(dtype)
    found = solve(given, gram, Percentile(0.5), method=SparseGPT())
    assert found.weight.dtype == dtype and found.keep.dtype == torch.bool
    wanted = solve(given.float().numpy(), gram.numpy(), Percentile(0.5), method=SparseGPT())
    assert np.allclose(found.weight.float(), wanted.weight, atol=1e-2)


def test_a_weight_that_fp16_cannot_hold_ends_at_its_limit(apart):
    weight = torch.full((4, 2), 60000, dtype=torch.float16)
    solution = solve(weight, torch.ones(2, 2), NM(1, 2), method=SparseGPT())
    assert float(solution.weight.max()) == torch.finfo(torch.float16).max


def test_arrays_of_two_kinds_meet_where_the_gram_is(device):
    weight, inputs = layer(16, 24)
    gram = accumulate(None, inputs)
    wanted = solve(weight, gram, NM(2, 4), method=Wanda())
    here = solve(weight, pretended.far(gram), NM(2, 4), method=Wanda())
    there = solve(pretended.far(weight), gram, NM(2, 4), method=Wanda())
    wide = solve(weight.astype(np.float64), pretended.far(gram), NM(2, 4), method=Wanda())
    assert isinstance(here.weight, np.ndarray) and isinstance(here.keep, np.ndarray)
    assert there.weight.device.type == there.keep.device.type == pretended.NAME
    assert wide.weight.dtype == np.float64
    for found in (here.keep, there.keep.cpu().numpy(), wide.keep):
        assert np.array_equal(found, wanted.keep)


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_tensors_in_the_hosts_memory_are_read_as_numpys(method):
    weight, inputs = layer(24, 32)
    rows = torch.from_numpy(inputs)
    gram = accumulate(None, rows)
    assert torch.is_tensor(gram)
    assert gram.numpy().tobytes() == accumulate(None, inputs).tobytes()
    ours, theirs = solved(weight, gram, NM(2, 4), method, None, torch.as_tensor)
    assert torch.is_tensor(theirs.weight) and torch.is_tensor(theirs.keep)
    assert theirs.weight.numpy().tobytes() == ours.weight.tobytes()
    assert (theirs.error, theirs.error_before) == (ours.error, ours.error_before)


@pytest.mark.parametrize("method", [SparseGPT(), ADMM()], ids=str)
def test_joint_results_are_numpys_and_come_back_as_tensors(device, method):
    weight, inputs = layer(24, 40)
    gram = accumulate(None, inputs)
    shared = Gram(pretended.far(gram))
    for how in (
        Quantized("int4", 8),
        Quantized("uint8"),
        Palette(group_size=4),
    ):
        ours = solve(weight, gram, NM(2, 4), storage=how, method=method)
        theirs = solve(pretended.far(weight), shared, NM(2, 4), storage=how, method=method)
        assert theirs.parts["codes"].device.type == theirs.weight.device.type == pretended.NAME
        assert np.mean(theirs.parts["codes"].cpu().numpy() != ours.parts["codes"]) < 0.01
        assert theirs.error == pytest.approx(ours.error, rel=0.01)
    assert device.fetched.count((1, 40, 40)) == 1  # the Gram, once for all


class Squares(Method):
    """A method that knows numpy alone."""

    def prune(self, problem):
        assert isinstance(problem.weight, np.ndarray)
        return Wanda().prune(problem)


class Odd(Percentile):
    """A mode that knows numpy alone."""

    def keep(self, score, layout=None):
        assert isinstance(score, np.ndarray)
        return super().keep(score, layout)


def test_methods_and_modes_of_others_are_given_numpys_arrays(device):
    weight, inputs = layer(16, 24)
    gram = accumulate(None, inputs)
    for mode, method in ((NM(2, 4), Squares()), (Odd(0.5), SparseGPT())):
        wanted = solve(weight, gram, mode, method=method)
        found = solve(pretended.far(weight), pretended.far(gram), mode, method=method)
        assert np.array_equal(found.keep.cpu().numpy(), wanted.keep)


def test_curves_and_outliers_are_numpys(device):
    weight, inputs = layer(16, 24)
    gram = accumulate(None, inputs)
    far = pretended.far(gram)
    options = {"sparsities": [0.0, 0.5, 0.8], "method": SparseGPT()}
    ours, theirs = (error_curve(weight, each, **options) for each in (gram, far))
    assert theirs.size == ours.size
    assert np.allclose(theirs.errors, ours.errors, rtol=0.01)
    assert outlier_share(weight, far, 2) == outlier_share(weight, gram, 2) > 0
    assert outlier_share(pretended.far(weight), far, 2) == outlier_share(weight, gram, 2)
    assert inner(gram[0], far[0]) == pytest.approx(inner(gram[0], gram[0]), rel=1e-5)
    power = output_power(pretended.far(weight)[None], Gram(far))
    assert power == pytest.approx(output_power(weight[None], Gram(gram)), rel=1e-5)


def test_solving_with_numpy_imports_no_torch():
    code = (
        "import sys, numpy as np, mlpass\n"
        "for method in (mlpass.Wanda(), mlpass.SparseGPT(), mlpass.ADMM()):\n"
        "    mlpass.solve(np.ones((4, 8)), np.eye(8), mlpass.NM(2, 4), method=method)\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ["cuda", "mps"])
@pytest.mark.parametrize("mode", [Percentile(0.5), NM(2, 4), Block(0.5, 4), Channel(0.5)], ids=str)
def test_on_a_device_that_is_there(name, mode):
    there = torch.cuda if name == "cuda" else torch.backends.mps
    if not there.is_available():
        pytest.skip(f"this machine has no {name} device")
    weight, inputs = layer(96, 256)
    for method in METHODS:
        total = GramSum()
        total.add(torch.from_numpy(inputs).to(name))
        ours = solve(weight, accumulate(None, inputs), mode, method=method)
        theirs = solve(torch.from_numpy(weight).to(name), total.total(), mode, method=method)
        assert theirs.weight.device.type == name
        assert np.mean(theirs.keep.cpu().numpy() != ours.keep) <= 1e-3
        assert theirs.error <= 1.01 * ours.error
