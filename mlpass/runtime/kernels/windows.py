"""Sliding windows over the spatial axes, as convolution and pooling see them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from mlpass.arrays import Array, Namespace

Floats = NDArray[np.floating]
Pads = list[tuple[int, int]]


def resolve_pads(
    pad_type: str,
    pad: Sequence[int] | None,
    sizes: Sequence[int],
    spans: Sequence[int],
    strides: Sequence[int],
) -> Pads:
    """Returns how much is padded before and after each spatial axis.

    Args:
        pad_type: "valid", "same", "same_lower" or "custom"; Core ML writes it in any case.
        pad: before and after the first axis, before and after the second, ...; used by "custom".
        sizes: of the spatial axes.
        spans: how many elements a window spans: (kernel - 1) * dilation + 1.
        strides: of the windows.

    Raises:
        ValueError: the type is unknown, a stride is below 1, or `pad` does not have two numbers of
            0 or more an axis.
    """
    if min(strides, default=1) < 1:
        raise ValueError(f"strides: numbers of 1 or more expected. Got {list(strides)}.")
    kind = pad_type.lower()
    if kind == "valid":
        return [(0, 0)] * len(sizes)
    if kind == "custom":
        listed = list(pad) if pad is not None else [0] * (2 * len(sizes))
        if len(listed) != 2 * len(sizes):
            raise ValueError(f"pad: {2 * len(sizes)} numbers expected. Got {listed}.")
        if min(listed, default=0) < 0:
            raise ValueError(f"pad: numbers of 0 or more expected. Got {listed}.")
        return list(zip(listed[::2], listed[1::2], strict=True))
    if kind not in ("same", "same_lower"):
        raise ValueError(f"pad_type: valid, same, same_lower or custom expected. Got {pad_type!r}.")
    pads = []
    for size, span, stride in zip(sizes, spans, strides, strict=True):
        total = max(0, (-(-size // stride) - 1) * stride + span - size)
        less, more = total // 2, total - total // 2
        pads.append((less, more) if kind == "same" else (more, less))
    return pads


def spans_of(kernel: Sequence[int], dilations: Sequence[int]) -> list[int]:
    """Returns how many elements a window spans on each axis.

    Raises:
        ValueError: a size or a dilation is below 1, or their numbers differ.
    """
    if min([*kernel, *dilations], default=1) < 1:
        raise ValueError(
            f"a window of {list(kernel)}, dilations {list(dilations)}: must be 1 or more"
        )
    return [(size - 1) * dilation + 1 for size, dilation in zip(kernel, dilations, strict=True)]


def counts_of(
    sizes: Sequence[int], pads: Pads, spans: Sequence[int], strides: Sequence[int]
) -> list[int]:
    """Returns how many windows fit on each axis.

    Raises:
        ValueError: none does.
    """
    counts = [
        (size + sum(pad) - span) // stride + 1
        for size, pad, span, stride in zip(sizes, pads, spans, strides, strict=True)
    ]
    if min(counts) < 1:
        raise ValueError(f"a window of {list(spans)} does not fit into {list(sizes)}, pads {pads}")
    return counts


def padded(xp: Namespace, x: Array, pads: Pads, value: float = 0.0) -> Array:
    """x (..., spatial axes) -> x with `value` around its last axes; x itself without pads."""
    if not any(map(any, pads)):
        return x
    if isinstance(x, np.ndarray):
        sizes = x.shape[x.ndim - len(pads) :]
        grown = [size + sum(pad) for size, pad in zip(sizes, pads, strict=True)]
        shape = (*x.shape[: x.ndim - len(pads)], *grown)
        result = np.full(shape, value, x.dtype) if value else np.zeros(shape, x.dtype)
        inner = tuple(
            slice(before, before + size) for size, (before, _) in zip(sizes, pads, strict=True)
        )
        result[(slice(None),) * (x.ndim - len(pads)) + inner] = x
        return result
    for axis, pad in enumerate(pads, x.ndim - len(pads)):
        edges = [
            xp.full((*x.shape[:axis], size, *x.shape[axis + 1 :]), value, dtype=x.dtype)
            for size in pad
        ]
        x = xp.concat([edges[0], x, edges[1]], axis=axis)
    return x


def positions(
    kernel: Sequence[int], dilations: Sequence[int], strides: Sequence[int], counts: Sequence[int]
) -> Iterator[tuple[tuple[int, ...], tuple[slice, ...]]]:
    """Yields each position in a window, and the slices that are at it in every window."""
    for position in itertools.product(*map(range, kernel)):
        starts = [at * dilation for at, dilation in zip(position, dilations, strict=True)]
        yield (
            position,
            tuple(
                slice(start, start + (count - 1) * stride + 1, stride)
                for start, stride, count in zip(starts, strides, counts, strict=True)
            ),
        )


def windows_of(
    x: Floats,
    kernel: Sequence[int],
    dilations: Sequence[int],
    strides: Sequence[int],
    counts: Sequence[int],
) -> Floats:
    """x (..., spatial axes), a numpy array -> view (..., kernel axes, counts): no copy is made."""
    lead = x.ndim - len(kernel)
    spatial = x.strides[lead:]
    return np.lib.stride_tricks.as_strided(
        x,
        (*x.shape[:lead], *kernel, *counts),
        (
            *x.strides[:lead],
            *(step * dilation for step, dilation in zip(spatial, dilations, strict=True)),
            *(step * stride for step, stride in zip(spatial, strides, strict=True)),
        ),
        writeable=False,
    )
