"""Normalizations, against torch's own."""

import numpy as np
import pytest
import torch
from array_api_compat import torch as torch_namespace
from harness import Record, check, over, run
from torch.nn import functional

from mlpass.runtime.kernels import normalization as _  # noqa: F401  (registers its kernels)
from mlpass.runtime.kernels.elementwise_unary import CHUNK
from mlpass.runtime.kernels.registry import find_kernel

pytestmark = pytest.mark.slow_but_every(3)

RNG = np.random.default_rng(0)
X3, X4, X5 = (
    (RNG.standard_normal(shape) * 2 + 1).astype(np.float32)
    for shape in ((2, 6, 4), (2, 6, 3, 4), (2, 6, 3, 2, 3))
)
CHANNELS = {
    name: RNG.standard_normal(6).astype(np.float32) for name in ("mean", "gamma", "beta")
} | {"variance": RNG.random(6).astype(np.float32) + np.float32(0.1)}
LONG = RNG.standard_normal((2, 3, CHUNK + 5)).astype(np.float32)
WIDE = (RNG.standard_normal((700, 64)) + 3).astype(np.float32)


def double(array):
    return None if array is None else torch.from_numpy(array.astype(np.float64))


def batch_norm(x, mean, variance, gamma=None, beta=None, epsilon=1e-5):
    parts = map(double, (x, mean, variance, gamma, beta))
    return functional.batch_norm(*parts, eps=epsilon).numpy()


def instance_norm(x, gamma=None, beta=None, epsilon=1e-5):
    x, gamma, beta = map(double, (x, gamma, beta))
    return functional.instance_norm(x, weight=gamma, bias=beta, eps=epsilon).numpy()


def layer_norm(x, axes=None, gamma=None, beta=None, epsilon=1e-5):
    axes = tuple(range(x.ndim)) if axes is None else tuple(sorted(a % x.ndim for a in axes))
    shape = [x.shape[axis] if axis in axes else 1 for axis in range(x.ndim)]
    x = x.astype(np.float64)
    x = x - x.mean(axes, keepdims=True)
    x = x / np.sqrt(np.square(x).mean(axes, keepdims=True) + epsilon)
    x = x if gamma is None else x * gamma.reshape(shape)
    return x if beta is None else x + beta.reshape(shape)


def l2_norm(x, epsilon=1e-6):
    x = x.astype(np.float64)
    return x / np.sqrt(np.square(x).sum((-3, -2, -1), keepdims=True) + epsilon)


def local_response_norm(x, size, alpha=1e-4, beta=0.75, k=1.0):
    return functional.local_response_norm(double(x), size, alpha, beta, k).numpy()


def some(*names):
    return {name: CHANNELS[name] for name in names}


def scales(x, axes):
    shape = [x.shape[axis] for axis in sorted(axis % x.ndim for axis in axes)]
    return {name: RNG.standard_normal(shape).astype(np.float32) for name in ("gamma", "beta")}


RECORDS = [
    *(
        Record("batch_norm", {"x": x, **more}, batch_norm, opset=opset, name=f"{x.ndim} {opset}")
        for x in (X3, X4, X5)
        for opset, more in (
            (15, some("mean", "variance")),
            (16, some("mean", "variance", "gamma")),
            (17, some("mean", "variance", "beta")),
            (18, some("mean", "variance", "gamma", "beta") | {"epsilon": 0.1}),
        )
    ),
    *(
        Record("instance_norm", {"x": x, **more}, instance_norm, opset=opset)
        for x in (X3, X4, X5)
        for opset, more in (
            (15, {}),
            (17, some("gamma", "beta") | {"epsilon": 0.01}),
            (18, some("gamma")),
            (18, some("beta")),
        )
    ),
    Record("instance_norm", {"x": LONG}, instance_norm, name="long"),
    *(
        Record(
            "layer_norm",
            {"x": x, "axes": axes, **(scales(x, axes) if scaled else {}), "epsilon": 0.01},
            layer_norm,
            opset=17 if scaled else 15,
            name=f"{x.ndim} {axes} {scaled}",
        )
        for x, axes in (
            (X3, [-1]),
            (X3, [0, 2]),
            (X3, [-2]),
            (X3, [2, 1]),
            (X4, [1]),
            (X4, [0, 1, 3]),
            (X4, [0, 1, 2, 3]),
            (X5, [0, 4]),
            (X5, [-5, -4, -3, -2, -1]),
            (WIDE, [1]),
            (LONG, [-1]),
        )
        for scaled in (False, True)
    ),
    Record("layer_norm", {"x": X3}, layer_norm, name="default"),
    Record("layer_norm", {"x": X3, "axes": [1], "gamma": CHANNELS["gamma"]}, layer_norm),
    Record("layer_norm", {"x": X3 + 1000, "axes": [-1]}, layer_norm, tolerance=1e-3, name="far"),
    *(Record("l2_norm", {"x": x}, l2_norm, opset=15) for x in (X3, X4, X5)),
    Record("l2_norm", {"x": X5, "epsilon": 0.5}, l2_norm, opset=17),
    *(
        Record("local_response_norm", {"x": x, "size": size, **more}, local_response_norm)
        for x in (X3, X4, X5)
        for size in (1, 2, 3, 5, 9)
        for more in ({}, {"alpha": 0.1, "beta": 1.5, "k": 2.0})
    ),
    Record(
        "local_response_norm",
        {"x": X3 * np.float32(300), "size": 3, "alpha": 1.0},
        local_response_norm,
        name="squares beyond fp16",
    ),
]


@over(RECORDS)
def test_kernel(record, namespace):
    check(record, namespace)


def test_layer_norm_of_no_rows():
    x = np.zeros((0, 4), np.float32)
    assert run("layer_norm", {"x": x, "axes": [-1]}, "numpy").shape == (0, 4)


@pytest.mark.parametrize(
    ("op", "more"),
    [
        ("batch_norm", some("mean", "variance", "gamma", "beta")),
        ("instance_norm", some("gamma", "beta")),
        ("layer_norm", {"axes": [1], **some("gamma", "beta")}),
        ("l2_norm", {}),
        ("local_response_norm", {"size": 3}),
    ],
)
def test_it_is_differentiable(op, more):
    attributes = {k: v for k, v in more.items() if not isinstance(v, np.ndarray)}
    arrays = {"x": X3[:1, :, :2]} | {k: v for k, v in more.items() if k not in attributes}
    if op == "l2_norm":
        arrays = {"x": X4[:1, :2, :2, :2]}
    function = find_kernel(op, 18, "torch")
    tensors = [
        torch.tensor(array, dtype=torch.float64, requires_grad=True) for array in arrays.values()
    ]

    def run_it(*tensors):
        return function(torch_namespace, **dict(zip(arrays, tensors, strict=True)), **attributes)

    assert torch.autograd.gradcheck(run_it, tensors)
