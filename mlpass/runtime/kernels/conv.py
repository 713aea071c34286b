"""Convolutions of one to three spatial axes."""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import Any, NamedTuple

import numpy as np

from mlpass.arrays import Array, Namespace, as_factor, host
from mlpass.parallel import SLAB
from mlpass.runtime.kernels.cores import on_all_cores
from mlpass.runtime.kernels.elementwise_unary import reuse
from mlpass.runtime.kernels.registry import kernel
from mlpass.runtime.kernels.windows import (
    Floats,
    Pads,
    counts_of,
    padded,
    positions,
    resolve_pads,
    spans_of,
    windows_of,
)

# Elements of input columns that are held at once: one big product is fastest with a few MB of
# them. Grouped ones are many small products, which want their columns in a core's cache: a slab.
_COLUMNS = 1 << 20
# Depthwise outputs with planes up to this many elements are faster with channels last.
_SMALL_PLANE = 256
_PASSES = 4  # over a slab, in the time that other work takes for one


class Geometry(NamedTuple):
    """What a convolution's attributes come down to, an entry for each spatial axis."""

    kernel: list[int]
    strides: list[int]
    dilations: list[int]
    pads: Pads
    groups: int
    counts: list[int]


def geometry(
    x: Array,
    weight: Array,
    strides: tuple[int, ...] | None,
    pad_type: str,
    pad: tuple[int, ...] | None,
    dilations: tuple[int, ...] | None,
    groups: int,
) -> Geometry:
    """Returns the geometry of `conv` from its arguments.

    Raises:
        ValueError: the arguments do not fit together.
    """
    shapes = tuple(x.shape), tuple(weight.shape)
    return _geometry(*shapes, strides, pad_type, pad, dilations, groups)


@lru_cache(maxsize=1024)
def _geometry(
    x: tuple[int, ...],
    weight: tuple[int, ...],
    strides: tuple[int, ...] | None,
    pad_type: str,
    pad: tuple[int, ...] | None,
    dilations: tuple[int, ...] | None,
    groups: int,
) -> Geometry:
    sizes, window = x[2:], list(weight[2:])
    steps = list((1,) * len(sizes) if strides is None else strides)
    spread = list((1,) * len(sizes) if dilations is None else dilations)
    if not len(window) == len(steps) == len(spread) == len(sizes):
        raise ValueError(
            f"conv: x {x}, weight {weight}, strides {steps} and dilations {spread} differ in "
            "their spatial axes"
        )
    if x[1] != weight[1] * groups or weight[0] % groups:
        raise ValueError(f"conv: weight {weight} in {groups} groups does not fit x {x}")
    spans = spans_of(window, spread)
    pads = resolve_pads(pad_type, pad, sizes, spans, steps)
    counts = counts_of(sizes, pads, spans, steps)
    return Geometry(window, steps, spread, pads, groups, counts)


@kernel("conv")
def conv(
    xp: Namespace,
    *,
    x: Array,
    weight: Array,
    bias: Array | None = None,
    strides: tuple[int, ...] | None = None,
    pad_type: str = "valid",
    pad: tuple[int, ...] | None = None,
    dilations: tuple[int, ...] | None = None,
    groups: int = 1,
) -> Array:
    """x (n, in, *sizes), weight (out, in / groups, *kernel), bias (out,) -> (n, out, *counts)."""
    shape = geometry(x, weight, strides, pad_type, pad, dilations, groups)
    counts = shape.counts
    if not isinstance(x, np.ndarray):
        y: Array = _by_position(xp, padded(xp, x, shape.pads), weight, shape)
    elif prod(shape.kernel) == 1:
        steps = tuple(slice(None, None, step) for step in shape.strides)
        y = _pointwise(host(padded(xp, x, shape.pads)[(..., *steps)]), host(weight), shape.groups)
    elif shape.groups == x.shape[1] == weight.shape[0] and prod(counts) <= _SMALL_PLANE:
        y = _depthwise_channels_last(xp, x, host(weight), shape)
    else:
        y = _by_columns(host(padded(xp, x, shape.pads)), host(weight), shape)
    if bias is None:
        return y
    bias = xp.reshape(bias, (-1,) + (1,) * len(counts))
    return reuse(xp.add, y, bias)


