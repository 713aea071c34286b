"""Resizing, against torch, numpy's interpolation and numbers of coremltools' own op tests."""

import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from harness import Record, check, compare, over, run

pytestmark = pytest.mark.slow_but_every(3)

RNG = np.random.default_rng(3)


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def row(*values):
    return np.asarray(values, np.float32).reshape(1, 1, -1)


def points(mode, size, count):
    """The sample points, from the notes in MIL's docstring of resize_bilinear."""
    result = []
    for i in range(count):
        if mode == "STRICT_ALIGN_CORNERS" or (mode == "ALIGN_CORNERS" and count > 1):
            at = i * (size - 1) / (count - 1) if count > 1 else 0.0
        elif mode == "ALIGN_CORNERS":
            at = (size - 1) / 2
        elif mode == "DEFAULT":
            at = i * (size - size / count) / (count - 1) if count > 1 else 0.0
        elif mode == "OFFSET_CORNERS":
            delta = max(1, size - 1) / count
            at = 0.5 * delta + i * delta
        else:
            at = (i + 0.5) * size / count - 0.5
        result.append(min(size - 1, max(0, at)))
    return result


def linear(x, targets, mode):
    x = x.astype(np.float64)
    for axis, target in enumerate(targets, x.ndim - len(targets)):
        size = x.shape[axis]
        at = points(mode, size, target)
        x = np.apply_along_axis(lambda v, s=size, p=at: np.interp(p, np.arange(s), v), axis, x)
    return x


def bilinear(x, target_size_height=1, target_size_width=1, sampling_mode="DEFAULT"):
    return linear(x, [target_size_height, target_size_width], sampling_mode)


MODES = ("DEFAULT", "STRICT_ALIGN_CORNERS", "ALIGN_CORNERS", "OFFSET_CORNERS", "UNALIGN_CORNERS")
TARGETS = ((1, 1), (2, 9), (5, 7), (10, 14), (3, 1), (8, 3))
RECORDS = [
    Record(
        "resize_bilinear",
        {
            "x": normal(2, 3, 5, 7),
            "target_size_height": height,
            "target_size_width": width,
            "sampling_mode": mode,
        },
        bilinear,
        name=f"{mode}_{height}_{width}",
    )
    for mode in MODES
    for height, width in TARGETS
]
RECORDS += [
    Record("resize_bilinear", {"x": normal(1, 4, 5)}, bilinear, name="by_default"),
    Record(
        "resize_bilinear",
        {"x": normal(2, 1, 1), "target_size_height": 3, "target_size_width": 2},
        bilinear,
        name="of_one",
    ),
    Record(
        "resize_bilinear",
        {"x": normal(2, 1, 2, 3, 4, 5), "target_size_height": 3, "target_size_width": 9},
        bilinear,
        name="rank_6",
    ),
]
# Numbers of coremltools' own op tests, and of the docstring.
RECORDS += [
    Record(
        "resize_bilinear",
        {
            "x": row(0, 1),
            "target_size_height": 1,
            "target_size_width": len(expected),
            "sampling_mode": mode,
        },
        row(*expected),
        name=f"published_{mode}_{len(expected)}",
        tolerance=tolerance,
    )
    for mode, tolerance, expected in (
        ("STRICT_ALIGN_CORNERS", 1e-6, (0, 0.25, 0.5, 0.75, 1)),
        ("DEFAULT", 1e-6, (0, 0.4, 0.8, 1, 1)),
        ("OFFSET_CORNERS", 1e-6, (0.1, 0.3, 0.5, 0.7, 0.9)),
        ("UNALIGN_CORNERS", 1e-6, (0, 0.1, 0.5, 0.9, 1)),
        ("OFFSET_CORNERS", 1e-2, (0.08, 0.25, 0.42, 0.58, 0.75, 0.92)),
        ("UNALIGN_CORNERS", 1e-2, (0, 0, 0.33, 0.67, 1, 1)),
    )
]


def upsampled(**attributes):
    """Returns a function that upsamples with torch."""
    return lambda x, scale_factor_height=1, scale_factor_width=1, **_: functional.interpolate(
        torch.from_numpy(x).double(),
        scale_factor=(scale_factor_height, scale_factor_width),
        mode="bilinear",
        recompute_scale_factor=True,
        **attributes,
    ).numpy()


