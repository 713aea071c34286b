"""`crop_resize`: boxes cut from images, each resized to the same size."""

from __future__ import annotations

from typing import Any

from mlpass.arrays import Array, Namespace
from mlpass.runtime.kernels.image_resizing import check_mode
from mlpass.runtime.kernels.registry import kernel
from mlpass.runtime.kernels.sampling import bilinear, device_of, mirrored

_BOX_MODES = {
    # (centre and size, width first)
    "CORNERS_HEIGHT_FIRST": (False, False),
    "CORNERS_WIDTH_FIRST": (False, True),
    "CENTER_SIZE_HEIGHT_FIRST": (True, False),
    "CENTER_SIZE_WIDTH_FIRST": (True, True),
}
# Coordinates that are beyond an edge by less than this are at the edge: rounding, not intention.
_ROUNDING = 1e-4


@kernel("crop_resize")
def crop_resize_ios13(
    xp: Namespace,
    *,
    x: Array,
    roi: Array,
    target_height: int = 1,
    target_width: int = 1,
    normalized_coordinates: bool = False,
    spatial_scale: float = 1.0,
    box_coordinate_mode: str = "CORNERS_HEIGHT_FIRST",
    sampling_mode: str = "DEFAULT",
) -> Array:
    """x (images, channels, height, width), roi (boxes, 1, 4 or 5, 1, 1) -> see iOS16's."""
    return _crop_rois(
        xp,
        x,
        roi,
        (target_height, target_width),
        normalized_coordinates,
        spatial_scale,
        box_coordinate_mode,
        sampling_mode,
        # Without a value to pad with, this mode mirrors coordinates that are beyond an edge, as
        # the one published case of it shows.
        None if sampling_mode == "UNALIGN_CORNERS" else 0.0,
    )


@kernel("crop_resize", since=16)
def crop_resize_ios16(
    xp: Namespace,
    *,
    x: Array,
    roi: Array,
    target_height: int = 1,
    target_width: int = 1,
    normalized_coordinates: bool = False,
    spatial_scale: float = 1.0,
    box_coordinate_mode: str = "CORNERS_HEIGHT_FIRST",
    sampling_mode: str = "DEFAULT",
    pad_value: float = 0.0,
) -> Array:
    """x (images, channels, height, width), roi (boxes, 1, 4 or 5, 1, 1).

    -> (boxes, images, channels, target height, target width) for boxes of 4 numbers;
    -> (boxes, 1, channels, target height, target width) for 5, the first of which says the image.
    """
    return _crop_rois(
        xp,
        x,
        roi,
        (target_height, target_width),
        normalized_coordinates,
        spatial_scale,
        box_coordinate_mode,
        sampling_mode,
        pad_value,
    )


@kernel("crop_resize", since=17)
def crop_resize(
    xp: Namespace,
    *,
    x: Array,
    boxes: Array,
    box_indices: Array | None = None,
    target_height: int = 1,
    target_width: int = 1,
    normalized_coordinates: bool = False,
    spatial_scale: float = 1.0,
    box_coordinate_mode: str = "CORNERS_HEIGHT_FIRST",
    sampling_mode: str = "DEFAULT",
    pad_value: float = 0.0,
) -> Array:
    """x (images, channels, height, width), boxes (boxes, 4), box_indices (boxes,).

    -> (boxes, channels, target height, target width); box_indices are 0, 1, ... by default.
    """
    count = boxes.shape[0]
    if box_indices is None:
        if count > x.shape[0]:
            raise ValueError(f"boxes: {count} boxes of {x.shape[0]} images need box_indices")
        box_indices = xp.arange(count, device=device_of(x))
    return _crop(
        xp,
        x,
        xp.astype(box_indices, xp.int64),
        xp.astype(boxes, xp.float32),
        (target_height, target_width),
        normalized_coordinates,
        spatial_scale,
        box_coordinate_mode,
        sampling_mode,
        pad_value,
    )


