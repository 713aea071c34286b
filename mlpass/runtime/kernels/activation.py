"""Activations."""

from __future__ import annotations

import math

import numpy as np

from mlpass.arrays import Array, Namespace, summed
from mlpass.runtime.kernels.elementwise_unary import (
    CHUNK,
    ERF_BOUND,
    ERF_COEFFICIENTS,
    erf_of,
    in_chunks,
    odd_polynomial,
    reuse,
)
from mlpass.runtime.kernels.registry import kernel
from mlpass.runtime.kernels.windows import Floats

# Each mode of gelu is x / (1 + exp(x p(x^2))), p's coefficients lowest power first.
_SLOPE = 2 * math.sqrt(2 / math.pi)
_GELU = {
    # 1 + erf(z) is 2 sigmoid(2 atanh(erf(z))), and z is x / sqrt(2).
    "EXACT": tuple(
        -2 * coefficient * 0.5 ** (power + 0.5)
        for power, coefficient in enumerate(ERF_COEFFICIENTS)
    ),
    "TANH_APPROXIMATION": (-_SLOPE, -_SLOPE * 0.044715),
    "SIGMOID_APPROXIMATION": (-1.702,),
}


@kernel("relu")
def relu(xp: Namespace, *, x: Array) -> Array:
    """x (...) -> max(x, 0)."""
    # `clip` is several times as fast as numpy's `maximum`, but torch's has another derivative at 0.
    return xp.relu(x) if hasattr(xp, "relu") else xp.clip(x, 0.0, math.inf)


@kernel("relu6")
def relu6(xp: Namespace, *, x: Array) -> Array:
    """x (...) -> min(max(x, 0), 6)."""
    return xp.clip(x, 0.0, 6.0)


@kernel("clamped_relu")
def clamped_relu(xp: Namespace, *, x: Array, alpha: float, beta: float) -> Array:
    """x (...) -> min(beta, x where x >= 0, else alpha x)."""
    return reuse(xp.clip, leaky_relu(xp, x=x, alpha=alpha), None, beta)


@kernel("leaky_relu")
def leaky_relu(xp: Namespace, *, x: Array, alpha: float) -> Array:
    """x (...) -> x where x >= 0, else alpha x."""
    if isinstance(x, np.ndarray) and 0 < alpha <= 1:
        return reuse(np.maximum, x * alpha, x)
    return _join(xp, x, reuse(xp.multiply, _below(xp, x), alpha))


@kernel("prelu")
def prelu(xp: Namespace, *, x: Array, alpha: Array) -> Array:
    """x (batch, channels, ...), alpha (channels,) -> x where x >= 0, else alpha x."""
    return _join(xp, x, reuse(xp.multiply, _below(xp, x), _by_channel(xp, alpha, x)))


@kernel("thresholded_relu")
def thresholded_relu(xp: Namespace, *, x: Array, alpha: float) -> Array:
    """x (...) -> x where x >= alpha, else 0."""
    return xp.where(x < alpha, 0.0, x)


@kernel("elu")
def elu(xp: Namespace, *, x: Array, alpha: float) -> Array:
    """x (...) -> x where x > 0, else alpha (e^x - 1)."""
    return _join(xp, x, reuse(xp.multiply, reuse(xp.expm1, _below(xp, x)), alpha))


@kernel("gelu")
def gelu(xp: Namespace, *, x: Array, mode: str = "EXACT") -> Array:
    """x (...) -> the Gaussian error linear unit x P(normal < x), exact or approximated.

    Raises:
        ValueError: MIL has no such mode.
    """
    if mode not in _GELU:
        raise ValueError(f"mode: must be one of {', '.join(_GELU)}. Got {mode!r}.")
    if isinstance(x, np.ndarray):
        return _gelu_numpy(x, mode)
    if mode == "SIGMOID_APPROXIMATION":
        return x * sigmoid(xp, x=x * 1.702)
    if mode == "TANH_APPROXIMATION":
        gate = xp.tanh(x * (_SLOPE / 2 * (1 + 0.044715 * x * x)))
    else:
        gate = erf_of(xp, x * math.sqrt(0.5))
    return 0.5 * x * (1 + gate)


def _gelu_numpy(x: Floats, mode: str) -> Floats:
    bound = ERF_BOUND * math.sqrt(2) if mode == "EXACT" else math.inf

    def fill(x: Floats, out: Floats, scratch: Floats) -> None:
        odd_polynomial(x, _GELU[mode], bound, out, scratch)
        np.exp(out, out=out)
        out += 1
        np.divide(x, out, out=out)

    return in_chunks(fill, x)