for factors in ((3, 4), (2.5, 2.0), (0.5, 0.75), (1.3, 1.0), (0.7, 1.1)):
    named = dict(zip(("scale_factor_height", "scale_factor_width"), factors, strict=True))
    for align in (True, False):
        for opset in (13, 16):
            RECORDS.append(
                Record(
                    "upsample_bilinear",
                    {"x": normal(2, 3, 10, 22), **named, "align_corners": align},
                    upsampled(align_corners=align),
                    opset=opset,
                    name=f"{factors}_{align}",
                )
            )
THIRD = 1 / 3
RECORDS += [
    Record(
        "upsample_bilinear",
        {"x": row(1, 2), "scale_factor_width": 3, **attributes},
        row(*expected),
        name=f"published_{attributes}",
    )
    for attributes, expected in (
        ({}, (1, 1.2, 1.4, 1.6, 1.8, 2)),
        ({"align_corners": True, "half_pixel_centers": False}, (1, 1.2, 1.4, 1.6, 1.8, 2)),
        ({"align_corners": False}, (1, 1, 1 + THIRD, 2 - THIRD, 2, 2)),
        (
            {"align_corners": False, "half_pixel_centers": True},
            (1, 1, 1 + THIRD, 2 - THIRD, 2, 2),
        ),
        (
            {"align_corners": False, "half_pixel_centers": False},
            (1, 1 + THIRD, 2 - THIRD, 2, 2, 2),
        ),
    )
]


def nearest(x, targets, half):
    for axis, target in enumerate(targets, x.ndim - len(targets)):
        size = x.shape[axis]
        at = [int((i + half) * size / target + 1e-9) for i in range(target)]
        x = np.take(x, at, axis)
    return x


RECORDS += [
    Record(
        "resize_nearest_neighbor",
        {"x": normal(2, 3, 4, 6), "target_size_height": height, "target_size_width": width},
        lambda x, target_size_height, target_size_width: nearest(
            x, [target_size_height, target_size_width], 0.5
        ),
        name=f"{height}_{width}",
    )
    for height, width in ((1, 1), (2, 9), (8, 12), (4, 6), (3, 5))
]
RECORDS += [
    Record(
        "upsample_nearest_neighbor",
        {"x": normal(2, 3, 4, 6), "scale_factor_height": height, "scale_factor_width": width},
        lambda x, scale_factor_height, scale_factor_width: functional.interpolate(
            torch.from_numpy(x),
            size=(int(4 * scale_factor_height), int(6 * scale_factor_width)),
        ).numpy(),
        name=f"{height}_{width}",
    )
    for height, width in ((1, 1), (2, 3), (1.5, 2.5), (0.5, 1.0))
]
THREE = np.asarray([1.5, -2.5, 3.5], np.float32).reshape(1, 1, 1, 3)
RECORDS += [
    Record("upsample_nearest_neighbor", {"x": THREE}, THREE, name="by_default"),
    Record(
        "upsample_nearest_neighbor",
        {"x": THREE, "scale_factor_height": 3.17, "scale_factor_width": 0.67},
        np.tile(THREE[..., :2], (1, 1, 3, 1)),
        name="published_3.17_0.67",
    ),
    Record(
        "upsample_nearest_neighbor",
        {"x": THREE, "scale_factor_height": 2.0, "scale_factor_width": 1.12},
        np.tile(THREE, (1, 1, 2, 1)),
        name="published_2_1.12",
    ),
]

