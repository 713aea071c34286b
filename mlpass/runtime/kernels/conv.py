"""Convolutions of one to three spatial axes."""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

import numpy as np

from mlpass.runtime.kernels.arguments import integer, ints
from mlpass.runtime.kernels.registry import kernel
from mlpass.runtime.kernels.windows import (
    Pads,
    counts_of,
    padded,
    positions,
    resolve_pads,
    spans_of,
    windows_of,
)

Array = Any

# Elements of input columns that are held at once. One big product is fastest with a few MB of
# them; grouped ones are many small products, which want their columns in a core's cache.
_COLUMNS = 1 << 20
_GROUPED_COLUMNS = 1 << 18
# Depthwise outputs with planes up to this many elements are faster with channels last.
_SMALL_PLANE = 256


class Geometry(NamedTuple):
    """What a convolution's steering arguments come down to, an entry for each spatial axis."""

    kernel: list[int]
    strides: list[int]
    dilations: list[int]
    pads: Pads
    groups: int
    counts: list[int]


def geometry(
    x: Array, weight: Array, strides: Any, pad_type: str, pad: Any, dilations: Any, groups: Any
) -> Geometry:
    """Returns the geometry of `conv` from its arguments.

    Raises:
        ValueError: the arguments do not fit together.
    """
    axes = x.ndim - 2
    steps = ints(strides) if strides is not None else [1] * axes
    spread = ints(dilations) if dilations is not None else [1] * axes
    parts, window = integer(groups), list(weight.shape[2:])
    if not len(window) == len(steps) == len(spread) == axes:
        raise ValueError(
            f"conv: x {tuple(x.shape)}, weight {tuple(weight.shape)}, strides {steps} and "
            f"dilations {spread} differ in their spatial axes"
        )
    if x.shape[1] != weight.shape[1] * parts or weight.shape[0] % parts:
        raise ValueError(
            f"conv: weight {tuple(weight.shape)} in {parts} groups does not fit x {tuple(x.shape)}"
        )
    spans = spans_of(window, spread)
    listed = ints(pad) if pad is not None else None
    pads = resolve_pads(pad_type, listed, x.shape[2:], spans, steps)
    counts = counts_of(x.shape[2:], pads, spans, steps)
    return Geometry(window, steps, spread, pads, parts, counts)


@kernel("conv")
def conv(
    xp: Any,
    *,
    x: Array,
    weight: Array,
    bias: Array | None = None,
    strides: Array | None = None,
    pad_type: str = "valid",
    pad: Array | None = None,
    dilations: Array | None = None,
    groups: Array = 1,
) -> Array:
    """x (n, in, *sizes), weight (out, in / groups, *kernel), bias (out,) -> (n, out, *counts)."""
    shape = geometry(x, weight, strides, pad_type, pad, dilations, groups)
    counts = shape.counts
    if xp is not np:
        y = _by_position(xp, padded(xp, x, shape.pads), weight, shape)
    elif prod(shape.kernel) == 1:
        steps = tuple(slice(None, None, step) for step in shape.strides)
        y = _pointwise(padded(np, x, shape.pads)[(..., *steps)], weight, shape.groups)
    elif shape.groups == x.shape[1] == weight.shape[0] and prod(counts) <= _SMALL_PLANE:
        y = _depthwise_channels_last(x, weight, shape)
    else:
        y = _by_columns(padded(np, x, shape.pads), weight, shape)
    if bias is None:
        return y
    bias = xp.reshape(bias, (-1,) + (1,) * len(counts))
    return np.add(y, bias, out=y) if xp is np else y + bias


@kernel("conv_quantized")
def conv_quantized(
    xp: Any,
    *,
    x: Array,
    weight: Array,
    bias: Array | None = None,
    quantization_type: str,
    nbits: Array = 8,
    quant_scale: Array,
    quant_bias: Array,
    strides: Array | None = None,
    pad_type: str = "valid",
    pad: Array | None = None,
    dilations: Array | None = None,
    groups: Array = 1,
) -> Array:
    """`conv` with weight = q * quant_scale + quant_bias ("linear"), or quant_scale[q] ("lut").

    quant_scale and quant_bias are of size 1 or out; a lookup table has 2 ** nbits values.
    """
    if quantization_type == "linear":
        # One number may come as a Python value, a list of one, or an array.
        scale, shift = (
            xp.reshape(_array(xp, part, x), (-1,) + (1,) * (weight.ndim - 1))
            for part in (quant_scale, quant_bias)
        )
        weight = xp.astype(weight, x.dtype) * scale + shift
    elif quantization_type == "lut":
        table = xp.reshape(_array(xp, quant_scale, x), (-1,))
        if table.shape[0] != 1 << integer(nbits):
            raise ValueError(f"quant_scale: 2 ** nbits values expected. Got {table.shape[0]}.")
        flat = xp.reshape(xp.astype(weight, xp.int32), (-1,))
        weight = xp.reshape(xp.take(table, flat, axis=0), weight.shape)
    else:
        raise ValueError(f"quantization_type: linear or lut expected. Got {quantization_type!r}.")
    if bias is not None:
        bias = xp.astype(bias, x.dtype)
    return conv(
        xp,
        x=x,
        weight=weight,
        bias=bias,
        strides=strides,
        pad_type=pad_type,
        pad=pad,
        dilations=dilations,
        groups=groups,
    )


