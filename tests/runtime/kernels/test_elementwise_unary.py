"""Ops on each element of one tensor."""

import numpy as np
import pytest
import scipy.special
import torch
from array_api_compat import torch as torch_namespace
from harness import Record, check, over, run

from mlpass.runtime.kernels import elementwise_unary as _  # noqa: F401  (registers its kernels)
from mlpass.runtime.kernels.elementwise_unary import CHUNK
from mlpass.runtime.kernels.registry import find_kernel

pytestmark = pytest.mark.slow_but_every(3)

RNG = np.random.default_rng(0)
X = (RNG.standard_normal((2, 3, 5)) * 2).astype(np.float32)
SMALL = np.asarray([-0.9, -0.5, -0.0, 0.3, 0.95], np.float32)
POSITIVE = np.abs(X) + np.float32(0.01)
HALVES = np.asarray([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 2.500001, -1.2], np.float32)
COUNTS = np.asarray([[-7, -1, 0], [1, 2, 40000]], np.int32)
SCALAR = np.asarray(0.25, np.float32)
MANY = RNG.standard_normal(2 * CHUNK + 7).astype(np.float32) * 3


def of(function):
    """Returns `function` of x in double precision, whatever else the op is given."""
    return lambda x, **_more: np.asarray(function(x.astype(np.float64)))


FLOATS = [
    ("abs", np.abs, X),
    ("acos", np.arccos, SMALL),
    ("asin", np.arcsin, SMALL),
    ("atan", np.arctan, X),
    ("atanh", np.arctanh, SMALL),
    ("ceil", np.ceil, X),
    ("cos", np.cos, X),
    ("cosh", np.cosh, X),
    ("erf", scipy.special.erf, X),
    ("erf", scipy.special.erf, MANY),
    ("erf", scipy.special.erf, np.asarray([-np.inf, -30, -1e-6, 0, 1e-6, np.inf], np.float32)),
    ("exp", np.exp, X),
    ("exp2", np.exp2, X),
    ("floor", np.floor, X),
    ("round", np.round, HALVES),
    ("sign", np.sign, X),
    ("sign", np.sign, SMALL),
    ("sin", np.sin, X),
    ("sinh", np.sinh, X),
    ("sqrt", np.sqrt, POSITIVE),
    ("square", np.square, X),
    ("tan", np.tan, SMALL),
    ("tanh", np.tanh, X),
]