@kernel("conv_quantized")
def conv_quantized(
    xp: Namespace,
    *,
    x: Array,
    weight: Array,
    bias: Array | None = None,
    quantization_type: str,
    nbits: int = 8,
    quant_scale: Array,
    quant_bias: Array,
    strides: tuple[int, ...] | None = None,
    pad_type: str = "valid",
    pad: tuple[int, ...] | None = None,
    dilations: tuple[int, ...] | None = None,
    groups: int = 1,
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
        if table.shape[0] != 1 << nbits:
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


def _array(xp: Namespace, value: object, like: Array) -> Array:
    return (
        xp.astype(value, like.dtype)
        if hasattr(value, "ndim")
        else xp.asarray(value, dtype=like.dtype)
    )


def _by_position(xp: Namespace, x: Array, weight: Array, shape: Geometry) -> Array:
    """Returns the sum over kernel positions of one product each: plain array API."""
    batch, groups, out, counts = x.shape[0], shape.groups, weight.shape[0], shape.counts
    weight = xp.reshape(weight, (groups, out // groups, *weight.shape[1:]))
    y: Array | float = 0.0
    for at, slices in positions(shape.kernel, shape.dilations, shape.strides, counts):
        taken = xp.reshape(
            x[(slice(None), slice(None), *slices)],
            (batch, groups, x.shape[1] // groups, prod(counts)),
        )
        part = weight[(slice(None), slice(None), slice(None), *at)]
        y = y + xp.matmul(as_factor(part), as_factor(taken))
    return xp.reshape(y, (batch, out, *counts))


def _pointwise(x: Floats, weight: Floats, groups: int) -> Floats:
    """Returns a convolution with one kernel position: one product of matrices."""
    batch, channels, *counts = x.shape
    matrix = weight.reshape(groups, -1, channels // groups)
    columns = x.reshape(batch, groups, channels // groups, prod(counts))
    product: Floats = np.matmul(host(as_factor(matrix)), host(as_factor(columns)))
    return product.reshape(batch, weight.shape[0], *counts)


def _by_columns(x: Floats, weight: Floats, shape: Geometry) -> Floats:
    """Returns weight times the windows of x, which are copied as columns, so many at a time."""
    batch, groups, counts = x.shape[0], shape.groups, shape.counts
    matrix = weight.reshape(groups, weight.shape[0] // groups, -1)
    out, depth = matrix.shape[1:]
    windows = windows_of(
        _split_channels(x, groups), shape.kernel, shape.dilations, shape.strides, counts
    )
    row = prod(counts[1:])
    budget = _COLUMNS if groups == 1 else SLAB
    rows_each = min(counts[0], max(1, budget // (depth * row)))
    y = np.empty((batch, groups, out, counts[0] * row), x.dtype)
    rows_axis = (slice(None),) * (2 + len(shape.kernel))

    def fill(start: int, stop: int) -> None:
        space = np.empty((stop - start) * depth * row * rows_each, x.dtype)
        for index in range(batch):
            for top in range(0, counts[0], rows_each):
                bottom = min(top + rows_each, counts[0])
                taken = windows[index, start:stop][(*rows_axis, slice(top, bottom))]
                columns = space[: taken.size].reshape(taken.shape)
                columns[...] = taken
                np.matmul(
                    matrix[start:stop],
                    columns.reshape(stop - start, depth, -1),
                    out=y[index, start:stop, :, top * row : bottom * row],
                )

    on_all_cores(fill, groups, depth * row * rows_each)
    return y.reshape(batch, weight.shape[0], *counts)


def _depthwise_channels_last(xp: Namespace, x: Floats, weight: Floats, shape: Geometry) -> Floats:
    """Returns a depthwise convolution, as a sum of products with the channels innermost."""
    axes, counts = len(shape.counts), shape.counts
    # Without pads this is but a view, and a sum over one is many times slower.
    last = np.ascontiguousarray(host(padded(xp, np.moveaxis(x, 1, -1), [*shape.pads, (0, 0)])))
    taps = np.ascontiguousarray(np.moveaxis(weight[:, 0], 0, -1))
    windows = windows_of(
        np.moveaxis(last, -1, 1), shape.kernel, shape.dilations, shape.strides, counts
    )
    at, to = list(range(2, 2 + axes)), list(range(2 + axes, 2 + 2 * axes))
    y = np.empty((*x.shape[:2], *counts), x.dtype)

    def fill(start: int, stop: int) -> None:
        taken: Any = windows[(slice(None),) * (2 + axes) + (slice(start, stop),)]
        sums = np.einsum(taken, [0, 1, *at, *to], taps, [*at, 1], [0, *to, 1])
        y[:, :, start:stop] = np.moveaxis(sums, -1, 1)

    on_all_cores(fill, counts[0], windows.size // counts[0] // _PASSES)
    return y


def _split_channels(x: Floats, groups: int) -> Floats:
    """x (n, channels, ...) -> view (n, groups, channels of one, ...)."""
    return np.lib.stride_tricks.as_strided(
        x,
        (x.shape[0], groups, x.shape[1] // groups, *x.shape[2:]),
        (x.strides[0], x.strides[1] * (x.shape[1] // groups), *x.strides[1:]),
        writeable=False,
    )
