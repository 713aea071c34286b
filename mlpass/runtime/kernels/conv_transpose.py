"""Transposed convolutions of one to three spatial axes."""

from __future__ import annotations

from math import prod
from typing import NamedTuple

from mlpass.arrays import Array, Namespace, as_factor
from mlpass.runtime.kernels.registry import kernel
from mlpass.runtime.kernels.windows import Pads, padded, positions, resolve_pads, spans_of


@kernel("conv_transpose")
def conv_transpose(
    xp: Namespace,
    *,
    x: Array,
    weight: Array,
    bias: Array | None = None,
    pad: tuple[int, ...] | None = None,
    output_shape: tuple[int, ...] | None = None,
    pad_type: str = "valid",
    strides: tuple[int, ...] | None = None,
    dilations: tuple[int, ...] | None = None,
    groups: int = 1,
) -> Array:
    """x (n, in, *spatial), weight (in, out / groups, *kernel), bias (out,) -> (n, out, *spatial).

    Each element of x adds the kernel, scaled by it, to the output: the gradient of `conv`.
    """
    shape = transposed_geometry(x, weight, pad, output_shape, pad_type, strides, dilations, groups)
    y = crop_or_pad(xp, _scattered(xp, x, weight, shape), shape.kept)
    return y if bias is None else y + xp.reshape(bias, (-1,) + (1,) * (x.ndim - 2))


class Transposed(NamedTuple):
    """What a transposed convolution's attributes come down to, for each spatial axis.

    Attributes:
        strides: of the kernel in the output.
        dilations: of the kernel.
        groups: of channels.
        whole: sizes that hold every kernel whole.
        kept: which part (start, stop) of the whole is the result; a stop beyond it means zeros.
    """

    strides: list[int]
    dilations: list[int]
    groups: int
    whole: list[int]
    kept: Pads


def transposed_geometry(
    x: Array,
    weight: Array,
    pad: tuple[int, ...] | None,
    output_shape: tuple[int, ...] | None,
    pad_type: str,
    strides: tuple[int, ...] | None,
    dilations: tuple[int, ...] | None,
    groups: int,
) -> Transposed:
    """Returns the geometry of `conv_transpose` from its arguments.

    Raises:
        ValueError: the arguments do not fit together.
    """
    axes = x.ndim - 2
    steps = [1] * axes if strides is None else list(strides)
    spread = [1] * axes if dilations is None else list(dilations)
    window = list(weight.shape[2:])
    if not len(window) == len(steps) == len(spread) == axes:
        raise ValueError(
            f"conv_transpose: x {tuple(x.shape)}, weight {tuple(weight.shape)}, strides {steps} "
            f"and dilations {spread} differ in their spatial axes"
        )
    if x.shape[1] != weight.shape[0] or x.shape[1] % groups:
        raise ValueError(
            f"conv_transpose: weight {tuple(weight.shape)} in {groups} groups does not fit "
            f"x {tuple(x.shape)}"
        )
    sizes = list(x.shape[2:])
    whole = [
        (size - 1) * step + span
        for size, step, span in zip(sizes, steps, spans_of(window, spread), strict=True)
    ]
    wanted = None if output_shape is None else list(output_shape[2:])
    kind = pad_type.lower()
    if kind in ("same", "same_lower"):
        # Without an output shape, that of the convolution which it is the gradient of.
        if wanted is None:
            wanted = [size * step for size, step in zip(sizes, steps, strict=True)]
        totals = [max(0, full - want) for full, want in zip(whole, wanted, strict=True)]
        starts = [total // 2 if kind == "same" else total - total // 2 for total in totals]
    else:
        pads = resolve_pads(pad_type, pad, sizes, sizes, steps)
        starts = [before for before, _ in pads]
        if wanted is None:
            wanted = [full - sum(both) for full, both in zip(whole, pads, strict=True)]
    kept = [(start, start + want) for start, want in zip(starts, wanted, strict=True)]
    return Transposed(steps, spread, groups, whole, kept)


def crop_or_pad(xp: Namespace, y: Array, kept: Pads) -> Array:
    """y (n, out, *whole) -> the part of each spatial axis, with zeros beyond its end."""
    inside = tuple(
        slice(start, min(stop, size)) for (start, stop), size in zip(kept, y.shape[2:], strict=True)
    )
    beyond = [(0, max(0, stop - size)) for (_, stop), size in zip(kept, y.shape[2:], strict=True)]
    return padded(xp, y[(slice(None), slice(None), *inside)], beyond)


def _scattered(xp: Namespace, x: Array, weight: Array, shape: Transposed) -> Array:
    """Returns the whole transposed convolution: one product for each kernel position."""
    batch, channels, *sizes = x.shape
    groups = shape.groups
    columns = xp.reshape(x, (batch, groups, channels // groups, prod(sizes)))
    # (groups, in, out, *kernel) -> (groups, out, in, *kernel)
    parts = xp.reshape(weight, (groups, channels // groups, *weight.shape[1:]))
    parts = xp.permute_dims(parts, (0, 2, 1, *range(3, parts.ndim)))
    y = xp.zeros((batch, weight.shape[1] * groups, *shape.whole), dtype=x.dtype)
    for at, slices in positions(weight.shape[2:], shape.dilations, shape.strides, sizes):
        part = parts[(slice(None), slice(None), slice(None), *at)]
        product = xp.matmul(as_factor(part), as_factor(columns))
        where = (slice(None), slice(None), *slices)
        y[where] += xp.reshape(product, (batch, y.shape[1], *sizes))
    return y
