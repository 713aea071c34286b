"""Resizing of the last axes: upsampling, resizing, cropping. `sampling.py` has free coordinates."""

from __future__ import annotations

import numpy as np

from mlpass.arrays import Array, Namespace
from mlpass.runtime.kernels.registry import kernel
from mlpass.runtime.kernels.room import check_room

SAMPLING_MODES = (
    "DEFAULT",
    "STRICT_ALIGN_CORNERS",
    "ALIGN_CORNERS",
    "OFFSET_CORNERS",
    "UNALIGN_CORNERS",
)


def scaled_size(size: int, factor: float) -> int:
    """Returns floor(size * factor), in fp32 as MIL's own shapes are found."""
    return int(np.floor(np.float32(factor) * np.float32(size)))


def check_mode(mode: str) -> None:
    """Raises a ValueError for an unknown sampling mode."""
    if mode not in SAMPLING_MODES:
        raise ValueError(
            f"sampling_mode: one of {', '.join(SAMPLING_MODES)} expected. Got {mode!r}."
        )


def grid(mode: str, size: int, count: int) -> np.ndarray:
    """Returns where in [0, size - 1] each of `count` samples is taken, (count,).

    Source: the notes of MIL's `resize_bilinear`.
    """
    check_mode(mode)
    index = np.arange(count, dtype=np.float64)
    if mode == "DEFAULT":
        points = index * size / count
    elif mode == "UNALIGN_CORNERS":
        points = (index + 0.5) * size / count - 0.5
    elif mode == "OFFSET_CORNERS":
        points = (index + 0.5) * max(1, size - 1) / count
    elif count > 1:
        points = index * (size - 1) / (count - 1)
    else:
        points = index + ((size - 1) / 2 if mode == "ALIGN_CORNERS" else 0.0)
    return np.clip(points, 0, size - 1)


def resize_linear(xp: Namespace, x: Array, targets: list[int], mode: str) -> Array:
    """x (..., sizes) -> (..., targets), one axis after the other."""
    dtype = x.dtype
    if not xp.isdtype(dtype, "real floating"):
        x = xp.astype(x, xp.float32)
    check_room((*x.shape[: x.ndim - len(targets)], *targets), x.dtype)
    for axis, target in enumerate(targets, x.ndim - len(targets)):
        size = x.shape[axis]
        points = grid(mode, size, target)
        if target == size and np.array_equal(points, np.arange(size)):
            continue
        low = np.floor(points).astype(np.int64)
        along = (-1,) + (1,) * (x.ndim - 1 - axis)
        part = xp.reshape(_like(xp, (points - low).astype(np.float32), x), along)
        below = xp.take(x, _like(xp, low, x), axis=axis)
        above = xp.take(x, _like(xp, np.minimum(low + 1, size - 1), x), axis=axis)
        x = below + (above - below) * part
    return x if x.dtype == dtype else xp.astype(x, dtype)


def take_nearest(xp: Namespace, x: Array, sources: list[np.ndarray]) -> Array:
    """x (..., sizes) -> (..., targets): the elements at `sources`, (target,) for each axis."""
    check_room((*x.shape[: x.ndim - len(sources)], *map(len, sources)), x.dtype)
    for axis, source in enumerate(sources, x.ndim - len(sources)):
        if not np.array_equal(source, np.arange(x.shape[axis])):
            x = xp.take(x, _like(xp, source, x), axis=axis)
    return x


def _like(xp: Namespace, values: np.ndarray, x: Array) -> Array:
    return xp.asarray(values, device=x.device) if hasattr(x, "device") else xp.asarray(values)


def nearest_of_halves(size: int, count: int) -> np.ndarray:
    """Returns the elements whose cells hold the centres of `count` equal cells, (count,)."""
    check_room((count,), np.dtype(np.int64))
    return (2 * np.arange(count) + 1) * size // (2 * count)


