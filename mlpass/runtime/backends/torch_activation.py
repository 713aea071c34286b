"""Activations, normalizations and products of matrices by torch's own fused functions."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from mlpass.arrays import Array, Namespace
from mlpass.runtime.kernels import linear as linear_kernels
from mlpass.runtime.kernels.normalization import batch_norm as batch_norm_of_any
from mlpass.runtime.kernels.normalization import layer_norm as layer_norm_of_any_axes
from mlpass.runtime.kernels.registry import by_rows, kernel


@kernel("gelu", backend="torch")
def gelu(xp: Namespace, *, x: Tensor, mode: str = "EXACT") -> Array:
    """x (...) -> the Gaussian error linear unit."""
    if mode == "SIGMOID_APPROXIMATION":
        return x * torch.sigmoid(1.702 * x)
    approximations = {"EXACT": "none", "TANH_APPROXIMATION": "tanh"}
    if mode not in approximations:
        known = "EXACT, TANH_APPROXIMATION, SIGMOID_APPROXIMATION"
        raise ValueError(f"mode: must be one of {known}. Got {mode!r}.")
    return functional.gelu(x, approximate=approximations[mode])


@kernel("silu", backend="torch")
def silu(xp: Namespace, *, x: Tensor) -> Array:
    """x (...) -> x sigmoid(x)."""
    return functional.silu(x)


@kernel("relu6", backend="torch")
def relu6(xp: Namespace, *, x: Tensor) -> Array:
    """x (...) -> min(max(x, 0), 6)."""
    return functional.relu6(x)


@kernel("leaky_relu", backend="torch")
def leaky_relu(xp: Namespace, *, x: Tensor, alpha: float) -> Array:
    """x (...) -> x where x >= 0, else alpha x."""
    return functional.leaky_relu(x, alpha)


@kernel("elu", backend="torch")
def elu(xp: Namespace, *, x: Tensor, alpha: float) -> Array:
    """x (...) -> x where x > 0, else alpha (e^x - 1)."""
    return functional.elu(x, alpha)


@by_rows("x")
@kernel("linear", backend="torch")
def linear(xp: Namespace, *, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Array:
    """x (..., in), weight (out, in), bias (out,) -> (..., out)."""
    if weight.dtype != x.dtype:
        weight = weight.to(x.dtype)
    if bias is not None and bias.dtype != x.dtype:
        bias = bias.to(x.dtype)
    if x.is_floating_point():
        return functional.linear(x, weight, bias)
    product = x @ weight.mT  # torch's own takes no integers
    return product if bias is None else product + bias


@kernel("matmul", backend="torch")
def matmul(
    xp: Namespace, *, x: Tensor, y: Tensor, transpose_x: bool = False, transpose_y: bool = False
) -> Array:
    """x (..., m, k), y (..., k, n) -> (..., m, n), leading axes broadcast; see the common one."""
    if x.dtype != y.dtype or not x.is_floating_point():
        return linear_kernels.matmul(xp, x=x, y=y, transpose_x=transpose_x, transpose_y=transpose_y)
    x = x.mT if transpose_x and x.ndim > 1 else x
    y = y.mT if transpose_y and y.ndim > 1 else y
    return torch.matmul(x, y)


@kernel("batch_norm", backend="torch")
def batch_norm(
    xp: Namespace,
    *,
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: float = 1e-5,
) -> Array:
    """x (batch, channels, ...), the rest (channels,) -> gamma (x - mean) / deviation + beta."""
    if mean.requires_grad or variance.requires_grad:  # torch's own takes them for statistics
        return batch_norm_of_any(
            xp, x=x, mean=mean, variance=variance, gamma=gamma, beta=beta, epsilon=epsilon
        )
    return functional.batch_norm(x, mean, variance, gamma, beta, eps=epsilon)


@kernel("layer_norm", backend="torch")
def layer_norm(
    xp: Namespace,
    *,
    x: Tensor,
    axes: tuple[int, ...] | None = None,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: float = 1e-5,
) -> Array:
    """x (...), gamma and beta of the sizes of `axes` -> x normalized over `axes`."""
    chosen = range(x.ndim) if axes is None else sorted(axis % x.ndim for axis in axes)
    if list(chosen) != list(range(x.ndim - len(chosen), x.ndim)):
        return layer_norm_of_any_axes(xp, x=x, axes=axes, gamma=gamma, beta=beta, epsilon=epsilon)
    shape = x.shape[x.ndim - len(chosen) :]
    return functional.layer_norm(x, shape, gamma, beta, epsilon)
