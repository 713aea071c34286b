"""Activations, layer normalization and linear layers by torch's own fused functions."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from mlpass.runtime.kernels.arguments import ints, number
from mlpass.runtime.kernels.normalization import layer_norm as layer_norm_of_any_axes
from mlpass.runtime.kernels.registry import kernel

Array = Any


@kernel("gelu", backend="torch")
def gelu(xp: Any, *, x: Array, mode: str = "EXACT") -> Array:
    """x (...) -> the Gaussian error linear unit."""
    if mode == "SIGMOID_APPROXIMATION":
        return x * torch.sigmoid(1.702 * x)
    approximations = {"EXACT": "none", "TANH_APPROXIMATION": "tanh"}
    if mode not in approximations:
        known = "EXACT, TANH_APPROXIMATION, SIGMOID_APPROXIMATION"
        raise ValueError(f"mode: must be one of {known}. Got {mode!r}.")
    return functional.gelu(x, approximate=approximations[mode])


@kernel("silu", backend="torch")
def silu(xp: Any, *, x: Array) -> Array:
    """x (...) -> x sigmoid(x)."""
    return functional.silu(x)


@kernel("relu6", backend="torch")
def relu6(xp: Any, *, x: Array) -> Array:
    """x (...) -> min(max(x, 0), 6)."""
    return functional.relu6(x)


@kernel("leaky_relu", backend="torch")
def leaky_relu(xp: Any, *, x: Array, alpha: Any) -> Array:
    """x (...) -> x where x >= 0, else alpha x."""
    return functional.leaky_relu(x, number(alpha))


@kernel("elu", backend="torch")
def elu(xp: Any, *, x: Array, alpha: Any) -> Array:
    """x (...) -> x where x > 0, else alpha (e^x - 1)."""
    return functional.elu(x, number(alpha))


@kernel("linear", backend="torch")
def linear(xp: Any, *, x: Array, weight: Array, bias: Array | None = None) -> Array:
    """x (..., in), weight (out, in), bias (out,) -> (..., out)."""
    if weight.dtype != x.dtype:
        weight = weight.to(x.dtype)
    bias = bias if bias is None else bias.to(x.dtype)
    if x.is_floating_point():
        return functional.linear(x, weight, bias)
    product = x @ weight.mT  # torch's own takes no integers
    return product if bias is None else product + bias


@kernel("layer_norm", backend="torch")
def layer_norm(
    xp: Any,
    *,
    x: Array,
    axes: Any = None,
    gamma: Array | None = None,
    beta: Array | None = None,
    epsilon: Any = 1e-5,
) -> Array:
    """x (...), gamma and beta of the sizes of `axes` -> x normalized over `axes`."""
    chosen = range(x.ndim) if axes is None else sorted(axis % x.ndim for axis in ints(axes))
    if list(chosen) != list(range(x.ndim - len(chosen), x.ndim)):
        return layer_norm_of_any_axes(xp, x=x, axes=axes, gamma=gamma, beta=beta, epsilon=epsilon)
    shape = x.shape[x.ndim - len(chosen) :]
    return functional.layer_norm(x, shape, gamma, beta, number(epsilon))
