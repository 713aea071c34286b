"""affine and resample, against torch and coremltools' own op tests."""

import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from harness import Record, check, over, run

RNG = np.random.default_rng(4)


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def uniform(low, high, *shape):
    return RNG.uniform(low, high, shape).astype(np.float32)


TINY = np.asarray([11, 22, 33, 44], np.float32).reshape(1, 1, 2, 2)
MATRIX = np.asarray([[-1.0, -2.0, -3.7, -1.0, 3.5, 1.2]], np.float32)
AFFINE = {
    "sampling_mode": "bilinear",
    "padding_mode": "constant",
    "padding_value": 0.0,
    "coordinates_mode": "normalized_minus_one_to_one",
}


def affine(x, transform_matrix, output_height, output_width, align_corners, **_):
    theta = torch.from_numpy(transform_matrix).double().reshape(-1, 2, 3).expand(len(x), 2, 3)
    size = [len(x), x.shape[1], output_height, output_width]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of a grid of one point
        grid = functional.affine_grid(theta, size, align_corners=align_corners)
    return functional.grid_sample(
        torch.from_numpy(x).double(), grid, align_corners=align_corners
    ).numpy()


RECORDS = [
    Record(
        "affine",
        {"x": TINY, "transform_matrix": MATRIX, "align_corners": True, "output_height": shape[0],
         "output_width": shape[1], **AFFINE},
        np.asarray(expected).reshape(1, 1, *shape),
        name=f"published_{shape}",
    )
    for shape, expected in (
        ((3, 3), [10.752501, 2.5025, 0, 1.98, 0, 0, 0, 0, 0]),
        ((2, 5), [10.752501, 5.94, 2.5025, 0.44, 0, 0, 0, 0, 0, 0]),
    )
]  # fmt: skip
RECORDS += [
    Record(
        "affine",
        {
            "x": normal(2, 3, 5, 6),
            "transform_matrix": uniform(-1, 1, matrices, 6),
            "align_corners": align,
            "output_height": height,
            "output_width": width,
            **AFFINE,
        },
        affine,
        tolerance=1e-4,
        name=f"{matrices}_{align}_{height}_{width}",
    )
    for matrices in (1, 2)
    for align in (True, False)
    for height, width in ((4, 7), (1, 1))
]

CORNERS = np.asarray([-1.0, -2.0, -3.7, -1.0, 0.0, 0.0, 3.5, 1.2], np.float32).reshape(1, 2, 2, 2)
WHOLE = np.asarray([0, 0, 1, 1, 0, 0, 1, 1]).reshape(1, 2, 2, 2)
PUBLISHED = (
    ("bilinear", "constant", "normalized_minus_one_to_one", True, 6.17,
     (8.585, 6.17, 27.5, 6.17), (27.5, 44, 27.5, 44)),
    ("nearest", "border", "unnormalized", False, -1.0,
     (11, 11, 11, 44), (11, 44, 11, 44)),
    ("bilinear", "reflection", "normalized_zero_to_one", True, -1.0,
     (22, 36.3, 11, 34.1), (11, 44, 11, 44)),
    ("nearest", "symmetric", "normalized_zero_to_one", False, -1.0,
     (22, 33, 11, 33), (11, 44, 11, 44)),
)  # fmt: skip
for mode, padding, coordinates_mode, align, value, expected, of_whole in PUBLISHED:
    for coordinates, result in (
        (CORNERS, expected),
        *((WHOLE.astype(dtype), of_whole) for dtype in (np.int8, np.uint8, np.int16, np.int32)),
    ):
        RECORDS.append(
            Record(
                "resample",
                {
                    "x": TINY,
                    "coordinates": coordinates,
                    "sampling_mode": mode,
                    "padding_mode": padding,
                    "padding_value": value,
                    "coordinates_mode": coordinates_mode,
                    "align_corners": align,
                },
                np.asarray(result).reshape(1, 1, 2, 2) * 1.0,
                opset=18 if coordinates.dtype.itemsize < 4 else 13,
                name=f"published_{mode}_{padding}_{coordinates.dtype}",
            )
        )


def resample(x, coordinates, sampling_mode, padding_mode, align_corners, **_):
    padding = {"constant": "zeros", "symmetric": "reflection"}.get(padding_mode, padding_mode)
    return functional.grid_sample(
        torch.from_numpy(x).double(),
        torch.from_numpy(coordinates).double(),
        mode=sampling_mode,
        padding_mode=padding,
        align_corners=align_corners,
    ).numpy()


RECORDS += [
    Record(
        "resample",
        {
            "x": normal(2, 3, height, width),
            "coordinates": uniform(-2.5, 2.5, 2, 4, 6, 2),
            "sampling_mode": mode,
            "padding_mode": padding,
            "padding_value": 0.0,
            "coordinates_mode": "normalized_minus_one_to_one",
            "align_corners": align,
        },
        resample,
        tolerance=1e-4,
        name=f"{mode}_{padding}_{align}_{height}",
    )
    for mode in ("bilinear", "nearest")
    # torch reflects as MIL's "reflection" does with align_corners, as "symmetric" without.
    for padding, align in (
        ("constant", True),
        ("constant", False),
        ("border", True),
        ("border", False),
        ("reflection", True),
        ("symmetric", False),
    )
    for height, width in ((5, 7), (1, 2))
]
RECORDS += [
    Record(
        "resample",
        {
            "x": normal(1, 2, 3, 3),
            "coordinates": np.asarray([np.inf, 0, -np.inf, 0, 1e30, 1, 1, 1], np.float32).reshape(
                1, 2, 2, 2
            ),
            "sampling_mode": mode,
            "padding_mode": "constant",
            "padding_value": 7.0,
            "coordinates_mode": "unnormalized",
            "align_corners": True,
        },
        lambda x, **_: np.concatenate(
            [np.full((1, 2, 3), 7.0), x[:, :, 1, 1, None]], axis=-1
        ).reshape(1, 2, 2, 2),
        name=f"far_outside_{mode}",
    )
    for mode in ("bilinear", "nearest")
]


@over(RECORDS)
def test_kernel(record, namespace):
    check(record, namespace)


RESAMPLE = {
    "x": TINY,
    "coordinates": CORNERS,
    "sampling_mode": "bilinear",
    "padding_mode": "border",
    "padding_value": 0.0,
    "coordinates_mode": "unnormalized",
    "align_corners": True,
}


@pytest.mark.parametrize(
    ("op", "arguments", "text"),
    [
        ("resample", {**RESAMPLE, "sampling_mode": "cubic"}, "bilinear or nearest expected"),
        ("resample", {**RESAMPLE, "padding_mode": "wrap"}, "padding_mode: constant, border"),
        ("resample", {**RESAMPLE, "coordinates_mode": "x"}, "coordinates_mode: unnormalized"),
        (
            "affine",
            {
                "x": TINY,
                "transform_matrix": MATRIX,
                "output_height": 1,
                "output_width": 1,
                "align_corners": True,
                **AFFINE,
                "coordinates_mode": "unnormalized",
            },
            "normalized_minus_one_to_one expected",
        ),
    ],
)
def test_what_is_unknown_is_refused(op, arguments, text):
    with pytest.raises(ValueError, match=text):
        run(op, arguments, "numpy")