RECORDS = [
    *(Record(op, {"x": x}, of(function), opset=15) for op, function, x in FLOATS),
    *(Record(op, {"x": SCALAR}, of(function), name="scalar") for op, function, x in FLOATS),
    Record("abs", {"x": COUNTS}, np.abs(COUNTS)),
    Record("sign", {"x": COUNTS}, np.sign(COUNTS)),
    Record("square", {"x": COUNTS}, COUNTS * COUNTS),
    Record(
        "exp2",
        {"x": np.asarray([-3, -1, 0, 1, 30, 31, 40], np.int32)},
        np.asarray([0, 0, 1, 2, 2**30, 2**31 - 1, 2**31 - 1], np.int32),
    ),
    Record("clip", {"x": X, "alpha": -0.5, "beta": 1.5}, X.clip(-0.5, 1.5)),
    Record("threshold", {"x": X, "alpha": 0.3}, np.maximum(X, np.float32(0.3))),
    Record("threshold", {"x": COUNTS, "alpha": 2}, np.maximum(COUNTS, 2)),
    Record("inverse", {"x": POSITIVE}, of(lambda x: 1 / (x + 1e-4))),
    Record("inverse", {"x": X, "epsilon": 0.0}, of(lambda x: 1 / x)),
    Record("log", {"x": POSITIVE}, of(np.log)),
    Record("log", {"x": POSITIVE, "epsilon": 0.5}, of(lambda x: np.log(x + 0.5))),
    Record("log", {"x": np.zeros(2, np.float32)}, np.full(2, np.log(1.4e-45)), tolerance=1e-3),
    Record("rsqrt", {"x": POSITIVE}, of(lambda x: 1 / np.sqrt(x + 1e-12))),
    Record("rsqrt", {"x": POSITIVE, "epsilon": 0.1}, of(lambda x: 1 / np.sqrt(x + 0.1))),
    Record("rsqrt", {"x": np.zeros(1, np.float32)}, np.asarray([1e6])),
    Record("logical_not", {"x": COUNTS > 0}, COUNTS <= 0),
    Record("cast", {"x": X, "dtype": "int32"}, X.astype(np.int32)),
    Record("cast", {"x": X, "dtype": "bool"}, X != 0),
    Record("cast", {"x": SMALL, "dtype": "bool"}, np.asarray([1, 1, 0, 1, 1], bool)),
    Record("cast", {"x": X, "dtype": "fp16"}, X, name="to fp16"),
    Record("cast", {"x": COUNTS, "dtype": "fp16"}, COUNTS.astype(float), name="exact"),
    Record("cast", {"x": COUNTS, "dtype": "fp32"}, COUNTS.astype(float)),
    Record("cast", {"x": COUNTS > 0, "dtype": "fp32"}, (COUNTS > 0).astype(float)),
    Record("cast", {"x": COUNTS > 0, "dtype": "int32"}, (COUNTS > 0).astype(np.int32)),
    *(
        Record("cast", {"x": x, "dtype": dtype}, x.astype(np.int32).astype(dtype))
        for dtype in ("int8", "uint8", "int16", "uint16", "int32")
        for x in (
            COUNTS,
            np.asarray([-1.9, -0.9, 0.9, 100.9, 300.2], np.float32),
            np.asarray([1, 250], np.uint8),
            np.asarray([1, 65000], np.uint16),
            np.asarray([-3, 100], np.int8),
        )
    ),
    Record(
        "cast",
        {
            "x": np.asarray([np.nan, np.inf, -np.inf, 2**31, 3e9, -3e9, 2**31 - 128], np.float32),
            "dtype": "int32",
        },
        np.asarray([0, 2**31 - 1, -(2**31), 2**31 - 1, 2**31 - 1, -(2**31), 2**31 - 128]),
        name="saturates",
    ),
    Record("cast", {"x": np.zeros((0, 2), np.float32), "dtype": "int32"}, np.zeros((0, 2), int)),
    Record("erf", {"x": np.zeros((0, 2), np.float32)}, np.zeros((0, 2))),
]


@over(RECORDS)
def test_kernel(record, namespace):
    check(record, namespace)


@pytest.mark.parametrize("namespace", ["numpy", "strict"])
def test_erf_is_close_at_every_size_of_its_argument(namespace):
    x = np.concatenate([np.linspace(-6, 6, 50001), np.logspace(-30, 0, 301)]).astype(np.float32)
    error = run("erf", {"x": x}, namespace) - scipy.special.erf(x.astype(np.float64))
    assert np.abs(error).max() < 3e-7
    known = x != 0
    assert np.abs(error[known] / scipy.special.erf(x[known].astype(np.float64))).max() < 5e-7


def test_nan_stays_nan():
    x = np.asarray([np.nan, 1], np.float32)
    for op in ("abs", "erf", "exp", "sign", "sqrt", "tanh", "round"):
        for namespace in ("numpy", "strict", "torch"):
            assert np.isnan(run(op, {"x": x}, namespace)).tolist() == [True, False], op


def test_an_unknown_dtype_is_refused():
    for namespace in ("numpy", "torch"):
        with pytest.raises(ValueError, match=r"dtype: must be one of fp16, .*\. Got 'int64'\."):
            run("cast", {"x": X, "dtype": "int64"}, namespace)


@pytest.mark.parametrize("op", ["erf", "exp2", "inverse", "log", "rsqrt", "tanh", "clip"])
def test_it_is_differentiable(op):
    more = {"alpha": 0.0, "beta": 9.0} if op == "clip" else {}
    x = torch.tensor([0.5, 2.0], dtype=torch.float64, requires_grad=True)
    function = find_kernel(op, 18, "torch")
    assert torch.autograd.gradcheck(lambda x: function(torch_namespace, x=x, **more), (x,))
