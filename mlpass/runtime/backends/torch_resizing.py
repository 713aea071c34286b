"""Resizing and sampling on torch, where it does exactly what MIL says."""

from __future__ import annotations

import torch.nn.functional as functional
from torch import Tensor

from mlpass.arrays import Array, Namespace
from mlpass.runtime.kernels import image_resizing, sampling
from mlpass.runtime.kernels.registry import kernel
from mlpass.runtime.kernels.room import check_room

# What functional.interpolate calls the sampling modes that it has.
_ALIGN_CORNERS = {"STRICT_ALIGN_CORNERS": True, "UNALIGN_CORNERS": False}


def _resize_bilinear(xp: Namespace, x: Tensor, targets: list[int], mode: str) -> Array:
    """x (..., height, width) -> (..., *targets)."""
    if mode not in _ALIGN_CORNERS or not x.is_floating_point() or x.numel() == 0:
        return image_resizing.resize_linear(xp, x, targets, mode)
    check_room((*x.shape[:-2], *targets), x.dtype)
    images = x.reshape(1, -1, *x.shape[-2:])
    resized = functional.interpolate(
        images, targets, mode="bilinear", align_corners=_ALIGN_CORNERS[mode]
    )
    return resized.reshape(*x.shape[:-2], *targets)


@kernel("resize_bilinear", backend="torch")
def resize_bilinear(
    xp: Namespace,
    *,
    x: Tensor,
    target_size_height: int = 1,
    target_size_width: int = 1,
    sampling_mode: str = "DEFAULT",
) -> Array:
    """x (..., height, width) -> (..., target height, target width)."""
    targets = [target_size_height, target_size_width]
    return _resize_bilinear(xp, x, targets, sampling_mode)


@kernel("upsample_bilinear", backend="torch")
def upsample_bilinear_ios13(
    xp: Namespace,
    *,
    x: Tensor,
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


@kernel("upsample_bilinear", since=16, backend="torch")
def upsample_bilinear(
    xp: Namespace,
    *,
    x: Tensor,
    scale_factor_height: float = 1,
    scale_factor_width: float = 1,
    align_corners: bool = True,
    half_pixel_centers: bool | None = None,
) -> Array:
    """x (..., height, width) -> (..., floor(height * factor), floor(width * factor))."""
    targets = [
        image_resizing.scaled_size(x.shape[-2], scale_factor_height),
        image_resizing.scaled_size(x.shape[-1], scale_factor_width),
    ]
    mode = image_resizing.upsampling_mode(align_corners, half_pixel_centers)
    return _resize_bilinear(xp, x, targets, mode)


@kernel("upsample_nearest_neighbor", backend="torch")
def upsample_nearest_neighbor(
    xp: Namespace, *, x: Tensor, scale_factor_height: float = 1, scale_factor_width: float = 1
) -> Array:
    """x (..., height, width) -> (..., floor(height * factor), floor(width * factor))."""
    targets = [
        image_resizing.scaled_size(x.shape[-2], scale_factor_height),
        image_resizing.scaled_size(x.shape[-1], scale_factor_width),
    ]
    whole = all(target % size == 0 for size, target in zip(x.shape[-2:], targets, strict=True))
    if not whole or not x.is_floating_point() or x.numel() == 0:
        # torch rounds a fraction of a pixel on its own.
        return image_resizing.upsample_nearest_neighbor(
            xp,
            x=x,
            scale_factor_height=scale_factor_height,
            scale_factor_width=scale_factor_width,
        )
    check_room((*x.shape[:-2], *targets), x.dtype)
    resized = functional.interpolate(x.reshape(1, -1, *x.shape[-2:]), targets, mode="nearest")
    return resized.reshape(*x.shape[:-2], *targets)


# torch reflects at the centres of the outer pixels with align_corners, at their edges without.
_GRID_PADDING = {
    ("constant", True): "zeros",
    ("constant", False): "zeros",
    ("border", True): "border",
    ("border", False): "border",
    ("reflection", True): "reflection",
    ("symmetric", False): "reflection",
}


@kernel("resample", backend="torch")
def resample(
    xp: Namespace,
    *,
    x: Tensor,
    coordinates: Tensor,
    sampling_mode: str,
    padding_mode: str,
    padding_value: float,
    coordinates_mode: str,
    align_corners: bool,
) -> Array:
    """x (images, channels, height, width), coordinates (images, rows, columns, 2) of (x, y).

    -> (images, channels, rows, columns)
    """
    align, mode = align_corners, coordinates_mode.lower()
    padding = _GRID_PADDING.get((padding_mode.lower(), align))
    value = padding_value if padding == "zeros" else 0.0
    if (
        padding is None
        or value  # only zeros
        or mode not in ("normalized_minus_one_to_one", "normalized_zero_to_one")
        or sampling_mode.lower() not in ("bilinear", "nearest")
    ):
        return sampling.resample(
            xp,
            x=x,
            coordinates=coordinates,
            sampling_mode=sampling_mode,
            padding_mode=padding_mode,
            padding_value=padding_value,
            coordinates_mode=coordinates_mode,
            align_corners=align_corners,
        )
    grid = coordinates.to(x.dtype)
    if mode == "normalized_zero_to_one":
        grid = 2 * grid - 1
    return functional.grid_sample(x, grid, sampling_mode.lower(), padding, align)
