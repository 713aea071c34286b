"""Reductions. Those of integers return integers: what is not whole is cut off towards zero."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from mlpass.arrays import Array, Namespace, summed
from mlpass.runtime.kernels.elementwise_unary import is_integral, reuse
from mlpass.runtime.kernels.registry import kernel
from mlpass.runtime.kernels.windows import Floats

# (xp, x, axes, whether to keep them) -> the reduced array.
Reduction = Callable[[Namespace, Array, tuple[int, ...], bool], Array]


def sum_of_squares(xp: Namespace, x: Array, axes: tuple[int, ...], keep: bool) -> Array:
    """x (...) -> its squares, summed over `axes`, which are not negative and in order."""
    rows = _rows(x, axes)
    if rows is None:
        return summed(xp.square(x), axes, keep)
    # A dot product of each row with itself needs no array of squares.
    return _unfold(np.vecdot(rows, rows), x, axes, keep)


def _rows(x: Array, axes: tuple[int, ...]) -> Floats | None:
    """Returns a float numpy array whose last axes are reduced as rows: BLAS sums them fastest."""
    inner = x.ndim - len(axes)
    if not isinstance(x, np.ndarray) or x.dtype.kind != "f" or not x.flags.c_contiguous:
        return None
    if axes != tuple(range(inner, x.ndim)) or not x.size:
        return None
    return x.reshape(math.prod(x.shape[:inner]), -1)


def _unfold(result: Floats, x: Array, axes: tuple[int, ...], keep: bool) -> Array:
    """Returns one value for each of the `_rows` of `x` in the shape of the reduced array."""
    shape = x.shape[: x.ndim - len(axes)]
    return result.reshape(*shape, *(1,) * len(axes)) if keep else result.reshape(shape)


def _sum(xp: Namespace, x: Array, axes: tuple[int, ...], keep: bool) -> Array:
    rows = _rows(x, axes)
    if rows is None:
        return summed(x, axes, keep)
    return _unfold(rows @ np.ones(rows.shape[1], rows.dtype), x, axes, keep)


def _prod(xp: Namespace, x: Array, axes: tuple[int, ...], keep: bool) -> Array:
    return xp.prod(x, axis=axes, keepdims=keep, dtype=x.dtype)


def _mean(xp: Namespace, x: Array, axes: tuple[int, ...], keep: bool) -> Array:
    rows = _rows(x, axes)
    if rows is None:
        return summed(x, axes, keep) / math.prod(x.shape[axis] for axis in axes)
    return _unfold(rows @ np.full(rows.shape[1], 1 / rows.shape[1], rows.dtype), x, axes, keep)


def _max(xp: Namespace, x: Array, axes: tuple[int, ...], keep: bool) -> Array:
    return xp.max(x, axis=axes, keepdims=keep)


def _min(xp: Namespace, x: Array, axes: tuple[int, ...], keep: bool) -> Array:
    return xp.min(x, axis=axes, keepdims=keep)


def _l1_norm(xp: Namespace, x: Array, axes: tuple[int, ...], keep: bool) -> Array:
    return _sum(xp, xp.abs(x), axes, keep)


def _l2_norm(xp: Namespace, x: Array, axes: tuple[int, ...], keep: bool) -> Array:
    return xp.sqrt(sum_of_squares(xp, x, axes, keep))


def _log_sum(xp: Namespace, x: Array, axes: tuple[int, ...], keep: bool) -> Array:
    return xp.log(_sum(xp, x, axes, keep))


def _log_sum_exp(xp: Namespace, x: Array, axes: tuple[int, ...], keep: bool) -> Array:
    largest = xp.max(x, axis=axes, keepdims=True)
    # The largest power is 1, so none overflows. An infinite one cannot be taken off.
    largest = xp.where(xp.isfinite(largest), largest, 0.0)
    total = _sum(xp, reuse(xp.exp, x - largest), axes, True)
    result = xp.log(total) + largest
    return result if keep else xp.squeeze(result, axis=axes)


# MIL's op -> (reduction, whether that of integers must pass through floats, meaning).
_REDUCTIONS: dict[str, tuple[Reduction, bool, str]] = {
    "reduce_l1_norm": (_l1_norm, False, "sum of |x|"),
    "reduce_l2_norm": (_l2_norm, True, "square root of the sum of x^2"),
    "reduce_log_sum": (_log_sum, True, "log of the sum"),
    "reduce_log_sum_exp": (_log_sum_exp, True, "log of the sum of e^x"),
    "reduce_max": (_max, False, "largest"),
    "reduce_mean": (_mean, True, "mean"),
    "reduce_min": (_min, False, "smallest"),
    "reduce_prod": (_prod, False, "product"),
    "reduce_sum": (_sum, False, "sum"),
    "reduce_sum_square": (sum_of_squares, False, "sum of x^2"),
}


def _register(op_type: str, reduction: Reduction, through_floats: bool, meaning: str) -> None:
    def reduce(
        xp: Namespace, *, x: Array, axes: tuple[int, ...] | None = None, keep_dims: bool = False
    ) -> Array:
        chosen = range(x.ndim) if axes is None else sorted(axis % x.ndim for axis in axes)
        keep, dtype = keep_dims, x.dtype
        if not chosen:
            # Nothing to sum over: each element alone, along an axis of its own.
            x, chosen, keep = xp.reshape(x, (*x.shape, 1)), [x.ndim], False
        if not (through_floats and is_integral(xp, x)):
            return reduction(xp, x, tuple(chosen), keep)
        exact = reduction(xp, xp.astype(x, xp.float64), tuple(chosen), keep)
        return xp.astype(xp.asarray(exact), dtype)  # numpy may have made a scalar of it

    reduce.__name__ = reduce.__qualname__ = op_type
    reduce.__doc__ = f"x (...) -> the {meaning} over `axes`, all where None."
    kernel(op_type)(reduce)


for _op_type, _row in _REDUCTIONS.items():
    _register(_op_type, *_row)


@kernel("reduce_argmax")
def reduce_argmax(xp: Namespace, *, x: Array, axis: int = -1, keep_dims: bool = False) -> Array:
    """x (...) -> the index along `axis` of the largest element, the first of equal ones."""
    return _indices(xp, xp.argmax, x, axis, keep_dims, "int32")


@kernel("reduce_argmin")
def reduce_argmin(xp: Namespace, *, x: Array, axis: int = -1, keep_dims: bool = False) -> Array:
    """x (...) -> the index along `axis` of the smallest element, the first of equal ones."""
    return _indices(xp, xp.argmin, x, axis, keep_dims, "int32")


@kernel("reduce_argmax", since=17)
def reduce_argmax_ios17(
    xp: Namespace, *, x: Array, axis: int = -1, keep_dims: bool = False, output_dtype: str = "int32"
) -> Array:
    """x (...) -> the index along `axis` of the largest element, as `output_dtype`."""
    return _indices(xp, xp.argmax, x, axis, keep_dims, output_dtype)


@kernel("reduce_argmin", since=17)
def reduce_argmin_ios17(
    xp: Namespace, *, x: Array, axis: int = -1, keep_dims: bool = False, output_dtype: str = "int32"
) -> Array:
    """x (...) -> the index along `axis` of the smallest element, as `output_dtype`."""
    return _indices(xp, xp.argmin, x, axis, keep_dims, output_dtype)


def _indices(
    xp: Namespace, search: Callable[..., Array], x: Array, axis: int, keep_dims: bool, dtype: str
) -> Array:
    if dtype.lower() not in ("int32", "uint16"):
        raise ValueError(f"output_dtype: must be int32 or uint16. Got {dtype!r}.")
    found = search(x, axis=axis, keepdims=keep_dims)
    return xp.astype(xp.asarray(found), getattr(xp, dtype.lower()))
