"""Pooling, against torch and numbers of coremltools' own op tests."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from harness import Record, check, over, run

pytestmark = pytest.mark.slow_but_every(3)

RNG = np.random.default_rng(2)
MAX = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}
AVG = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def arange(*shape):
    return np.arange(1, np.prod(shape) + 1, dtype=np.float32).reshape(shape)


def reference(op):
    """Returns a function that makes each window on its own, in plain loops."""

    def pool(
        x,
        kernel_sizes,
        pad_type,
        strides=None,
        pad=None,
        ceil_mode=False,
        exclude_padding_from_average=False,
    ):
        axes = x.ndim - 2
        strides = strides or [1] * axes
        bounds = []
        for axis in range(axes):
            size, span, step = x.shape[2 + axis], kernel_sizes[axis], strides[axis]
            before = after = 0
            if pad_type == "custom" and pad is not None:
                before, after = pad[2 * axis : 2 * axis + 2]
            elif pad_type.startswith("same"):
                total = max(0, (int(np.ceil(size / step)) - 1) * step + span - size)
                before, after = total // 2, total - total // 2
                if pad_type == "same_lower":
                    before, after = after, before
            room = size + before + after - span
            count = (-(-room // step) if ceil_mode else room // step) + 1
            if ceil_mode and (before or after) and (count - 1) * step >= size + before:
                count -= 1
            starts = [index * step - before for index in range(count)]
            bounds.append([(start, min(start + span, size + after), size) for start in starts])
        result = np.empty((*x.shape[:2], *map(len, bounds)))
        for index in itertools.product(*(range(len(bound)) for bound in bounds)):
            window = [bound[at] for bound, at in zip(bounds, index, strict=True)]
            inside = x[(..., *(slice(max(0, low), min(high, size)) for low, high, size in window))]
            inside = inside.reshape(*x.shape[:2], -1).astype(np.float64)
            if op == "max":
                value = inside.max(-1)
            elif op == "l2":
                value = np.sqrt((inside**2).sum(-1))
            elif exclude_padding_from_average:
                value = inside.mean(-1)
            else:
                value = inside.sum(-1) / np.prod([high - low for low, high, _ in window])
            result[(..., *index)] = value
        return result

    return pool


KINDS = {"max_pool": reference("max"), "avg_pool": reference("avg"), "l2_pool": reference("l2")}
CASES = {
    "1d": ((2, 3, 9), {"kernel_sizes": [3], "strides": [2], "pad_type": "valid"}),
    "2d": ((2, 3, 7, 9), {"kernel_sizes": [3, 2], "strides": [2, 3], "pad_type": "valid"}),
    "no_strides": ((1, 2, 5, 5), {"kernel_sizes": [2, 3], "pad_type": "valid"}),
    "same": ((1, 2, 5, 6), {"kernel_sizes": [2, 3], "strides": [1, 2], "pad_type": "same"}),
    "same_lower": ((1, 2, 5, 6), {"kernel_sizes": [2, 4], "pad_type": "same_lower"}),
    "same_large_stride": (
        (1, 2, 7, 7),
        {"kernel_sizes": [2, 2], "strides": [3, 3], "pad_type": "same"},
    ),
    "custom": (
        (1, 2, 5, 6),
        {"kernel_sizes": [3, 3], "strides": [2, 2], "pad_type": "custom", "pad": [1, 0, 2, 1]},
    ),
    "custom_even": (
        (1, 2, 8, 8),
        {"kernel_sizes": [3, 3], "strides": [2, 2], "pad_type": "custom", "pad": [1, 1, 1, 1]},
    ),
    "ceil": (
        (1, 2, 8, 7),
        {"kernel_sizes": [3, 2], "strides": [2, 2], "pad_type": "valid", "ceil_mode": True},
    ),
    "ceil_padded": (
        (1, 2, 8, 7),
        {
            "kernel_sizes": [3, 2],
            "strides": [2, 3],
            "pad_type": "custom",
            "pad": [1, 1, 1, 1],
            "ceil_mode": True,
        },
    ),
    "global": ((2, 3, 4, 5), {"kernel_sizes": [4, 5], "pad_type": "valid"}),
    "one": ((1, 2, 4, 4), {"kernel_sizes": [1, 1], "pad_type": "valid"}),
    "one_strided": ((1, 2, 5, 4), {"kernel_sizes": [1, 1], "strides": [2, 2], "pad_type": "valid"}),
    "large": ((1, 2, 9, 9), {"kernel_sizes": [5, 7], "strides": [2, 1], "pad_type": "same"}),
    "upper_case": ((1, 2, 5, 5), {"kernel_sizes": [2, 2], "pad_type": "VALID"}),
}
CUBES = {
    "3d": (
        (1, 2, 5, 6, 4),
        {"kernel_sizes": [2, 3, 2], "strides": [2, 1, 2], "pad_type": "valid"},
    ),
    "3d_same": ((1, 2, 5, 6, 4), {"kernel_sizes": [2, 3, 2], "pad_type": "same"}),
}


def with_lower_case(function):
    return lambda pad_type, **rest: function(pad_type=pad_type.lower(), **rest)


RECORDS = [
    Record(op, {"x": normal(*shape), **attributes}, with_lower_case(function), name=name)
    for op, function in KINDS.items()
    for name, (shape, attributes) in {**CASES, **(CUBES if op != "l2_pool" else {})}.items()
]
RECORDS += [
    Record(
        "avg_pool",
        {"x": normal(*shape), **attributes, "exclude_padding_from_average": True},
        with_lower_case(KINDS["avg_pool"]),
        name=f"{name}_excluding",
    )
    for name, (shape, attributes) in {**CASES, **CUBES}.items()
]
# Numbers of coremltools' own op tests.
LOWER = {"pad_type": "same_lower"}
RECORDS += [
    Record(
        "avg_pool",
        {"x": arange(1, 1, 2, 2), "kernel_sizes": [2, 2], **LOWER},
        np.asarray([0.25, 0.75, 1, 2.5]).reshape(1, 1, 2, 2),
        name="published",
    ),
    Record(
        "avg_pool",
        {"x": arange(1, 1, 2, 2, 2), "kernel_sizes": [2, 2, 2], **LOWER},
        np.asarray([0.125, 0.375, 0.5, 1.25, 0.75, 1.75, 2, 4.5]).reshape(1, 1, 2, 2, 2),
        name="published_3d",
    ),
    Record(
        "avg_pool",
        {
            "x": arange(1, 1, 7),
            "kernel_sizes": [3],
            "strides": [3],
            "pad_type": "same",
            "exclude_padding_from_average": True,
        },
        np.asarray([[[1.5, 4.0, 6.5]]]),
        name="published_1d",
    ),
    Record(
        "l2_pool",
        {"x": arange(1, 1, 2, 2), "kernel_sizes": [2, 2], **LOWER},
        np.asarray([1, 2.236068, 3.162278, 5.477226]).reshape(1, 1, 2, 2),
        name="published",
    ),
    Record(
        "max_pool",
        {"x": arange(1, 1, 7), "kernel_sizes": [3], "strides": [3], "pad_type": "same"},
        np.asarray([[[2.0, 5.0, 7.0]]]),
        name="published",
    ),
    Record(
        "max_pool",
        {"x": normal(1, 2, 4, 4) - 100, "kernel_sizes": [3, 3], "pad_type": "same"},
        KINDS["max_pool"],
        name="padding_never_wins",
    ),
]


@over(RECORDS)
def test_kernel(record, namespace):
    check(record, namespace)


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("exclude", [False, True])
def test_the_reference_agrees_with_torch(ceil_mode, exclude):
    for axes, (size, kernel, stride, pad) in itertools.product(
        (1, 2), ((8, 3, 2, 1), (7, 2, 2, 1), (9, 4, 3, 2))
    ):
        x = normal(1, 2, *[size] * axes)
        attributes = {
            "kernel_sizes": [kernel] * axes,
            "strides": [stride] * axes,
            "pad_type": "custom",
            "pad": [pad] * 2 * axes,
            "ceil_mode": ceil_mode,
        }
        np.testing.assert_allclose(
            KINDS["max_pool"](x, **attributes),
            MAX[axes](torch.from_numpy(x), kernel, stride, pad, ceil_mode=ceil_mode),
        )
        np.testing.assert_allclose(
            KINDS["avg_pool"](x, exclude_padding_from_average=exclude, **attributes),
            AVG[axes](torch.from_numpy(x).double(), kernel, stride, pad, ceil_mode, not exclude),
            rtol=1e-12,
        )


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"pad_type": "same", "ceil_mode": True}, "ceil_mode: cannot be True with pad_type 'same'"),
        ({"strides": [1]}, "differ in their spatial axes"),
        ({"pad_type": "none"}, "pad_type: valid"),
        ({"kernel_sizes": [5, 5]}, "does not fit into"),
    ],
)
@pytest.mark.parametrize("op", ["max_pool", "avg_pool", "l2_pool"])
@pytest.mark.parametrize("namespace", ["numpy", "torch"])
def test_what_does_not_fit_is_refused(op, change, text, namespace):
    arguments = {"x": normal(1, 2, 4, 4), "kernel_sizes": [2, 2], "pad_type": "valid", **change}
    with pytest.raises(ValueError, match=text):
        run(op, arguments, namespace)


def test_a_result_is_no_view_of_the_argument():
    x = normal(1, 1, 3, 3)
    y = run("max_pool", {"x": x, "kernel_sizes": [1, 1], "pad_type": "valid"}, "numpy")
    assert not np.shares_memory(x, y)
