"""Kernels that torch's own functions serve better: convolution, pooling, attention.

Where torch has no equal the common kernel's own maths does it, on tensors.
"""

from __future__ import annotations

from math import prod

import torch
import torch.nn.functional as functional
from torch import Tensor

from mlpass.arrays import Array, Namespace
from mlpass.runtime.kernels import pool
from mlpass.runtime.kernels.conv import geometry
from mlpass.runtime.kernels.conv_transpose import crop_or_pad, transposed_geometry
from mlpass.runtime.kernels.registry import kernel
from mlpass.runtime.kernels.windows import Pads

_CONV = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
_CONV_TRANSPOSE = {
    1: functional.conv_transpose1d,
    2: functional.conv_transpose2d,
    3: functional.conv_transpose3d,
}
_MAX_POOL = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}
_AVG_POOL = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}


def _pad(x: Tensor, pads: Pads, value: float = 0.0) -> Tensor:
    if not any(map(any, pads)):
        return x
    # torch lists the last axis first.
    return functional.pad(x, [size for pad in reversed(pads) for size in pad], value=value)


def _symmetric(pads: Pads) -> bool:
    return all(before == after for before, after in pads)


@kernel("conv", backend="torch")
def conv(
    xp: Namespace,
    *,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    strides: tuple[int, ...] | None = None,
    pad_type: str = "valid",
    pad: tuple[int, ...] | None = None,
    dilations: tuple[int, ...] | None = None,
    groups: int = 1,
) -> Array:
    """x (n, in, *sizes), weight (out, in / groups, *kernel), bias (out,) -> (n, out, *counts)."""
    shape = geometry(x, weight, strides, pad_type, pad, dilations, groups)
    padding = [before for before, _ in shape.pads]
    if not _symmetric(shape.pads):
        x, padding = _pad(x, shape.pads), [0] * len(padding)
    return _CONV[len(padding)](
        x, weight, bias, shape.strides, padding, shape.dilations, shape.groups
    )


@kernel("conv_transpose", backend="torch")
def conv_transpose(
    xp: Namespace,
    *,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    pad: tuple[int, ...] | None = None,
    output_shape: tuple[int, ...] | None = None,
    pad_type: str = "valid",
    strides: tuple[int, ...] | None = None,
    dilations: tuple[int, ...] | None = None,
    groups: int = 1,
) -> Array:
    """x (n, in, *sizes), weight (in, out / groups, *kernel), bias (out,) -> (n, out, *sizes)."""
    axes = x.ndim - 2
    shape = transposed_geometry(x, weight, pad, output_shape, pad_type, strides, dilations, groups)
    cut = [
        (start, size - stop) for (start, stop), size in zip(shape.kept, shape.whole, strict=True)
    ]
    native = _symmetric(cut) and min(before for before, _ in cut) >= 0
    y = _CONV_TRANSPOSE[axes](
        x,
        weight,
        bias if native else None,
        shape.strides,
        [before if native else 0 for before, _ in cut],
        0,
        shape.groups,
        shape.dilations,
    )
    if native:
        return y
    kept = crop_or_pad(xp, y, shape.kept)
    return kept if bias is None else kept + bias.reshape(-1, *[1] * axes)


@kernel("max_pool", backend="torch")
def max_pool(
    xp: Namespace,
    *,
    x: Tensor,
    kernel_sizes: tuple[int, ...],
    strides: tuple[int, ...] | None = None,
    pad_type: str,
    pad: tuple[int, ...] | None = None,
    ceil_mode: bool = False,
) -> Array:
    """x (n, channels, *spatial) -> (n, channels, *spatial): the maximum of each window."""
    shape = pool.pooling(x, kernel_sizes, strides, pad_type, pad, ceil_mode)
    padding = [before for before, _ in shape.edges]
    native = _symmetric(shape.edges) and all(
        2 * size <= window for size, window in zip(padding, shape.kernel, strict=True)
    )
    if not native:
        x, padding = _pad(x, shape.edges, -torch.inf), [0] * len(padding)
    return _MAX_POOL[len(padding)](x, shape.kernel, shape.strides, padding)


@kernel("avg_pool", backend="torch")
def avg_pool(
    xp: Namespace,
    *,
    x: Tensor,
    kernel_sizes: tuple[int, ...],
    strides: tuple[int, ...] | None = None,
    pad_type: str,
    pad: tuple[int, ...] | None = None,
    exclude_padding_from_average: bool = False,
    ceil_mode: bool = False,
) -> Array:
    """x (n, channels, *spatial) -> (n, channels, *spatial): the mean of each window."""
    shape = pool.pooling(x, kernel_sizes, strides, pad_type, pad, ceil_mode)
    average, exclude = _AVG_POOL[len(shape.kernel)], exclude_padding_from_average
    if not any(map(any, shape.edges)):
        return average(x, shape.kernel, shape.strides)
    whole = average(_pad(x, shape.edges), shape.kernel, shape.strides)
    share = prod(shape.kernel) / pool.divisors(shape, x.shape[2:], exclude)
    return whole * torch.from_numpy(share).to(x.device)


@kernel("l2_pool", backend="torch")
def l2_pool(
    xp: Namespace,
    *,
    x: Tensor,
    kernel_sizes: tuple[int, ...],
    strides: tuple[int, ...] | None = None,
    pad_type: str,
    pad: tuple[int, ...] | None = None,
    ceil_mode: bool = False,
) -> Array:
    """x (n, channels, *spatial) -> (n, channels, *spatial): the Euclidean norm of each window."""
    shape = pool.pooling(x, kernel_sizes, strides, pad_type, pad, ceil_mode)
    mean = _AVG_POOL[len(shape.kernel)](_pad(x * x, shape.edges), shape.kernel, shape.strides)
    return torch.sqrt(mean * prod(shape.kernel))


@kernel("scaled_dot_product_attention", since=18, backend="torch")
def scaled_dot_product_attention(
    xp: Namespace, *, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None
) -> Array:
    """query (..., L, E), key (..., S, E), value (..., S, V), mask (..., L, S) -> (..., L, V).

    A query that may attend to nothing gets zeros.
    """
    if attn_mask is not None and attn_mask.ndim < 2:
        attn_mask = attn_mask.expand(query.shape[-2], key.shape[-2])
    return functional.scaled_dot_product_attention(query, key, value, attn_mask)
