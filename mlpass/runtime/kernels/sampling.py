"""Sampling of images at free coordinates: `affine`, `resample`."""

from __future__ import annotations

from mlpass.arrays import Array, Namespace
from mlpass.runtime.kernels.registry import kernel


@kernel("affine")
def affine(
    xp: Namespace,
    *,
    x: Array,
    transform_matrix: Array,
    output_height: int,
    output_width: int,
    sampling_mode: str,
    padding_mode: str,
    padding_value: float,
    coordinates_mode: str,
    align_corners: bool,
) -> Array:
    """x (images, channels, height, width), transform_matrix (1 or images, 6) -> (..., output size).

    The pixel at (column, row) of the output is taken at
    (a0 column + a1 row + a2, b0 column + b1 row + b2) of x, all in [-1, 1].
    """
    if coordinates_mode.lower() != "normalized_minus_one_to_one":
        raise ValueError(
            f"coordinates_mode: normalized_minus_one_to_one expected. Got {coordinates_mode!r}."
        )
    height, width = output_height, output_width
    rows, columns = (_even_points(xp, x, count, align_corners) for count in (height, width))
    rows, columns = rows[None, :, None], columns[None, None, :]
    terms = xp.astype(transform_matrix, xp.float32)[:, :, None, None]
    along, down = (
        terms[:, start, ...] * columns + terms[:, start + 1, ...] * rows + terms[:, start + 2, ...]
        for start in (0, 3)
    )
    coordinates = xp.stack(xp.broadcast_arrays(along, down), axis=-1)
    return resample(
        xp,
        x=x,
        coordinates=xp.broadcast_to(coordinates, (x.shape[0], height, width, 2)),
        sampling_mode=sampling_mode,
        padding_mode=padding_mode,
        padding_value=padding_value,
        coordinates_mode=coordinates_mode,
        align_corners=align_corners,
    )


def _even_points(xp: Namespace, x: Array, count: int, align_corners: bool) -> Array:
    """Returns the centres of `count` pixels in [-1, 1], or from edge to edge."""
    index = xp.arange(count, dtype=xp.float32, device=device_of(x))
    if not align_corners:
        return (2 * index + 1) / count - 1
    return 2 * index / (count - 1) - 1 if count > 1 else xp.zeros_like(index)


@kernel("resample")
def resample(
    xp: Namespace,
    *,
    x: Array,
    coordinates: Array,
    sampling_mode: str,
    padding_mode: str,
    padding_value: float,
    coordinates_mode: str,
    align_corners: bool,
) -> Array:
    """x (images, channels, height, width), coordinates (images, rows, columns, 2) of (x, y).

    -> (images, channels, rows, columns)
    """
    mode, padding = sampling_mode.lower(), padding_mode.lower()
    if mode not in ("bilinear", "nearest"):
        raise ValueError(f"sampling_mode: bilinear or nearest expected. Got {sampling_mode!r}.")
    if padding not in ("constant", "border", "reflection", "symmetric"):
        raise ValueError(
            "padding_mode: constant, border, reflection or symmetric expected. "
            f"Got {padding_mode!r}."
        )
    at = xp.astype(coordinates, xp.float32)
    points = []
    for axis, size in ((1, x.shape[2]), (0, x.shape[3])):
        point = _in_pixels(at[..., axis], size, coordinates_mode.lower(), align_corners)
        if padding == "reflection":
            point = mirrored(xp, point, 0.0, size - 1.0)
        elif padding == "symmetric":
            point = mirrored(xp, point, -0.5, size - 0.5)
        points.append(point if padding == "constant" else xp.clip(point, 0.0, size - 1.0))
    images = xp.arange(x.shape[0], device=device_of(x))
    value = padding_value if padding == "constant" else None
    if mode == "bilinear":
        return bilinear(xp, x, images, points[0], points[1], value)
    rows, columns = (xp.astype(xp.round(_bounded(xp, p)), xp.int64) for p in points)
    return _gather(xp, x, images, rows, columns, value)


def _in_pixels(point: Array, size: int, mode: str, align_corners: bool) -> Array:
    """Returns coordinates as positions among `size` pixels, the centre of the first one at 0."""
    if mode == "unnormalized":
        return point
    if mode == "normalized_minus_one_to_one":
        point = (point + 1) / 2
    elif mode != "normalized_zero_to_one":
        raise ValueError(
            "coordinates_mode: unnormalized, normalized_minus_one_to_one or "
            f"normalized_zero_to_one expected. Got {mode!r}."
        )
    return point * (size - 1) if align_corners else point * size - 0.5


def mirrored(xp: Namespace, point: Array, low: float, high: float) -> Array:
    """Returns coordinates folded into [low, high] by mirrors at both ends."""
    span = high - low
    if span <= 0:
        return xp.zeros_like(point)
    period = 2 * span
    folded = point - low
    folded = folded - xp.floor(folded / period) * period
    return xp.where(folded > span, period - folded, folded) + low


def _bounded(xp: Namespace, point: Array) -> Array:
    # Far outside is outside: larger numbers, infinity and NaN do not fit an integer.
    point = xp.where(xp.isnan(point), xp.full_like(point, -2.0), point)
    return xp.clip(point, -2.0, 1e8)


def bilinear(
    xp: Namespace, x: Array, images: Array, rows: Array, columns: Array, value: float | None
) -> Array:
    """Returns the mean of the four pixels around each point, by distance: see `_gather`."""
    rows, columns = _bounded(xp, rows), _bounded(xp, columns)
    top, left = xp.floor(rows), xp.floor(columns)
    down, right = (rows - top)[:, None, ...], (columns - left)[:, None, ...]
    top, left = xp.astype(top, xp.int64), xp.astype(left, xp.int64)
    corners = [[_gather(xp, x, images, top + y, left + z, value) for z in (0, 1)] for y in (0, 1)]
    upper, lower = (pair[0] + (pair[1] - pair[0]) * right for pair in corners)
    return upper + (lower - upper) * down


def _gather(
    xp: Namespace, x: Array, images: Array, rows: Array, columns: Array, value: float | None
) -> Array:
    """x (images, channels, height, width), images (n,), rows and columns (n, *points).

    -> (n, channels, *points). Outside x it is `value`, or the nearest pixel where that is None.
    """
    count, channels, height, width = x.shape
    flat = xp.reshape(xp.permute_dims(x, (1, 0, 2, 3)), (channels, count * height * width))
    base = xp.reshape(xp.astype(images, xp.int64), (-1,) + (1,) * (rows.ndim - 1))
    index = (base * height + xp.clip(rows, 0, height - 1)) * width + xp.clip(columns, 0, width - 1)
    taken = xp.reshape(xp.take(flat, xp.reshape(index, (-1,)), axis=1), (channels, *index.shape))
    taken = xp.permute_dims(taken, (1, 0, *range(2, taken.ndim)))
    if value is None:
        return taken
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    return xp.where(
        inside[:, None, ...], taken, xp.asarray(value, dtype=x.dtype, device=device_of(x))
    )


def device_of(x: Array) -> object:
    """Returns the device of an array, for those that are made to go with it."""
    return getattr(x, "device", None)
