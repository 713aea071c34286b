"""Gathers, against loops."""

import itertools

import numpy as np
import pytest
import torch
from array_api_compat import torch as torch_namespace
from harness import Record, check, over, run

from mlpass.runtime.kernels.gather import gather, gather_along_axis, gather_nd

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 3, 4, 5)).astype(np.float32)
INTS = RNG.integers(-50, 50, (3, 4)).astype(np.int32)
UINTS = np.abs(INTS).astype(np.uint16)


def gather_by_loops(x, indices, axis=0, batch_dims=0):
    if batch_dims:
        parts = zip(x, indices, strict=True)
        return np.stack([gather_by_loops(a, i, axis - 1, batch_dims - 1) for a, i in parts])
    return np.take(x, indices, axis)


def gather_nd_by_loops(x, indices, batch_dims=0):
    if batch_dims:
        parts = zip(x, indices, strict=True)
        return np.stack([gather_nd_by_loops(a, i, batch_dims - 1) for a, i in parts])
    out = np.zeros((*indices.shape[:-1], *x.shape[indices.shape[-1] :]), x.dtype)
    for place in np.ndindex(*indices.shape[:-1]):
        out[place] = x[tuple(indices[place])]
    return out


def at(shape, sizes, seed=1, dtype=np.int32, low=0):
    """Returns random indices below each of `sizes`; `low` is by how much of a size."""
    rng = np.random.default_rng(seed)
    parts = [rng.integers(int(low * size), size, shape) for size in sizes]
    return (parts[0] if len(sizes) == 1 else np.stack(parts, -1)).astype(dtype)


GATHERS = [
    *(
        Record(
            "gather",
            {"x": X, "indices": at(shape, [X.shape[axis]], low=low), "axis": axis},
            gather_by_loops,
            opset,
            name=f"{shape} on {axis}",
        )
        for shape, axis, low, opset in [
            ((), 0, -1, 13),
            ((3,), 1, -1, 13),
            ((2, 3), -1, -1, 16),
            ((), -2, 0, 17),
            ((4, 1, 2), 2, 0, 17),
            ((0,), 1, 0, 17),
        ]
    ),
    Record("gather", {"x": INTS, "indices": at((2,), [3])}, lambda x, indices: x[indices], 13),
    *(
        Record(
            "gather",
            {
                "x": X,
                "indices": at(shape, [X.shape[axis]], low=low),
                "axis": axis,
                "batch_dims": dims,
            },
            lambda x, indices, axis, batch_dims: gather_by_loops(
                x, indices, axis % x.ndim, batch_dims
            ),
            opset,
            name=f"{shape} on {axis}, batch {dims}",
        )
        for shape, axis, dims, low, opset in [
            ((2, 6), 1, 1, -1, 16),
            ((2, 6), 3, 1, -1, 16),
            ((2,), 2, 1, 0, 17),
            ((2, 3, 2, 2), -1, 2, 0, 17),
            ((2, 3, 4, 7), 3, 3, 0, 18),
            ((3, 2), 0, 0, 0, 18),
        ]
    ),
    *(
        Record(
            "gather",
            {"x": INTS.astype(x_dtype), "indices": at((2,), [4], dtype=dtype), "axis": 1},
            lambda x, indices, **_: x[:, indices],
            17,
            name=f"{np.dtype(x_dtype)} at {np.dtype(dtype)}",
        )
        for x_dtype, dtype in itertools.product(
            (np.float32, np.int16, np.uint16, np.int8, np.uint8), (np.uint16, np.int8, np.uint8)
        )
    ),
    *(
        Record(
            "gather_along_axis",
            {"x": X, "indices": at(shape, [X.shape[axis]], low=low), "axis": axis},
            lambda x, indices, axis: np.take_along_axis(x, indices, axis),
            opset,
            name=f"on {axis}",
        )
        for shape, axis, low, opset in [
            ((5, 3, 4, 5), 0, -1, 13),
            ((2, 3, 4, 1), -1, -1, 16),
            ((2, 7, 4, 5), 1, 0, 17),
        ]
    ),
    *(
        Record(
            op, {"x": UINTS, "indices": np.asarray(indices, np.int32), **attributes}, expected, 17
        )
        for op, indices, attributes, expected in [
            ("gather", [2, 0], {}, UINTS[[2, 0]]),
            (
                "gather",
                [[1], [0], [3]],
                {"axis": 1, "batch_dims": 1},
                UINTS[[[0], [1], [2]], [[1], [0], [3]]],
            ),
            ("gather", 2, {"axis": 1}, UINTS[:, 2]),
            ("gather", [9, 1], {}, np.stack([UINTS[0] * 0, UINTS[1]])),
            (
                "gather_along_axis",
                [[9, 0, 1, 2]],
                {},
                np.asarray([[0, UINTS[0, 1], UINTS[1, 2], UINTS[2, 3]]], np.uint16),
            ),
            ("gather_nd", [[2, 1], [0, 9]], {}, np.asarray([UINTS[2, 1], 0], np.uint16)),
            ("gather_nd", [[2], [0]], {}, UINTS[[2, 0]]),
        ]
    ),
    Record(
        "gather",
        {"x": UINTS[0], "indices": np.asarray([3, 3, 0], np.uint16)},
        lambda x, indices: x[indices],
        17,
        name="uint16 of one axis",
    ),
    Record(
        "gather_along_axis",
        {"x": np.abs(INTS).astype(np.uint16), "indices": at((2, 4), [3], dtype=np.uint16)},
        lambda x, indices: np.take_along_axis(x, indices.astype(int), 0),
        17,
        name="uint16",
    ),
    *(
        Record(
            "gather_nd",
            {
                "x": X,
                "indices": at(shape, sizes, low=low),
                **({"batch_dims": dims} if dims else {}),
            },
            gather_nd_by_loops,
            opset,
            name=f"{shape} of {len(sizes)}, batch {dims}",
        )
        for shape, sizes, dims, low, opset in [
            ((2, 3), (2, 3), 0, -1, 13),
            ((), (2, 3, 4, 5), 0, 0, 13),
            ((3,), (2, 3, 4), 0, 0, 17),
            ((2, 6), (3, 4), 1, -1, 16),
            ((2, 3), (4, 5), 2, 0, 17),
            ((2, 2, 2), (3, 4, 5), 1, 0, 18),
        ]
    ),
    Record(
        "gather_nd",
        {"x": X, "indices": np.asarray([[1], [0], [1]], np.int16)},
        lambda x, indices: x[indices[:, 0]],
        17,
        name="of 1",
    ),
]


