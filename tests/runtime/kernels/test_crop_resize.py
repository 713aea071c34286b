"""crop_resize, against scipy and coremltools' own op tests."""

import numpy as np
import pytest
from harness import Record, check, over, run
from scipy.ndimage import map_coordinates

RNG = np.random.default_rng(4)
SQUARE = np.arange(1, 17, dtype=np.float32).reshape(1, 1, 4, 4)
MODES = ("DEFAULT", "STRICT_ALIGN_CORNERS", "ALIGN_CORNERS", "OFFSET_CORNERS", "UNALIGN_CORNERS")


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def uniform(low, high, *shape):
    return RNG.uniform(low, high, shape).astype(np.float32)


def along(first, second, count, mode):
    """Sample points of a box, by the modes of resize_bilinear over the pixels that it spans."""
    span, sign = abs(second - first) + 1, 1 if second >= first else -1
    result = []
    for i in range(count):
        if mode == "ALIGN_CORNERS" and count == 1:
            at = (span - 1) / 2
        elif mode in ("ALIGN_CORNERS", "STRICT_ALIGN_CORNERS"):
            at = i * (span - 1) / max(1, count - 1)
        elif mode == "DEFAULT":
            at = i * span / count
        elif mode == "OFFSET_CORNERS":
            at = (i + 0.5) * max(1, span - 1) / count
        else:
            at = (i + 0.5) * span / count - 0.5
        if mode != "OFFSET_CORNERS":
            at = min(span - 1, max(0, at))
        result.append(first + sign * at)
    return np.asarray(result)


def crops(
    x,
    boxes,
    box_indices=None,
    target_height=1,
    target_width=1,
    normalized_coordinates=False,
    spatial_scale=1.0,
    box_coordinate_mode="CORNERS_HEIGHT_FIRST",
    sampling_mode="DEFAULT",
    pad_value=0.0,
):
    height, width = x.shape[2:]
    indices = range(len(boxes)) if box_indices is None else box_indices
    result = np.empty((len(boxes), x.shape[1], target_height, target_width))
    for index, (image, box) in enumerate(zip(indices, boxes.astype(np.float64), strict=True)):
        box = box * spatial_scale
        if "WIDTH" in box_coordinate_mode:
            box = box[[1, 0, 3, 2]]
        if "CENTER" in box_coordinate_mode:
            box = np.concatenate([box[:2] - box[2:] / 2, box[:2] + box[2:] / 2])
        if normalized_coordinates:
            box = box * [height - 1, width - 1, height - 1, width - 1]
        rows = along(box[0], box[2], target_height, sampling_mode)
        columns = along(box[1], box[3], target_width, sampling_mode)
        grid = np.meshgrid(rows, columns, indexing="ij")
        outside = (grid[0] < -1e-4) | (grid[0] > height - 1 + 1e-4)
        outside |= (grid[1] < -1e-4) | (grid[1] > width - 1 + 1e-4)
        for channel in range(x.shape[1]):
            plane = map_coordinates(
                x[int(image), channel].astype(np.float64), grid, order=1, mode="nearest"
            )
            result[index, channel] = np.where(outside, pad_value, plane)
    return result


BOXES = np.asarray(
    [[0, 0, 4, 6], [1, 2, 3, 5.5], [3, 5, 1, 2], [0.3, 0.2, 0.3, 0.2], [-1, 2, 3, 9]], np.float32
)
IMAGES = np.asarray([0, 1, 1, 0, 1], np.int32)
TARGET = {"target_height": 3, "target_width": 4}
RECORDS = [
    Record(
        "crop_resize",
        {
            "x": normal(2, 3, 5, 7),
            "boxes": BOXES,
            "box_indices": IMAGES,
            "sampling_mode": mode,
            "target_height": height,
            "target_width": width,
            "pad_value": 2.5,
        },
        crops,
        name=f"{mode}_{height}_{width}",
    )
    for mode in MODES
    for height, width in ((3, 4), (1, 1), (5, 7))
]
RECORDS += [
    Record(
        "crop_resize",
        {
            "x": normal(2, 3, 5, 7),
            "boxes": uniform(0.1, 0.9, 4, 4) * (1 if normalized else 4),
            "box_indices": np.asarray([1, 0, 0, 1], np.int32),
            "box_coordinate_mode": mode,
            "normalized_coordinates": normalized,
            "sampling_mode": "ALIGN_CORNERS",
            "spatial_scale": 0.75,
            **TARGET,
        },
        crops,
        name=f"{mode}_{normalized}",
        tolerance=1e-4,
    )
    for mode in (
        "CORNERS_HEIGHT_FIRST",
        "CORNERS_WIDTH_FIRST",
        "CENTER_SIZE_HEIGHT_FIRST",
        "CENTER_SIZE_WIDTH_FIRST",
    )
    for normalized in (False, True)
]
RECORDS += [
    Record("crop_resize", {"x": SQUARE, "boxes": BOXES[1:2]}, crops, name="by_default"),
    Record(
        "crop_resize",
        {
            "x": normal(2, 1, 4, 4),
            "boxes": np.asarray([[0, 1, 2, 3], [1, 1, 3, 3]], np.uint16),
            "sampling_mode": "ALIGN_CORNERS",
            **TARGET,
        },
        crops,
        name="integer_boxes",
    ),
    # The edge of the last pixel is inside, however its coordinate was rounded.
    Record(
        "crop_resize",
        {
            "x": normal(1, 1, 224, 224),
            "boxes": np.asarray([[0.1, 0.3, 1, 1]], np.float32),
            "normalized_coordinates": True,
            "sampling_mode": "ALIGN_CORNERS",
            "target_height": 13,
            "target_width": 11,
            "pad_value": 1e6,
        },
        crops,
        tolerance=1e-3,
        name="rounding",
    ),
]