def _array(xp: Any, value: Any, like: Array) -> Array:
    return (
        xp.astype(value, like.dtype)
        if hasattr(value, "ndim")
        else xp.asarray(value, dtype=like.dtype)
    )


def _by_position(xp: Any, x: Array, weight: Array, shape: Geometry) -> Array:
    """Returns the sum over kernel positions of one product each: plain array API."""
    batch, groups, out, counts = x.shape[0], shape.groups, weight.shape[0], shape.counts
    weight = xp.reshape(weight, (groups, out // groups, *weight.shape[1:]))
    y: Any = 0.0
    for at, slices in positions(shape.kernel, shape.dilations, shape.strides, counts):
        taken = xp.reshape(
            x[(slice(None), slice(None), *slices)],
            (batch, groups, x.shape[1] // groups, prod(counts)),
        )
        y = y + xp.matmul(weight[(slice(None), slice(None), slice(None), *at)], taken)
    return xp.reshape(y, (batch, out, *counts))


def _pointwise(x: Array, weight: Array, groups: int) -> Array:
    """Returns a convolution with one kernel position: one product of matrices."""
    batch, channels, *counts = x.shape
    matrix = weight.reshape(groups, -1, channels // groups)
    columns = x.reshape(batch, groups, channels // groups, prod(counts))
    return np.matmul(matrix, columns).reshape(batch, weight.shape[0], *counts)


def _by_columns(x: Array, weight: Array, shape: Geometry) -> Array:
    """Returns weight times the windows of x, which are copied as columns, so many at a time."""
    batch, groups, counts = x.shape[0], shape.groups, shape.counts
    matrix = weight.reshape(groups, weight.shape[0] // groups, -1)
    out, depth = matrix.shape[1:]
    windows = windows_of(
        _split_channels(x, groups), shape.kernel, shape.dilations, shape.strides, counts
    )
    row = prod(counts[1:])
    budget = _COLUMNS if groups == 1 else _GROUPED_COLUMNS
    rows_each = min(counts[0], max(1, budget // (depth * row)))
    groups_each = min(groups, max(1, budget // (depth * row * rows_each)))
    space = np.empty(groups_each * depth * row * rows_each, x.dtype)
    y = np.empty((batch, groups, out, counts[0] * row), x.dtype)
    rows_axis = (slice(None),) * (1 + len(shape.kernel))
    for index in range(batch):
        for first in range(0, groups, groups_each):
            some = slice(first, min(first + groups_each, groups))
            for top in range(0, counts[0], rows_each):
                bottom = min(top + rows_each, counts[0])
                taken = windows[(index, some, *rows_axis, slice(top, bottom))]
                columns = space[: taken.size].reshape(taken.shape)
                columns[...] = taken
                np.matmul(
                    matrix[some],
                    columns.reshape(taken.shape[0], depth, -1),
                    out=y[index, some, :, top * row : bottom * row],
                )
    return y.reshape(batch, weight.shape[0], *counts)


def _depthwise_channels_last(x: Array, weight: Array, shape: Geometry) -> Array:
    """Returns a depthwise convolution, as a sum of products with the channels innermost."""
    axes, counts = len(shape.counts), shape.counts
    last = padded(np, np.moveaxis(x, 1, -1), [*shape.pads, (0, 0)])
    windows = windows_of(
        np.moveaxis(last, -1, 1), shape.kernel, shape.dilations, shape.strides, counts
    )
    at, to = list(range(2, 2 + axes)), list(range(2 + axes, 2 + 2 * axes))
    y = np.einsum(
        windows,
        [0, 1, *at, *to],
        np.ascontiguousarray(np.moveaxis(weight[:, 0], 0, -1)),
        [*at, 1],
        [0, *to, 1],
    )
    return np.ascontiguousarray(np.moveaxis(y, -1, 1))


def _split_channels(x: Array, groups: int) -> Array:
    """x (n, channels, ...) -> view (n, groups, channels of one, ...)."""
    return np.lib.stride_tricks.as_strided(
        x,
        (x.shape[0], groups, x.shape[1] // groups, *x.shape[2:]),
        (x.strides[0], x.strides[1] * (x.shape[1] // groups), *x.strides[1:]),
        writeable=False,
    )
