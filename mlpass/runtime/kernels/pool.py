"""Pooling over one to three spatial axes.

A window's maximum or sum is taken one axis after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from math import prod
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlpass.arrays import Array, Namespace
from mlpass.runtime.kernels.registry import kernel
from mlpass.runtime.kernels.windows import Pads, counts_of, padded, resolve_pads, spans_of


class Pooling(NamedTuple):
    """What a pooling's attributes come down to, an entry for each spatial axis.

    Attributes:
        kernel: sizes of a window.
        strides: of the windows.
        pads: declared, before and after.
        extra: how far the last window reaches beyond the padding (`ceil_mode`).
        counts: how many windows there are.
    """

    kernel: list[int]
    strides: list[int]
    pads: Pads
    extra: list[int]
    counts: list[int]

    @property
    def edges(self) -> Pads:
        """Pads that hold every window whole."""
        return [
            (before, after + more)
            for (before, after), more in zip(self.pads, self.extra, strict=True)
        ]


def pooling(
    x: Array,
    kernel_sizes: tuple[int, ...],
    strides: tuple[int, ...] | None,
    pad_type: str,
    pad: tuple[int, ...] | None,
    ceil_mode: bool,
) -> Pooling:
    """Returns the geometry of a pooling from its arguments.

    Raises:
        ValueError: the arguments do not fit together.
    """
    return _pooling(tuple(x.shape), kernel_sizes, strides, pad_type, pad, ceil_mode)


@lru_cache(maxsize=1024)
def _pooling(
    x: tuple[int, ...],
    kernel_sizes: tuple[int, ...],
    strides: tuple[int, ...] | None,
    pad_type: str,
    pad: tuple[int, ...] | None,
    ceil_mode: bool,
) -> Pooling:
    sizes, window = list(x[2:]), list(kernel_sizes)
    steps = list((1,) * len(sizes) if strides is None else strides)
    if not len(window) == len(steps) == len(sizes):
        raise ValueError(
            f"pool: x {x}, kernel_sizes {window} and strides {steps} differ in their spatial axes"
        )
    window = spans_of(window, [1] * len(window))
    pads = resolve_pads(pad_type, pad, sizes, window, steps)
    if not ceil_mode:
        counts = counts_of(sizes, pads, window, steps)
        return Pooling(window, steps, pads, [0] * len(sizes), counts)
    if pad_type.lower() in ("same", "same_lower"):
        raise ValueError(f"ceil_mode: cannot be True with pad_type {pad_type!r}")
    counts, extra = [], []
    for size, (before, after), span, step in zip(sizes, pads, window, steps, strict=True):
        count = -(-(size + before + after - span) // step) + 1
        # A window that would start in the padding after the end is left out.
        if before + after and (count - 1) * step >= size + before:
            count -= 1
        counts.append(count)
        extra.append(max(0, (count - 1) * step + span - size - before - after))
    return Pooling(window, steps, pads, extra, counts)


def divisors(shape: Pooling, sizes: Sequence[int], exclude_padding: bool) -> NDArray[np.float32]:
    """Returns how many elements each window averages over, (*counts).

    Padding counts unless it is excluded; what lies beyond the padding never does.
    """
    result = np.ones(shape.counts, np.float32)
    for axis, count in enumerate(shape.counts):
        before, after = shape.pads[axis]
        starts = np.arange(count) * shape.strides[axis] - before
        low, high = (0, sizes[axis]) if exclude_padding else (-before, sizes[axis] + after)
        inside = np.minimum(starts + shape.kernel[axis], high) - np.maximum(starts, low)
        along = [1] * len(shape.counts)
        along[axis] = count
        result *= np.maximum(inside, 1).astype(np.float32).reshape(along)
    return result


@kernel("max_pool")
def max_pool(
    xp: Namespace,
    *,
    x: Array,
    kernel_sizes: tuple[int, ...],
    strides: tuple[int, ...] | None = None,
    pad_type: str,
    pad: tuple[int, ...] | None = None,
    ceil_mode: bool = False,
) -> Array:
    """x (n, channels, *spatial) -> (n, channels, *spatial): the maximum of each window."""
    shape = pooling(x, kernel_sizes, strides, pad_type, pad, ceil_mode)
    return _over_windows(xp, padded(xp, x, shape.edges, -np.inf), shape, "maximum", "max")


@kernel("avg_pool")
def avg_pool(
    xp: Namespace,
    *,
    x: Array,
    kernel_sizes: tuple[int, ...],
    strides: tuple[int, ...] | None = None,
    pad_type: str,
    pad: tuple[int, ...] | None = None,
    exclude_padding_from_average: bool = False,
    ceil_mode: bool = False,
) -> Array:
    """x (n, channels, *spatial) -> (n, channels, *spatial): the mean of each window."""
    shape = pooling(x, kernel_sizes, strides, pad_type, pad, ceil_mode)
    sums = _over_windows(xp, padded(xp, x, shape.edges), shape, "add", "sum")
    if not any(map(any, shape.edges)):
        return sums * (1.0 / prod(shape.kernel))
    return sums / xp.asarray(divisors(shape, x.shape[2:], exclude_padding_from_average))


@kernel("l2_pool")
def l2_pool(
    xp: Namespace,
    *,
    x: Array,
    kernel_sizes: tuple[int, ...],
    strides: tuple[int, ...] | None = None,
    pad_type: str,
    pad: tuple[int, ...] | None = None,
    ceil_mode: bool = False,
) -> Array:
    """x (n, channels, *spatial) -> (n, channels, *spatial): the Euclidean norm of each window."""
    shape = pooling(x, kernel_sizes, strides, pad_type, pad, ceil_mode)
    return xp.sqrt(_over_windows(xp, padded(xp, x * x, shape.edges), shape, "add", "sum"))


def _over_windows(xp: Namespace, x: Array, shape: Pooling, join: str, reduce: str) -> Array:
    """x (n, channels, *padded) -> (n, channels, *counts), by the function `join` of two arrays.

    Args:
        xp: the namespace.
        x: padded, so that every window is whole.
        shape: of the windows.
        join: a function of two arrays, the result of which does not depend on their order.
        reduce: the same over an axis.
    """
    both: Callable[..., Array] = getattr(xp, join)
    over: Callable[..., Array] = getattr(xp, reduce)
    if prod(shape.counts) == 1:
        whole = (slice(None), slice(None), *(slice(0, size) for size in shape.kernel))
        axes = tuple(range(2, x.ndim))
        return over(x[whole], axis=axes, keepdims=True)
    for axis, (size, step, count) in enumerate(
        zip(shape.kernel, shape.strides, shape.counts, strict=True), 2
    ):
        lead = (slice(None),) * axis
        taken = [
            x[(*lead, slice(at, at + (count - 1) * step + 1, step), ...)] for at in range(size)
        ]
        x = taken[0]
        if size > 1:
            x = both(taken[0], taken[1])
        for more in taken[2:]:
            x = both(x, more, out=x) if xp is np else both(x, more)
    # A window of one element is a view of x, which the caller may own.
    return xp.asarray(x, copy=True) if prod(shape.kernel) == 1 else x