def _crop_rois(xp: Namespace, x: Array, roi: Array, target: tuple[int, int], *how: Any) -> Array:
    boxes = xp.reshape(xp.astype(roi, xp.float32), (roi.shape[0], -1))
    count, images = boxes.shape[0], x.shape[0]
    if boxes.shape[1] == 5:
        chosen = xp.astype(boxes[:, 0], xp.int64)
        return _crop(xp, x, chosen, boxes[:, 1:], target, *how)[:, None, ...]
    if boxes.shape[1] != 4:
        raise ValueError(f"roi: boxes of 4 or 5 numbers expected. Got {tuple(roi.shape)}.")
    # Every box is cut from every image: the boxes in the outer order.
    boxes = xp.reshape(xp.broadcast_to(boxes[:, None, :], (count, images, 4)), (count * images, 4))
    chosen = xp.reshape(
        xp.broadcast_to(xp.arange(images, device=device_of(x)), (count, images)), (-1,)
    )
    crops = _crop(xp, x, chosen, boxes, target, *how)
    return xp.reshape(crops, (count, images, *crops.shape[1:]))


def _crop(
    xp: Namespace,
    x: Array,
    images: Array,
    boxes: Array,
    target: tuple[int, int],
    normalized_coordinates: bool,
    spatial_scale: float,
    box_coordinate_mode: str,
    sampling_mode: str,
    pad_value: float | None,
) -> Array:
    """x (images, channels, height, width), images (boxes,), boxes (boxes, 4).

    -> (boxes, channels, *target); what is beyond x is `pad_value`, or mirrored where it is None.
    """
    if box_coordinate_mode not in _BOX_MODES:
        raise ValueError(
            f"box_coordinate_mode: one of {', '.join(_BOX_MODES)} expected. "
            f"Got {box_coordinate_mode!r}."
        )
    check_mode(sampling_mode)
    centred, width_first = _BOX_MODES[box_coordinate_mode]
    points, inside = [], []
    for axis, (size, wanted) in enumerate(zip(x.shape[2:], target, strict=True)):
        column = 1 - axis if width_first else axis
        factor = spatial_scale * (size - 1 if normalized_coordinates else 1)
        first, second = boxes[:, column] * factor, boxes[:, column + 2] * factor
        if centred:
            first, second = first - second / 2, first + second / 2
        at = _along_box(xp, first, second, wanted, sampling_mode)
        if pad_value is None:
            at = mirrored(xp, at, 0.0, size - 1.0)
        inside.append((at >= -_ROUNDING) & (at <= size - 1 + _ROUNDING))
        points.append(xp.clip(at, 0.0, size - 1.0))
    rows, columns = xp.broadcast_arrays(points[0][:, :, None], points[1][:, None, :])
    crops = bilinear(xp, x, images, rows, columns, None)
    known = inside[0][:, None, :, None] & inside[1][:, None, None, :]
    return xp.where(known, crops, xp.asarray(pad_value or 0.0, dtype=x.dtype, device=device_of(x)))


def _along_box(xp: Namespace, first: Array, second: Array, count: int, mode: str) -> Array:
    """first and second (boxes,), the outer pixels of each box -> sample points (boxes, count).

    The modes of `resize_bilinear`, for as many pixels as the box spans. A box whose second edge
    is before its first one gives a flipped crop.
    """
    index = xp.arange(count, dtype=xp.float32, device=device_of(first))[None, :]
    reach = xp.abs(second - first)[:, None]  # pixels of the box, less one
    if mode == "DEFAULT":
        steps = index * ((reach + 1) / count)
    elif mode == "UNALIGN_CORNERS":
        steps = (index + 0.5) * ((reach + 1) / count) - 0.5
    elif mode == "OFFSET_CORNERS":
        steps = (index + 0.5) * (xp.where(reach > 1, reach, xp.ones_like(reach)) / count)
    elif count > 1:
        steps = index * (reach / (count - 1))
    else:
        steps = (reach / 2 if mode == "ALIGN_CORNERS" else reach * 0) + index
    if mode != "OFFSET_CORNERS":
        steps = xp.where(steps > 0, steps, xp.zeros_like(steps))
        steps = xp.where(steps < reach, steps, reach + xp.zeros_like(steps))
    return xp.where((second < first)[:, None], first[:, None] - steps, first[:, None] + steps)
