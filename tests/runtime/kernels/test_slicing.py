"""Slices, against Python's."""

import itertools

import numpy as np
import pytest
import torch
from array_api_compat import torch as torch_namespace
from harness import Record, check, over, run

from mlpass.runtime.kernels.slicing import slice_by_index, slice_update, sliding_windows

X = np.arange(120, dtype=np.float32).reshape(2, 3, 4, 5)
INTS = X[0].astype(np.int32)


def index_of(begin, end, stride=None, begin_mask=None, end_mask=None, squeeze_mask=None):
    """Returns what Python has for the same slice."""
    rank = len(begin)
    items = []
    for axis in range(rank):
        first = None if begin_mask and begin_mask[axis] else begin[axis]
        last = None if end_mask and end_mask[axis] else end[axis]
        if squeeze_mask and squeeze_mask[axis]:
            items.append(first or 0)
        else:
            items.append(slice(first, last, stride[axis] if stride else None))
    return tuple(items)


def updated(x, update, **attributes):
    x = x.copy()
    x[index_of(**attributes)] = update
    return x


SLICES = {
    "plain": {"begin": [0, 1, 1, 2], "end": [2, 3, 2, 5]},
    "strided": {"begin": [0, 0, 1, 0], "end": [2, 3, 4, 5], "stride": [1, 2, 2, 3]},
    "from the end": {"begin": [-2, -3, -3, -4], "end": [-1, -1, 4, -2]},
    "beyond": {"begin": [-7, 0, 1, 0], "end": [9, 3, 99, 5]},
    "backwards": {"begin": [1, 2, -1, -1], "end": [0, 0, 0, -9], "stride": [-1, -2, -1, -3]},
    "masked": {
        "begin": [1, 1, 1, 1],
        "end": [1, 2, 3, 4],
        "begin_mask": [True, False, True, False],
        "end_mask": [True, True, False, False],
    },
    "masked backwards": {
        "begin": [0, 0, 2, 3],
        "end": [0, 1, 0, 1],
        "stride": [-1, -1, -2, -1],
        "begin_mask": [True, True, False, False],
        "end_mask": [True, False, True, False],
    },
    "squeezed": {
        "begin": [1, 0, -2, 0],
        "end": [0, 3, 0, 0],
        "stride": [1, 2, -1, 1],
        "end_mask": [False, False, False, True],
        "squeeze_mask": [True, False, True, False],
    },
    "squeezed and masked": {
        "begin": [1, 1, 1, 1],
        "end": [2, 3, 4, 5],
        "begin_mask": [True, False, False, False],
        "squeeze_mask": [True, False, False, True],
    },
    "empty": {"begin": [0, 2, 0, 0], "end": [2, 1, 4, 5]},
    "backwards empty": {"begin": [0, 0, 0, 0], "end": [2, 2, 4, 5], "stride": [1, -1, 1, 1]},
}

RECORDS = [
    *(
        Record("slice_by_index", {"x": X, **attributes}, X[index_of(**attributes)], 13, name=name)
        for name, attributes in SLICES.items()
    ),
    Record(
        "slice_by_index",
        {"x": INTS[0, 0], "begin": [2], "end": [0], "squeeze_mask": [True]},
        np.asarray(2, np.int32),
        name="to a scalar",
    ),
    Record(
        "slice_by_index",
        {
            "x": INTS > 30,
            "begin": [0, 1, 0],
            "end": [3, 3, 5],
            "stride": [1, 1, -1],
            "end_mask": [False, False, True],
        },
        (INTS > 30)[0:3, 1:3, 0::-1],
        name="bool",
    ),
    *(
        Record("slice_update", {"x": X, "update": -X[index_of(**s)], **s}, updated, name=name)
        for name, s in SLICES.items()
    ),
    Record(
        "slice_update",
        {"x": INTS > 9, "update": np.ones((1, 4, 5), bool), "begin": [0, 0, 0], "end": [1, 4, 5]},
        updated,
        name="bool",
    ),
    *(
        Record(op, {"x": INTS.astype(dtype), **attributes}, expected, 18, name=dtype)
        for dtype in ("int8", "uint8", "int16", "uint16")
        for op, attributes, expected in [
            (
                "slice_by_index",
                {"begin": [2, 0, 4], "end": [0, 4, 0], "stride": [-1, 2, -2]},
                INTS[2:0:-1, 0:4:2, 4:0:-2].astype(dtype),
            ),
            (
                "slice_update",
                {
                    "begin": [2, 0, 4],
                    "end": [0, 4, 0],
                    "stride": [-1, 2, -2],
                    "update": np.arange(8).reshape(2, 2, 2).astype(dtype),
                },
                updated,
            ),
            (
                "slice_by_size",
                {"begin": [0, 1, 2], "size": [1, -1, 2]},
                INTS[:1, 1:, 2:4].astype(dtype),
            ),
            (
                "sliding_windows",
                {"axis": 0, "size": 2},
                np.stack([INTS[:2], INTS[1:]]).astype(dtype),
            ),
        ]
    ),
    *(
        Record("slice_by_size", {"x": X, "begin": begin, "size": size}, X[index], 13, name=name)
        for begin, size, index, name in [
            ([0, 1, 2, 0], [2, 1, 2, 3], np.s_[0:2, 1:2, 2:4, 0:3], "plain"),
            ([0, 1, 2, 3], [-1, -1, 1, -1], np.s_[0:, 1:, 2:3, 3:], "rest"),
            ([-1, -2, 0, -5], [1, -1, 4, 2], np.s_[-1:, -2:, :, 0:2], "from the end"),
            ([0, 0, 0, 2], [2, 3, 4, 0], np.s_[:, :, :, 2:2], "empty"),
        ]
    ),
    Record(
        "slice_by_size",
        {
            "x": INTS,
            "begin": np.asarray([0, 1, 2], np.int8),
            "size": np.asarray([1, 2, -1], np.int16),
        },
        INTS[0:1, 1:3, 2:],
        17,
        name="small ints",
        skip={"strict": "attributes are given as Python values there"},
    ),
    *(
        Record(
            "sliding_windows",
            {"x": x, "axis": axis, "size": size, "stride": stride},
            lambda x, axis, size, stride: torch.movedim(
                torch.from_numpy(x).unfold(axis, size, stride), -1, axis % x.ndim + 1
            ).numpy(),
            13,
            name=f"{axis}, {size}, {stride}",
        )
        for x, axis, size, stride in [
            (X, 0, 1, 1),
            (X, 2, 3, 1),
            (X, -1, 2, 2),
            (X, 3, 5, 9),
            (INTS, -2, 2, 2),
        ]
    ),
    Record(
        "sliding_windows",
        {"x": X[0, 0, 0], "axis": 0, "size": 4},
        np.asarray([[0.0, 1, 2, 3], [1, 2, 3, 4]]),
        name="default stride",
    ),
    Record(
        "sliding_windows",
        {"x": np.asarray([7, 0, 65535], np.uint16), "axis": 0, "size": 2},
        np.asarray([[7, 0], [0, 65535]], np.uint16),
        17,
        name="uint16 of one axis",
    ),
]