# What iOS17 leaves open: out of range, gathers read 0.
OUTSIDE = [
    Record(
        "gather",
        {"x": INTS, "indices": np.asarray([[-1, 1], [4, 0]], np.int32), "axis": 1},
        lambda x, **_: np.where([[0, 1], [0, 1]], x[:, [[0, 1], [0, 0]]], 0),
    ),
    Record(
        "gather",
        {
            "x": INTS[:2],
            "indices": np.asarray([[0, 4], [-3, 1]], np.int32),
            "axis": 1,
            "batch_dims": 1,
        },
        lambda x, **_: np.asarray([[x[0, 0], 0], [0, x[1, 1]]]),
    ),
    Record(
        "gather_along_axis",
        {"x": INTS, "indices": np.asarray([[0, 3, 1, -1]], np.int32)},
        lambda x, **_: np.asarray([[x[0, 0], 0, x[1, 2], 0]]),
    ),
    Record(
        "gather_nd",
        {"x": X[0], "indices": np.asarray([[0, 1], [3, 0], [2, -1]], np.int32)},
        lambda x, **_: np.stack([x[0, 1], np.zeros(5), np.zeros(5)]),
    ),
]


@over(GATHERS + OUTSIDE)
def test_kernel(record, namespace):
    check(record, namespace)


@pytest.mark.parametrize("namespace", ["numpy", "torch"])
@pytest.mark.parametrize("record", OUTSIDE, ids=str)
def test_indices_are_validated(record, namespace):
    with pytest.raises(ValueError, match=r"indices: all must be in \[0, [234]\)"):
        run(record.op, {**record.arguments, "validate_indices": True}, namespace)


def test_indices_before_ios17_are_always_validated():
    arguments = {"x": INTS, "indices": np.asarray([-4], np.int32)}
    with pytest.raises(ValueError, match=r"indices: all must be in \[-3, 3\)"):
        run("gather", arguments, "numpy", 16)


@pytest.mark.parametrize(
    ("op", "arguments", "message"),
    [
        ("gather", {"x": INTS, "axis": 2}, r"axis: must be in \[-2, 2\). Got 2."),
        ("gather", {"x": INTS, "axis": 0, "batch_dims": 1}, r"batch_dims: must be in \[0, 0\]"),
        ("gather_nd", {"x": INTS[0]}, "indices: the last axis must be at most 1. Got 2."),
    ],
)
def test_what_does_not_fit(op, arguments, message):
    with pytest.raises(ValueError, match=message):
        run(op, {"indices": np.zeros((1, 2), np.int32), **arguments}, "numpy")


def test_gradients_of_gathers():
    x = torch.from_numpy(X[0].copy()).requires_grad_()
    rows = torch.asarray([[0, 2], [2, 2]])
    gather(torch_namespace, x=x, indices=rows).sum().backward()
    assert x.grad[:, 0, 0].tolist() == [1, 0, 3]
    for function, indices in [
        (gather_along_axis, torch.zeros((1, 4, 5), dtype=torch.int64)),
        (gather_nd, torch.asarray([[1, 2, 3]])),
    ]:
        x.grad = None
        result = function(torch_namespace, x=x, indices=indices)
        result.sum().backward()
        assert float(x.grad.sum()) == result.numel()
