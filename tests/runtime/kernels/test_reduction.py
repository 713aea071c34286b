"""Reductions."""

import numpy as np
import pytest
import scipy.special
import torch
from array_api_compat import torch as torch_namespace
from harness import Record, check, over, run

from mlpass.runtime.kernels import reduction as _  # noqa: F401  (registers its kernels)
from mlpass.runtime.kernels.registry import find_kernel

pytestmark = pytest.mark.slow_but_every(3)

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 3, 4, 5)).astype(np.float32)
POSITIVE = np.abs(X) + np.float32(0.1)
COUNTS = RNG.integers(-4, 5, (2, 3, 4)).astype(np.int32)
COUNTS[COUNTS == 0] = 1
NATURAL = np.abs(COUNTS)
AXES = [None, [0], [-1], [1, 2], [2, 3], [-1, 0], [0, 1, 2, 3], [3, 1], []]

REDUCTIONS = {
    "reduce_l1_norm": lambda x, **how: np.abs(x).sum(**how),
    "reduce_l2_norm": lambda x, **how: np.sqrt(np.square(x).sum(**how)),
    "reduce_log_sum": lambda x, **how: np.log(x.sum(**how)),
    "reduce_log_sum_exp": lambda x, **how: scipy.special.logsumexp(x, **how),
    "reduce_max": lambda x, **how: x.max(**how),
    "reduce_mean": lambda x, **how: x.mean(**how),
    "reduce_min": lambda x, **how: x.min(**how),
    "reduce_prod": lambda x, **how: x.prod(**how),
    "reduce_sum": lambda x, **how: x.sum(**how),
    "reduce_sum_square": lambda x, **how: np.square(x).sum(**how),
}


def by_numpy(op, dtype):
    def reference(x, axes=None, keep_dims=False):
        if axes == []:
            x, axes, keep_dims = x[..., None], [x.ndim], False
        axis = None if axes is None else tuple(axes)
        result = REDUCTIONS[op](x.astype(np.float64), axis=axis, keepdims=keep_dims)
        return np.asarray(result).astype(dtype)  # integers are cut off

    return reference


RECORDS = [
    *(
        Record(
            op,
            {"x": POSITIVE if op == "reduce_log_sum" else X, "axes": axes, "keep_dims": keep},
            by_numpy(op, np.float64),
            name=f"{axes} {keep}",
            opset=15,
        )
        for op in REDUCTIONS
        for axes in AXES
        for keep in (False, True)
    ),
    *(Record(op, {"x": POSITIVE}, by_numpy(op, np.float64), name="default") for op in REDUCTIONS),
    *(
        Record(
            op,
            {"x": NATURAL if "log" in op else COUNTS, "axes": axes, "keep_dims": keep},
            by_numpy(op, np.int32),
            name=f"int {axes} {keep}",
        )
        for op in REDUCTIONS
        for axes, keep in ((None, False), ([1], True), ([-1, 0], False))
    ),
    *(
        Record(
            f"reduce_arg{which}",
            {"x": x, "axis": axis, "keep_dims": keep, **more},
            lambda x, axis, keep_dims, output_dtype="int32", which=which: np.asarray(
                getattr(np, f"arg{which}")(x, axis=axis, keepdims=keep_dims)
            ).astype(output_dtype),
            opset=opset,
            name=f"{axis} {keep} {more}",
        )
        for which in ("max", "min")
        for x in (X, COUNTS)
        for axis, keep, opset, more in (
            (-1, False, 15, {}),
            (1, True, 16, {}),
            (0, False, 17, {}),
            (-2, True, 18, {"output_dtype": "uint16"}),
            (2, False, 17, {"output_dtype": "int32"}),
        )
    ),
    Record("reduce_argmax", {"x": X}, X.argmax(-1), opset=15, name="default"),
    Record("reduce_argmin", {"x": X[0, 0, 0]}, X[0, 0, 0].argmin(), name="vector"),
    Record("reduce_argmax", {"x": np.asarray([1, 3, 3], np.float32)}, 1, name="tie"),
    Record(
        "reduce_log_sum_exp",
        {"x": np.asarray([[1000, 1000], [-1000, -1000], [-np.inf, 3]], np.float32), "axes": [1]},
        np.asarray([1000 + np.log(2), -1000 + np.log(2), 3]),
        name="stable",
    ),
    Record(
        "reduce_sum",
        {"x": np.asarray([2**31 - 1, 2], np.int32)},
        np.asarray(-(2**31) + 1, np.int32),
        name="wraps",
    ),
]


@over(RECORDS)
def test_kernel(record, namespace):
    check(record, namespace)


def test_integers_are_summed_exactly():
    x = np.asarray([2**30, 2**24 + 1, -3], np.int32)
    for namespace in ("numpy", "strict", "torch"):
        assert run("reduce_sum", {"x": x}, namespace) == 2**30 + 2**24 - 2


def test_log_sum_exp_of_nothing_but_minus_infinity():
    with np.errstate(divide="ignore"):
        result = run("reduce_log_sum_exp", {"x": np.full(3, -np.inf, np.float32)}, "numpy")
    assert result == -np.inf


@pytest.mark.parametrize("op", ["reduce_argmax", "reduce_argmin"])
def test_an_unknown_output_dtype_is_refused(op):
    with pytest.raises(ValueError, match=r"output_dtype: must be int32 or uint16\. Got 'int8'\."):
        run(op, {"x": X, "output_dtype": "int8"}, "numpy")


@pytest.mark.parametrize("op", [*REDUCTIONS])
def test_it_is_differentiable(op):
    x = torch.tensor(POSITIVE[0, :2, :2, :2], dtype=torch.float64, requires_grad=True)
    function = find_kernel(op, 18, "torch")
    for axes in (None, [1], [0, 2]):
        assert torch.autograd.gradcheck(lambda x, a=axes: function(torch_namespace, x=x, axes=a), x)
