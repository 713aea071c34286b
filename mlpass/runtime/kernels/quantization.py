"""Activations as 8-bit integers and back."""

from __future__ import annotations

from mlpass.arrays import Array, Namespace
from mlpass.runtime.kernels.arguments import number
from mlpass.runtime.kernels.elementwise_unary import reuse
from mlpass.runtime.kernels.registry import kernel

_RANGES = {"int8": (-128.0, 127.0), "uint8": (0.0, 255.0)}


@kernel("quantize", since=17)
def quantize(
    xp: Namespace,
    *,
    input: Array,
    scale: Array,
    output_dtype: str,
    zero_point: Array | None = None,
    axis: int | None = None,
) -> Array:
    """input (...), scale and zero_point () or (size of axis,) -> round(input / scale) + zero_point.

    Halves are rounded to even, what is out of `output_dtype`'s range to its end.

    Raises:
        ValueError: `output_dtype` is neither int8 nor uint8; a vector without axis.
    """
    if output_dtype not in _RANGES:
        raise ValueError(f"output_dtype: must be int8 or uint8. Got {output_dtype!r}.")
    steps = reuse(xp.round, input / _along(xp, scale, input, axis, "scale"))
    if zero_point is not None:
        steps = reuse(xp.add, steps, _along(xp, zero_point, input, axis, "zero_point"))
    return xp.astype(reuse(xp.clip, steps, *_RANGES[output_dtype]), getattr(xp, output_dtype))


@kernel("dequantize", since=17)
def dequantize(
    xp: Namespace,
    *,
    input: Array,
    scale: Array,
    zero_point: Array | None = None,
    axis: int | None = None,
) -> Array:
    """input (...), scale and zero_point () or (size of axis,) -> scale (input - zero_point).

    Raises:
        ValueError: a vector without axis.
    """
    steps = xp.astype(input, xp.float32)
    if zero_point is not None:
        steps = reuse(xp.subtract, steps, _along(xp, zero_point, input, axis, "zero_point"))
    return reuse(xp.multiply, steps, _along(xp, scale, input, axis, "scale"))


def _along(xp: Namespace, part: Array, x: Array, axis: int | None, name: str) -> Array | float:
    """Returns a number, or one value for each place of `axis` so that they broadcast to `x`."""
    if getattr(part, "ndim", 0) == 0:
        return number(part)
    if axis is None:
        raise ValueError(f"{name}: a vector needs an axis.")
    along = [1] * x.ndim
    along[axis] = -1
    return xp.reshape(xp.astype(part, xp.float32), tuple(along))