@over(RECORDS)
def test_kernel(record, namespace):
    check(record, namespace)


@pytest.mark.parametrize("namespace", ["numpy", "torch"])
def test_every_slice_of_a_short_axis(namespace):
    x = np.arange(4, dtype=np.float32)
    bounds, strides = range(-6, 7), (-3, -1, 1, 2)
    for begin, end, stride in itertools.product(bounds, bounds, strides):
        arguments = {"x": x, "begin": [begin], "end": [end], "stride": [stride]}
        result = run("slice_by_index", arguments, namespace)
        assert result.tolist() == x[begin:end:stride].tolist(), (begin, end, stride)


@pytest.mark.parametrize(
    ("op", "arguments", "message"),
    [
        ("slice_by_index", {"begin": [0], "end": [1]}, "begin: must have one item for each of 3"),
        ("slice_by_index", {"begin": [0] * 3, "end": [1] * 2}, "end: must have one item"),
        (
            "slice_by_index",
            {"begin": [0] * 3, "end": [1] * 3, "stride": [1, 0, 1]},
            r"stride: must not be 0. Got \[1, 0, 1\].",
        ),
        (
            "slice_by_index",
            {"begin": [0, 4, 0], "end": [1] * 3, "squeeze_mask": [False, True, False]},
            r"begin: must be in \[-4, 4\) for axis 1. Got 4.",
        ),
        (
            "slice_update",
            {"begin": [0] * 3, "end": [1, 2, 5], "update": np.zeros((1, 2, 4), np.int32)},
            r"update: must be of the slice's shape, \(1, 2, 5\). Got \(1, 2, 4\).",
        ),
        (
            "slice_by_size",
            {"begin": [0, 2, 0], "size": [1, 3, 1]},
            "begin 2 and size 3 are not within axis 1 of length 4",
        ),
        ("sliding_windows", {"axis": 1, "size": 5}, r"size must be in \[1, 4\]"),
        ("sliding_windows", {"axis": 1, "size": 2, "stride": 0}, "stride positive"),
        ("sliding_windows", {"axis": 3, "size": 2}, r"axis: must be in \[-3, 3\)"),
    ],
)
def test_what_does_not_fit(op, arguments, message):
    with pytest.raises(ValueError, match=message):
        run(op, {"x": INTS, **arguments}, "numpy")


@pytest.mark.parametrize("name", SLICES)
def test_gradients_flow(name):
    x, attributes = torch.from_numpy(X.copy()).requires_grad_(), SLICES[name]
    part = slice_by_index(torch_namespace, x=x, **attributes)
    part.sum().backward()
    expected = np.zeros_like(X)
    expected[index_of(**attributes)] = 1
    assert (x.grad.numpy() == expected).all()

    x, update = torch.from_numpy(X.copy()).requires_grad_(), torch.ones(part.shape).requires_grad_()
    result = slice_update(torch_namespace, x=x, update=update, **attributes)
    (result * torch.from_numpy(X)).sum().backward()
    assert (x.grad.numpy() == X * (1 - expected)).all()
    assert (update.grad.numpy() == X[index_of(**attributes)]).all()


def test_gradients_of_windows_add_up():
    x = torch.arange(5.0, requires_grad=True)
    sliding_windows(torch_namespace, x=x, axis=0, size=3).sum().backward()
    assert x.grad.tolist() == [1, 2, 3, 2, 1]