@kernel("sigmoid")
def sigmoid(xp: Namespace, *, x: Array) -> Array:
    """x (...) -> 1 / (1 + e^-x)."""
    if hasattr(xp, "sigmoid"):  # torch's, whose derivative is finite everywhere
        return xp.sigmoid(x)
    if isinstance(x, np.ndarray):
        return in_chunks(_fill_sigmoid, x)
    return 0.5 * (1 + xp.tanh(0.5 * x))


def _fill_sigmoid(x: Floats, out: Floats, scratch: Floats) -> None:
    np.negative(x, out=out)
    np.exp(out, out=out)
    out += 1
    np.reciprocal(out, out=out)


@kernel("silu")
def silu(xp: Namespace, *, x: Array) -> Array:
    """x (...) -> x sigmoid(x)."""
    if isinstance(x, np.ndarray):
        return in_chunks(_fill_silu, x)
    return x * sigmoid(xp, x=x)


def _fill_silu(x: Floats, out: Floats, scratch: Floats) -> None:
    np.negative(x, out=out)
    np.exp(out, out=out)
    out += 1
    np.divide(x, out, out=out)


@kernel("sigmoid_hard")
def sigmoid_hard(xp: Namespace, *, x: Array, alpha: float, beta: float) -> Array:
    """x (...) -> min(max(alpha x + beta, 0), 1)."""
    return reuse(xp.clip, linear_activation(xp, x=x, alpha=alpha, beta=beta), 0.0, 1.0)


@kernel("linear_activation")
def linear_activation(xp: Namespace, *, x: Array, alpha: float, beta: float) -> Array:
    """x (...) -> alpha x + beta."""
    return reuse(xp.add, x * alpha, beta)


@kernel("scaled_tanh")
def scaled_tanh(xp: Namespace, *, x: Array, alpha: float, beta: float) -> Array:
    """x (...) -> alpha tanh(beta x)."""
    return reuse(xp.multiply, reuse(xp.tanh, x * beta), alpha)


@kernel("softplus")
def softplus(xp: Namespace, *, x: Array) -> Array:
    """x (...) -> log(1 + e^x)."""
    # e^x would overflow; e^-|x| is at most 1.
    tail = reuse(xp.negative, xp.abs(x))
    tail = reuse(xp.log1p, reuse(xp.exp, tail))
    return _join(xp, x, tail)


@kernel("softplus_parametric")
def softplus_parametric(xp: Namespace, *, x: Array, alpha: Array, beta: Array) -> Array:
    """x (batch, channels, ...), alpha and beta (channels,) -> alpha log(1 + e^(beta x))."""
    curve = softplus(xp, x=x * _by_channel(xp, beta, x))
    return reuse(xp.multiply, curve, _by_channel(xp, alpha, x))


@kernel("softsign")
def softsign(xp: Namespace, *, x: Array) -> Array:
    """x (...) -> x / (1 + |x|)."""
    return x / reuse(xp.add, xp.abs(x), 1.0)


@kernel("softmax")
def softmax(xp: Namespace, *, x: Array, axis: int = -1) -> Array:
    """x (...) -> e^x / its sum over `axis`."""
    along = axis % max(x.ndim, 1)
    if hasattr(xp, "softmax"):  # torch's
        return xp.softmax(x, along)
    if isinstance(x, np.ndarray) and along == x.ndim - 1 and x.size:
        return _softmax_rows(x)
    powers = reuse(xp.exp, x - xp.max(x, axis=along, keepdims=True))
    return reuse(xp.divide, powers, summed(powers, (along,)))


def _softmax_rows(x: Floats) -> Floats:
    rows = np.ascontiguousarray(x).reshape(-1, x.shape[-1])
    result = np.empty_like(rows)
    ones = np.ones((rows.shape[1], 1), rows.dtype)  # a product with it is a fast sum
    step = max(1, CHUNK // rows.shape[1])
    for start in range(0, len(rows), step):
        part, out = rows[start : start + step], result[start : start + step]
        np.subtract(part, part.max(axis=1, keepdims=True), out=out)
        np.exp(out, out=out)
        out /= out @ ones
    return result.reshape(x.shape)


def _below(xp: Namespace, x: Array) -> Array:
    """x (...) -> min(x, 0)."""
    return xp.clip(x, -math.inf, 0.0)


def _join(xp: Namespace, x: Array, fresh: Array) -> Array:
    """Returns max(x, 0) + `fresh`: no branch for each element, as `where` has it, which is slow."""
    return reuse(xp.add, fresh, relu(xp, x=x))


def _by_channel(xp: Namespace, values: Array, x: Array) -> Array:
    """values (channels,) -> the same so that they broadcast along x's second axis."""
    return xp.reshape(values, (-1, *(1,) * (x.ndim - 2)))