def rois(x, roi, **attributes):
    """Every box of every image, or of the one that the roi says: (boxes, images or 1, ...)."""
    boxes = roi.reshape(len(roi), -1)
    if boxes.shape[1] == 5:
        return crops(x, boxes[:, 1:], boxes[:, 0], **attributes)[:, None]
    images = [crops(x, boxes, [image] * len(boxes), **attributes) for image in range(len(x))]
    return np.stack(images, axis=1)


RECORDS += [
    Record(
        "crop_resize",
        {
            "x": normal(2, 3, 5, 7),
            "roi": roi.reshape(*roi.shape[:1], 1, -1, 1, 1),
            "sampling_mode": mode,
            **TARGET,
        },
        rois,
        opset=opset,
        name=f"{mode}_{roi.shape[1]}",
    )
    for mode in MODES
    for roi in (BOXES[:4], np.concatenate([IMAGES[:4, None], BOXES[:4]], 1).astype(np.float32))
    for opset in (13, 16)
    if not (opset == 13 and mode == "UNALIGN_CORNERS")
]


def published(expected, roi, size, opset=13, **attributes):
    roi = np.asarray(roi, np.float32)
    roi = roi.reshape(-1, 1, roi.shape[-1], 1, 1)
    return Record(
        "crop_resize",
        {
            "x": SQUARE,
            "roi": roi,
            "target_height": size,
            "target_width": size,
            "sampling_mode": "ALIGN_CORNERS",
            **attributes,
        },
        np.asarray(expected).reshape(len(roi), 1, 1, size, size) * 1.0,
        opset=opset,
        name=f"published_{size}_{attributes}",
    )


FOURTH = np.linspace(0, 1, 4)
BEYOND = [[0, 0.1, 0.3, 1.3, 1], [0, 0.5, 1.8, 1.0, 0.3], [0, 0.0, 0.4, 0.6, 0.7]]
RECORDS += [
    published([6, 7, 10, 11], [[1, 1, 2, 2]], 2),
    published(6 + FOURTH + 4 * FOURTH[:, None], [[1, 1, 2, 2]], 4),
    published([8.5], [[1, 1, 2, 2]], 1),
    published([1, 2, 5, 6], [[0, 0, 0, 1 / 3, 1 / 3]], 2, normalized_coordinates=True),
    published([11, 10, 7, 6], [[2, 2, 1, 1]], 2, spatial_scale=1.0),
    published(
        [3.5, 5.5, 11.5, 13.5], [[2, 2, 1, 1]], 2, normalized_coordinates=True,
        sampling_mode="UNALIGN_CORNERS",
    ),
    *(
        published(
            [3.1, 5.2, pad, pad, pad, 7.9, pad, 13.9, 2.2, 3.1, 9.4, 10.3], BEYOND, 2, 16,
            normalized_coordinates=True, pad_value=pad,
        )
        for pad in (0.0, 1.0, 10.0)
    ),
]  # fmt: skip
RECORDS += [
    Record(
        "crop_resize",
        {
            "x": SQUARE,
            "boxes": np.asarray(BEYOND, np.float32)[:, 1:],
            "box_indices": np.zeros(3, np.int32),
            "target_height": 2,
            "target_width": 2,
            "normalized_coordinates": True,
            "sampling_mode": "ALIGN_CORNERS",
            "pad_value": 10.0,
        },
        np.asarray([3.1, 5.2, 10, 10, 10, 7.9, 10, 13.9, 2.2, 3.1, 9.4, 10.3]).reshape(3, 1, 2, 2),
        name="published",
    ),
]


@over(RECORDS)
def test_kernel(record, namespace):
    check(record, namespace)


CROP = {"x": SQUARE, "boxes": np.asarray([[0, 0, 1, 1]], np.float32)}


@pytest.mark.parametrize(
    ("op", "arguments", "text"),
    [
        ("crop_resize", {**CROP, "sampling_mode": "X"}, "sampling_mode: one of"),
        ("crop_resize", {**CROP, "box_coordinate_mode": "X"}, "box_coordinate_mode: one of"),
        ("crop_resize", {**CROP, "boxes": np.zeros((2, 4), np.float32)}, "need box_indices"),
    ],
)
def test_what_is_unknown_is_refused(op, arguments, text):
    with pytest.raises(ValueError, match=text):
        run(op, arguments, "numpy")


def test_a_roi_of_three_numbers_is_refused():
    with pytest.raises(ValueError, match="boxes of 4 or 5 numbers"):
        run("crop_resize", {"x": SQUARE, "roi": np.zeros((1, 1, 3, 1, 1), np.float32)}, "numpy", 16)