PAIR = np.asarray([-6.174, 9.371], np.float32)
RECORDS += [
    Record(
        "resize",
        {
            "x": PAIR.reshape(1, 1, 1, 2, 1),
            "shape": [1, 1, 3, 2],
            "resized_dims": 2,
            "interpolation_mode": "NEAREST_NEIGHBOR",
        },
        PAIR[[0, 0, 1, 1, 1, 1]].reshape(1, 1, 1, 3, 2),
        name="published_nearest",
    ),
    Record(
        "resize",
        {"x": row(0, 1), "shape": [3, 1, 5], "resized_dims": 2},
        row(0, 0.4, 0.8, 1, 1),
        name="published_linear",
    ),
    Record(
        "resize",
        {"x": normal(1, 2, 3, 4), "shape": [1, 0, 0], "resized_dims": 2},
        lambda x, **_: x,
        name="kept",
    ),
    Record(
        "resize",
        {
            "x": np.arange(6, dtype=np.int32).reshape(2, 3),
            "shape": [6],
            "resized_dims": 1,
            "interpolation_mode": "NEAREST_NEIGHBOR",
        },
        np.repeat(np.arange(6, dtype=np.int32).reshape(2, 3), 2, axis=1),
        name="ints",
    ),
    Record(
        "resize",
        {"x": np.asarray([[0, 4]], np.int32), "shape": [4], "resized_dims": 1},
        np.asarray([[0, 2, 4, 4]], np.int32),
        name="ints_linear",
    ),
]
RECORDS += [
    Record(
        "resize",
        {
            "x": normal(2, 3, 4, 5),
            "shape": [7, 0, 3],
            "resized_dims": 3,
            "sampling_mode": mode,
        },
        lambda x, sampling_mode, **_: linear(x, [7, 4, 3], sampling_mode),
        name=f"three_axes_{mode}",
    )
    for mode in MODES
]
RECORDS += [
    Record(
        "resize",
        {
            "x": normal(2, 4, 5),
            "shape": [6, 3],
            "resized_dims": 2,
            "interpolation_mode": "NEAREST_NEIGHBOR",
            "sampling_mode": mode,
        },
        lambda x, sampling_mode, **_: x[
            :,
            [int(np.floor(p + 0.5)) for p in points(sampling_mode, 4, 6)],
        ][..., [int(np.floor(p + 0.5)) for p in points(sampling_mode, 5, 3)]],
        name=f"nearest_{mode}",
    )
    for mode in MODES[1:]
]

SQUARE = np.arange(1, 17, dtype=np.float32).reshape(1, 1, 4, 4)
RECORDS += [
    Record(
        "crop",
        {"x": SQUARE, "crop_height": [0, 1], "crop_width": [1, 1]},
        np.asarray([2, 3, 6, 7, 10, 11]).reshape(1, 1, 3, 2) * 1.0,
        name="published",
    ),
    Record("crop", {"x": SQUARE, "crop_height": [0, 0], "crop_width": [0, 0]}, SQUARE, name="none"),
]


@over(RECORDS)
def test_kernel(record, namespace):
    check(record, namespace)


def test_the_size_of_an_upsampled_image_is_found_in_single_precision():
    # 0.7 in fp32 times 10 is 7 there, and a little less in fp64.
    y = run("upsample_bilinear", {"x": normal(1, 10, 10), "scale_factor_width": 0.7}, "read-only")
    assert y.shape == (1, 10, 7)


def test_resize_is_from_ios17():
    with pytest.raises(LookupError):
        run("resize", {"x": SQUARE, "shape": [2], "resized_dims": 1}, "numpy", 16)


@pytest.mark.parametrize("namespace", ["numpy", "torch"])
@pytest.mark.parametrize(
    ("op", "attributes", "text"),
    [
        ("resize_bilinear", {"sampling_mode": "CORNERS"}, "sampling_mode: one of DEFAULT"),
        (
            "upsample_bilinear",
            {"align_corners": True, "half_pixel_centers": True},
            "cannot both be True",
        ),
        (
            "resize",
            {"shape": [2, 2], "resized_dims": 2, "interpolation_mode": "CUBIC"},
            "LINEAR or NEAREST_NEIGHBOR expected. Got 'CUBIC'",
        ),
        ("resize", {"shape": [2], "resized_dims": 2}, "shape: 2 \\(resized_dims\\) to 4"),
        ("resize", {"shape": [2, 2], "resized_dims": 2, "sampling_mode": "X"}, "sampling_mode"),
    ],
)
def test_what_is_unknown_is_refused(op, attributes, text, namespace):
    with pytest.raises(ValueError, match=text):
        run(op, {"x": SQUARE, **attributes}, namespace)


def test_gradients_flow_through_the_torch_kernels():
    from array_api_compat import torch as xp

    from mlpass.runtime.kernels.registry import find_kernel

    for mode in MODES:
        x = torch.randn(1, 2, 4, 4, requires_grad=True)
        kernel = find_kernel("resize_bilinear", 18, "torch")
        kernel(
            xp, x=x, target_size_height=8, target_size_width=3, sampling_mode=mode
        ).sum().backward()
        # Each output is a mean of inputs: the gradients add up to the number of outputs.
        compare(x.grad.sum(dim=(0, 2, 3)).numpy(), np.full(2, 24.0), 1e-5, mode)
