"""Activations, against torch's own."""

import numpy as np
import pytest
import torch
from array_api_compat import torch as torch_namespace
from harness import NAMESPACES, Record, check, over, run
from torch.nn import functional

from mlpass.runtime.kernels import activation as _  # noqa: F401  (registers its kernels)
from mlpass.runtime.kernels.elementwise_unary import CHUNK
from mlpass.runtime.kernels.registry import find_kernel

pytestmark = pytest.mark.slow_but_every(3)

RNG = np.random.default_rng(0)
X = (RNG.standard_normal((2, 3, 4, 5)) * 3).astype(np.float32)
X.reshape(-1)[:2] = 0.0, 6.0
LARGE = np.asarray([-1e4, -100, -20, -6, -0.1, -0.0, 0.0, 0.1, 6, 20, 100, 1e4], np.float32)
MANY = (RNG.standard_normal((3, CHUNK + 7)) * 3).astype(np.float32)
SLOPES = np.asarray([0.1, -0.5, 2.0], np.float32)
BETAS = np.asarray([1.0, 0.5, -2.0], np.float32)


def by_torch(function):
    """Returns what torch makes of x in double precision."""
    return lambda x, **_more: function(torch.from_numpy(x.astype(np.float64))).numpy()


def by_channel(values):
    return torch.from_numpy(values.astype(np.float64)).reshape(3, 1, 1)


def softplus(x):
    return torch.logaddexp(x, torch.zeros_like(x))


# op, further arguments, torch's function
CASES = [
    ("relu", {}, functional.relu),
    ("relu6", {}, functional.relu6),
    (
        "clamped_relu",
        {"alpha": 0.3, "beta": 2.0},
        lambda x: functional.leaky_relu(x, 0.3).clip(max=2),
    ),
    (
        "clamped_relu",
        {"alpha": -2, "beta": 2.0},
        lambda x: functional.leaky_relu(x, -2).clip(max=2),
    ),
    ("leaky_relu", {"alpha": 0.3}, lambda x: functional.leaky_relu(x, 0.3)),
    ("leaky_relu", {"alpha": 0.0}, lambda x: functional.leaky_relu(x, 0.0)),
    ("leaky_relu", {"alpha": -2.0}, lambda x: functional.leaky_relu(x, -2.0)),
    ("leaky_relu", {"alpha": 1.5}, lambda x: functional.leaky_relu(x, 1.5)),
    ("thresholded_relu", {"alpha": 0.5}, lambda x: torch.where(x >= 0.5, x, 0)),
    ("elu", {"alpha": 0.5}, lambda x: functional.elu(x, 0.5)),
    ("gelu", {}, functional.gelu),
    ("gelu", {"mode": "EXACT"}, functional.gelu),
    ("gelu", {"mode": "TANH_APPROXIMATION"}, lambda x: functional.gelu(x, approximate="tanh")),
    ("gelu", {"mode": "SIGMOID_APPROXIMATION"}, lambda x: x * torch.sigmoid(1.702 * x)),
    ("sigmoid", {}, torch.sigmoid),
    ("silu", {}, functional.silu),
    ("sigmoid_hard", {"alpha": 0.2, "beta": 0.4}, lambda x: (0.2 * x + 0.4).clip(0, 1)),
    ("linear_activation", {"alpha": 0.2, "beta": 0.4}, lambda x: 0.2 * x + 0.4),
    ("scaled_tanh", {"alpha": 1.5, "beta": 0.4}, lambda x: 1.5 * torch.tanh(0.4 * x)),
    ("softplus", {}, softplus),
    ("softsign", {}, functional.softsign),
]
BY_CHANNEL = [
    ("prelu", {"alpha": SLOPES}, lambda x: torch.where(x > 0, x, x * by_channel(SLOPES))),
    (
        "softplus_parametric",
        {"alpha": SLOPES, "beta": BETAS},
        lambda x: by_channel(SLOPES) * softplus(by_channel(BETAS) * x),
    ),
]

RECORDS = [
    *(
        Record(op, {"x": x, **more}, by_torch(function), opset=opset, name=f"{name} {more}")
        for op, more, function in CASES
        for name, x, opset in (("", X, 15), ("large", LARGE, 17), ("many", MANY, 17))
    ),
    *(
        Record(op, {"x": np.asarray(-0.75, np.float32), **more}, by_torch(function), name="scalar")
        for op, more, function in CASES
    ),
    *(Record(op, {"x": X, **more}, by_torch(function)) for op, more, function in BY_CHANNEL),
    Record(
        "prelu",
        {"x": X[..., 0], "alpha": SLOPES},
        np.where(X > 0, X, X * SLOPES[:, None, None])[..., 0],
    ),
    *(
        Record("softmax", {"x": x, "axis": axis}, by_torch(lambda x, axis=axis: x.softmax(axis)))
        for x in (X, X * 100)
        for axis in (-1, 0, 1, 3, -3)
    ),
    Record("softmax", {"x": X}, by_torch(lambda x: x.softmax(-1)), opset=15, name="default"),
    Record("softmax", {"x": MANY}, by_torch(lambda x: x.softmax(-1)), name="many"),
    Record("softmax", {"x": MANY.T}, by_torch(lambda x: x.softmax(-1)), name="many rows"),
    Record("softmax", {"x": np.zeros((0, 3), np.float32)}, np.zeros((0, 3)), name="empty"),
]


@over(RECORDS)
def test_kernel(record, namespace):
    check(record, namespace)


@pytest.mark.parametrize("namespace", NAMESPACES)
def test_softmax_leaves_out_what_is_masked(namespace):
    x = np.asarray([[0, -np.inf, 0], [-np.inf, 5, -np.inf]], np.float32)
    expected = np.asarray([[0.5, 0, 0.5], [0, 1, 0]])
    np.testing.assert_allclose(run("softmax", {"x": x}, namespace), expected)


@pytest.mark.parametrize("namespace", ["numpy", "strict", "torch"])
@pytest.mark.parametrize("op", ["relu", "relu6", "gelu", "sigmoid", "silu", "softplus", "softsign"])
def test_nan_stays_nan(op, namespace):
    x = np.asarray([np.nan, 1], np.float32)
    assert np.isnan(run(op, {"x": x}, namespace)).tolist() == [True, False]


def test_an_unknown_mode_of_gelu_is_refused():
    for namespace in ("numpy", "torch"):
        with pytest.raises(ValueError, match=r"mode: must be one of EXACT, .*\. Got 'FAST'\."):
            run("gelu", {"x": X, "mode": "FAST"}, namespace)


@pytest.mark.parametrize(("op", "more", "function"), CASES + BY_CHANNEL)
def test_its_derivative_is_torchs(op, more, function):
    more = {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in more.items()}
    # Not at 0, where some have no derivative.
    for values in (X + 0.01, X * 100 + 0.01):
        x = torch.tensor(values, dtype=torch.float64, requires_grad=True)
        kernel = find_kernel(op, 18, "torch")
        (ours,) = torch.autograd.grad(kernel(torch_namespace, x=x, **more).sum(), x)
        (theirs,) = torch.autograd.grad(function(x).sum(), x)
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
