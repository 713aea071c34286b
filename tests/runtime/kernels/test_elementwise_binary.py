"""Ops on the elements of two tensors."""

import numpy as np
import pytest
from harness import Record, check, over, run

from mlpass.runtime.kernels import elementwise_binary as _  # noqa: F401  (registers its kernels)

pytestmark = pytest.mark.slow_but_every(3)

RNG = np.random.default_rng(0)
A = (RNG.standard_normal((2, 3, 4)) * 3).astype(np.float32)
B = (RNG.standard_normal((3, 1)) * 3).astype(np.float32)
SCALAR = np.asarray(0.75, np.float32)
M = np.asarray([[7, -7, 7, -7, 0, 6], [1, -1, 8, -8, 5, 2**31 - 1]], np.int32)
N = np.asarray([2, 2, -2, -2, 3, 3], np.int32)
YES = np.asarray([[True, False], [True, False]])
NO = np.asarray([True, True])

SAME = {
    "add": np.add,
    "equal": np.equal,
    "greater": np.greater,
    "greater_equal": np.greater_equal,
    "less": np.less,
    "less_equal": np.less_equal,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "mul": np.multiply,
    "not_equal": np.not_equal,
    "sub": np.subtract,
    "floor_div": np.floor_divide,
    "mod": np.mod,
}
LOGICAL = {
    "logical_and": np.logical_and,
    "logical_or": np.logical_or,
    "logical_xor": np.logical_xor,
}


def of(function):
    return lambda x, y: function(x, y)


RECORDS = [
    *(Record(op, {"x": A, "y": B}, of(f), opset=15) for op, f in SAME.items()),
    *(Record(op, {"x": B, "y": A}, of(f), name="swapped") for op, f in SAME.items()),
    *(Record(op, {"x": A, "y": SCALAR}, of(f), name="scalar") for op, f in SAME.items()),
    *(Record(op, {"x": SCALAR, "y": SCALAR}, of(f), name="scalars") for op, f in SAME.items()),
    *(Record(op, {"x": M[:, :5], "y": N[:5]}, of(f), name="int") for op, f in SAME.items()),
    *(Record(op, {"x": YES, "y": NO}, of(f)) for op, f in LOGICAL.items()),
    *(Record(op, {"x": YES, "y": YES.T}, of(f)) for op, f in LOGICAL.items()),
    Record("real_div", {"x": A, "y": B}, lambda x, y: x / y),
    Record(
        "real_div",
        {"x": M, "y": N},
        np.asarray([[3, -3, -3, 3, 0, 2], [0, 0, -4, 4, 1, 715827882]], np.int32),
        name="int",
    ),
    *(
        Record(op, {"x": M, "y": np.zeros((), np.int32)}, np.zeros_like(M), name="int by 0")
        for op in ("real_div", "floor_div", "mod")
    ),
    Record("pow", {"x": np.abs(A), "y": B}, lambda x, y: x.astype(float) ** y),
    *(
        Record("pow", {"x": np.abs(A), "y": np.asarray(y, np.float32)}, np.abs(A) ** float(y))
        for y in (-1, 0, 0.5, 1, 2, 3, 4)
    ),
    Record("pow", {"x": A, "y": np.asarray(3, np.float32)}, A**3, name="negative base"),
    Record(
        "pow",
        {
            "x": np.asarray([3, -3, -2, 1, -1, -1, 2, -2, 0], np.int32),
            "y": np.asarray([4, 3, 31, -5, -5, -4, -1, -3, 0], np.int32),
        },
        np.asarray([81, -27, -(2**31), 1, -1, 1, 0, 0, 1], np.int32),
        name="int",
    ),
    Record("select", {"cond": A > 0, "a": A, "b": B}, np.where(A > 0, A, B), opset=15),
    Record("select", {"cond": B > 0, "a": A, "b": SCALAR}, np.where(B > 0, A, SCALAR)),
    Record("select", {"cond": M > 0, "a": M, "b": N}, np.where(M > 0, M, N)),
    Record("select", {"cond": YES, "a": YES, "b": NO}, np.where(YES, YES, NO)),
    Record("select", {"cond": np.asarray(True), "a": A, "b": np.zeros_like(A)}, A),
]


@over(RECORDS)
def test_kernel(record, namespace):
    check(record, namespace)


@pytest.mark.parametrize("namespace", ["numpy", "torch"])
def test_maximum_and_minimum_pass_nan_on(namespace):
    x, y = np.asarray([np.nan, 1, np.nan], np.float32), np.asarray([1, np.nan, np.nan], np.float32)
    for op in ("maximum", "minimum"):
        assert np.isnan(run(op, {"x": x, "y": y}, namespace)).all()