@kernel("upsample_nearest_neighbor")
def upsample_nearest_neighbor(
    xp: Namespace, *, x: Array, scale_factor_height: float = 1, scale_factor_width: float = 1
) -> Array:
    """x (..., height, width) -> (..., floor(height * factor), floor(width * factor))."""
    sizes = x.shape[-2:]
    counts = [
        scaled_size(size, factor)
        for size, factor in zip(sizes, (scale_factor_height, scale_factor_width), strict=True)
    ]
    check_room((*x.shape[:-2], *counts), x.dtype)
    return take_nearest(
        xp,
        x,
        [np.arange(count) * size // count for size, count in zip(sizes, counts, strict=True)],
    )


@kernel("resize_nearest_neighbor")
def resize_nearest_neighbor(
    xp: Namespace, *, x: Array, target_size_height: int, target_size_width: int
) -> Array:
    """x (..., height, width) -> (..., target height, target width), at the centres of pixels."""
    counts = (target_size_height, target_size_width)
    sources = [nearest_of_halves(*pair) for pair in zip(x.shape[-2:], counts, strict=True)]
    return take_nearest(xp, x, sources)


@kernel("upsample_bilinear")
def upsample_bilinear_ios13(
    xp: Namespace,
    *,
    x: Array,
    scale_factor_height: float = 1,
    scale_factor_width: float = 1,
    align_corners: bool = True,
) -> Array:
    """x (..., height, width) -> (..., floor(height * factor), floor(width * factor))."""
    return upsample_bilinear(
        xp,
        x=x,
        scale_factor_height=scale_factor_height,
        scale_factor_width=scale_factor_width,
        align_corners=align_corners,
    )


@kernel("upsample_bilinear", since=16)
def upsample_bilinear(
    xp: Namespace,
    *,
    x: Array,
    scale_factor_height: float = 1,
    scale_factor_width: float = 1,
    align_corners: bool = True,
    half_pixel_centers: bool | None = None,
) -> Array:
    """x (..., height, width) -> (..., floor(height * factor), floor(width * factor)).

    half_pixel_centers is by default the opposite of align_corners.
    """
    targets = [
        scaled_size(x.shape[-2], scale_factor_height),
        scaled_size(x.shape[-1], scale_factor_width),
    ]
    return resize_linear(xp, x, targets, upsampling_mode(align_corners, half_pixel_centers))


def upsampling_mode(align_corners: bool, half_pixel_centers: bool | None) -> str:
    """Returns the sampling mode of `upsample_bilinear`.

    Raises:
        ValueError: both are True.
    """
    halves = not align_corners if half_pixel_centers is None else half_pixel_centers
    if align_corners and halves:
        raise ValueError("align_corners and half_pixel_centers cannot both be True")
    if align_corners:
        return "STRICT_ALIGN_CORNERS"
    return "UNALIGN_CORNERS" if halves else "DEFAULT"


@kernel("resize_bilinear")
def resize_bilinear(
    xp: Namespace,
    *,
    x: Array,
    target_size_height: int = 1,
    target_size_width: int = 1,
    sampling_mode: str = "DEFAULT",
) -> Array:
    """x (..., height, width) -> (..., target height, target width)."""
    targets = [target_size_height, target_size_width]
    return resize_linear(xp, x, targets, sampling_mode)


@kernel("resize", since=17)
def resize(
    xp: Namespace,
    *,
    x: Array,
    shape: tuple[int, ...],
    resized_dims: int,
    interpolation_mode: str = "LINEAR",
    sampling_mode: str = "DEFAULT",
) -> Array:
    """x (..., sizes) -> (..., the last `resized_dims` of `shape`, where 0 keeps x's own size)."""
    targets = resize_targets(x, shape, resized_dims)
    check_mode(sampling_mode)
    if interpolation_mode == "LINEAR":
        return resize_linear(xp, x, targets, sampling_mode)
    if interpolation_mode != "NEAREST_NEIGHBOR":
        raise ValueError(
            f"interpolation_mode: LINEAR or NEAREST_NEIGHBOR expected. Got {interpolation_mode!r}."
        )
    sources = []
    for size, target in zip(x.shape[x.ndim - len(targets) :], targets, strict=True):
        if sampling_mode in ("DEFAULT", "UNALIGN_CORNERS"):
            # By default it does what resize_nearest_neighbor does.
            sources.append(nearest_of_halves(size, target))
        else:
            sources.append(np.floor(grid(sampling_mode, size, target) + 0.5).astype(np.int64))
    return take_nearest(xp, x, sources)


def resize_targets(x: Array, shape: tuple[int, ...], resized_dims: int) -> list[int]:
    """Returns the sizes that the last axes of x get.

    Raises:
        ValueError: `shape` has fewer than `resized_dims` sizes, or more than x.
    """
    if not resized_dims <= len(shape) <= x.ndim:
        raise ValueError(
            f"shape: {resized_dims} (resized_dims) to {x.ndim} (rank of x) sizes expected. "
            f"Got {list(shape)}."
        )
    targets, sizes = shape[len(shape) - resized_dims :], x.shape[x.ndim - resized_dims :]
    return [target or size for target, size in zip(targets, sizes, strict=True)]


@kernel("crop")
def crop(
    xp: Namespace, *, x: Array, crop_height: tuple[int, ...], crop_width: tuple[int, ...]
) -> Array:
    """x (..., height, width) -> x without its first and last rows and columns."""
    (top, bottom), (left, right) = crop_height, crop_width
    return x[..., top : x.shape[-2] - bottom, left : x.shape[-1] - right]
