"""Normalizations. Sums of squares of fp16 programs, too, are taken in fp32."""

from __future__ import annotations

import math

import numpy as np

from mlpass.arrays import Array, Namespace, host, summed
from mlpass.runtime.kernels.elementwise_unary import CHUNK, reuse
from mlpass.runtime.kernels.reduction import sum_of_squares
from mlpass.runtime.kernels.registry import kernel
from mlpass.runtime.kernels.windows import Floats


@kernel("batch_norm")
def batch_norm(
    xp: Namespace,
    *,
    x: Array,
    mean: Array,
    variance: Array,
    gamma: Array | None = None,
    beta: Array | None = None,
    epsilon: float = 1e-5,
) -> Array:
    """x (batch, channels, ...), the rest (channels,) -> gamma (x - mean) / deviation + beta."""
    scale = 1 / xp.sqrt(variance + epsilon)
    if gamma is not None:
        scale = scale * gamma
    shift = -mean * scale
    if beta is not None:
        shift = shift + beta
    along = (-1, *(1,) * (x.ndim - 2))
    return reuse(xp.add, x * xp.reshape(scale, along), xp.reshape(shift, along))


@kernel("instance_norm")
def instance_norm(
    xp: Namespace,
    *,
    x: Array,
    gamma: Array | None = None,
    beta: Array | None = None,
    epsilon: float = 1e-5,
) -> Array:
    """x (batch, channels, ...), gamma and beta (channels,) -> normalized over further axes."""
    along = (-1, *(1,) * (x.ndim - 2))
    return _normalize(
        xp,
        x,
        tuple(range(2, x.ndim)),
        epsilon,
        None if gamma is None else xp.reshape(gamma, along),
        None if beta is None else xp.reshape(beta, along),
    )


@kernel("layer_norm")
def layer_norm(
    xp: Namespace,
    *,
    x: Array,
    axes: tuple[int, ...] | None = None,
    gamma: Array | None = None,
    beta: Array | None = None,
    epsilon: float = 1e-5,
) -> Array:
    """x (...), gamma and beta of the sizes of `axes` -> normalized over those; None means all."""
    chosen = range(x.ndim) if axes is None else sorted(axis % x.ndim for axis in axes)
    along = tuple(x.shape[axis] if axis in chosen else 1 for axis in range(x.ndim))
    return _normalize(
        xp,
        x,
        tuple(chosen),
        epsilon,
        None if gamma is None else xp.reshape(gamma, along),
        None if beta is None else xp.reshape(beta, along),
    )


@kernel("l2_norm")
def l2_norm(xp: Namespace, *, x: Array, epsilon: float = 1e-6) -> Array:
    """x (..., d1, d2, d3) -> x / sqrt(sum of x^2 over the last three axes + epsilon)."""
    total = sum_of_squares(xp, x, tuple(range(x.ndim - 3, x.ndim)), True)
    return x / xp.sqrt(total + epsilon)


@kernel("local_response_norm")
def local_response_norm(
    xp: Namespace, *, x: Array, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Array:
    """x (batch, channels, ...) -> x / (k + alpha / size * sum of x^2 over `size` channels)^beta.

    The channels are those around each one: size // 2 before it, the rest from itself on; those
    outside are 0.
    """
    count, channels = size, x.shape[1]
    squares = xp.square(x)
    edge = xp.zeros_like(squares[:, :1, ...])
    padded = xp.concat([edge] * (count // 2) + [squares] + [edge] * ((count - 1) // 2), axis=1)
    # A running sum would be less work, but loses small squares beside large ones.
    total = padded[:, :channels, ...]
    for offset in range(1, count):
        total = total + padded[:, offset : offset + channels, ...]
    spread = reuse(xp.add, total * (alpha / count), k)
    return x / reuse(xp.pow, spread, beta)


def _normalize(
    xp: Namespace,
    x: Array,
    axes: tuple[int, ...],
    epsilon: float,
    gamma: Array | None,
    beta: Array | None,
) -> Array:
    """x (...) -> gamma (x - mean) / sqrt(variance + epsilon) + beta, both broadcast to x."""
    inner = x.ndim - len(axes)
    if isinstance(x, np.ndarray) and axes == tuple(range(inner, x.ndim)) and x.size:
        return _normalize_rows(x, inner, epsilon, gamma, beta)
    count = math.prod(x.shape[axis] for axis in axes)
    centered = x - summed(x, axes) / count
    variance = summed(xp.square(centered), axes) / count
    result = reuse(xp.multiply, centered, 1 / xp.sqrt(variance + epsilon))
    if gamma is not None:
        result = reuse(xp.multiply, result, gamma)
    return result if beta is None else reuse(xp.add, result, beta)


def _normalize_rows(x: Floats, inner: int, epsilon: float, *parameters: Array | None) -> Floats:
    """The same over all axes from `inner` on, in parts that stay in the cache (numpy only)."""
    columns = math.prod(x.shape[inner:])
    rows = np.ascontiguousarray(x).reshape(-1, columns)
    result = np.empty_like(rows)
    gamma, beta = (_as_rows(part, x, inner) for part in parameters)
    average = np.full((columns, 1), 1 / columns, rows.dtype)  # a product with it is a fast mean
    step = max(1, CHUNK // columns)
    for start in range(0, len(rows), step):
        here = slice(start, start + step)
        out = result[here]
        np.subtract(rows[here], rows[here] @ average, out=out)
        variance = np.vecdot(out, out)[:, None] / columns
        out /= np.sqrt(variance + epsilon)
        if gamma is not None:
            out *= gamma[here] if len(gamma) > 1 else gamma
        if beta is not None:
            out += beta[here] if len(beta) > 1 else beta
    return result.reshape(x.shape)


def _as_rows(parameter: Array | None, x: Floats, inner: int) -> Floats | None:
    """Returns a parameter that broadcasts to x as one for all rows, or one value for each row."""
    if parameter is None:
        return None
    part = host(parameter)
    part = part.reshape(*(1,) * (x.ndim - part.ndim), *part.shape)
    if part.shape[inner:] == x.shape[inner:]:
        return part.reshape(1, -1)
    return np.broadcast_to(part, (*x.shape[:inner], *part.shape[inner:])).reshape(-1, 1)
