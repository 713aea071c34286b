"""Ops that move elements."""

import re

import numpy as np
import pytest
import torch
from array_api_compat import torch as torch_namespace
from harness import Record, check, over, run

import mlpass.runtime.kernels.tensor_transformation  # noqa: F401
from mlpass.runtime.kernels.registry import find_kernel

pytestmark = pytest.mark.slow_but_every(3)

X = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
INTS = X.astype(np.int32)
BOOLS = INTS % 3 == 0
IMAGE = np.random.default_rng(0).standard_normal((2, 8, 4, 6)).astype(np.float32)


def torch_of(function):
    """Returns a reference that is torch's `function` of x and the one number beside it."""

    def reference(x, **attributes):
        return function(torch.from_numpy(x), *attributes.values()).numpy()

    return reference


def depth_to_space_by_loops(x, block_size):
    n, depth, height, width = x.shape
    c = depth // block_size**2
    out = np.zeros((n, c, height * block_size, width * block_size), x.dtype)
    for row in range(block_size):
        for column in range(block_size):
            first = (row * block_size + column) * c
            out[:, :, row::block_size, column::block_size] = x[:, first : first + c]
    return out


def space_to_depth_by_loops(x, block_size):
    blocks = [
        x[:, :, row::block_size, column::block_size]
        for row in range(block_size)
        for column in range(block_size)
    ]
    return np.concatenate(blocks, axis=1)


def space_to_batch_by_loops(x, block_shape, paddings):
    padded = np.pad(x, [(0, 0), (0, 0), *paddings])
    rows, columns = block_shape
    return np.concatenate(
        [padded[:, :, i::rows, j::columns] for i in range(rows) for j in range(columns)]
    )


def batch_to_space_by_loops(x, block_shape, crops):
    (rows, columns), ((top, bottom), (left, right)) = block_shape, crops
    n, (_, c, height, width) = len(x) // (rows * columns), x.shape
    out = np.zeros((n, c, height * rows, width * columns), x.dtype)
    for i in range(rows):
        for j in range(columns):
            first = (i * columns + j) * n
            out[:, :, i::rows, j::columns] = x[first : first + n]
    return out[:, :, top : height * rows - bottom, left : width * columns - right]


def reverse_sequence_by_loops(x, lengths, seq_axis=0, batch_axis=0):
    out = x.copy()
    for place, length in enumerate(lengths):
        index = [slice(None)] * x.ndim
        index[batch_axis], index[seq_axis] = slice(place, place + 1), slice(0, length)
        out[tuple(index)] = np.flip(x[tuple(index)], seq_axis)
    return out


RECORDS = [
    *(
        Record("reshape", {"x": x, "shape": shape}, x.reshape(expected), opset, name=name)
        for x, shape, expected, opset, name in [
            (X, [4, 6], (4, 6), 13, "plain"),
            (INTS, [4, -1], (4, 6), 13, "rest"),
            (BOOLS, [0, -1, 0], (2, 3, 4), 13, "inherited"),
            (X, [0, 3, 4], (2, 3, 4), 16, "inherited"),
            (X[0], [1, 0, -1, 0], (1, 1, 3, 4), 17, "from the right, out of range"),
            (X, [-1, 0], (6, 4), 17, "from the right"),
            (X, [0, -1, 0], (2, 3, 4), 17, "inherited"),
            (np.asarray(3, np.float32), [1], (1,), 13, "of a scalar"),
            (np.ones((1, 1), np.float32), [], (), 13, "to a scalar"),
        ]
    ),
    Record("reshape", {"x": X[:0], "shape": [0, 4, 3]}, X[:0].reshape(0, 4, 3), 13, name="empty"),
    Record(
        "reshape_like",
        {
            "x": np.arange(60, dtype=np.float32).reshape(5, 12),
            "ref_tensors": (np.zeros((2, 1, 4), np.float32), np.zeros((7, 5, 6), np.int32)),
            "begins": (0, 1),
            "ends": (1, 0),
            "end_masks": (False, True),
        },
        np.arange(60, dtype=np.float32).reshape(2, 5, 6),
        16,
    ),
    Record(
        "reshape_like",
        {
            "x": X,
            "ref_tensors": (X, X),
            "begins": (0, -1),
            "ends": (-1, 9),
            "end_masks": (False,) * 2,
        },
        X,
        17,
        name="negative",
    ),
    *(
        Record("flatten2d", {"x": np.zeros(shape, np.float32), "axis": axis}, np.zeros(out))
        for shape, axis, out in [
            ((3,), -1, (1, 3)),
            ((3,), 1, (3, 1)),
            ((4, 3), -1, (4, 3)),
            ((2, 3, 2), -1, (6, 2)),
            ((5, 5, 2), 1, (5, 10)),
            ((5, 5, 2), 0, (1, 50)),
            ((5, 5, 2), 3, (50, 1)),
        ]
    ),
    Record("flatten2d", {"x": INTS}, INTS.reshape(2, 12), 13, name="default"),
    *(
        Record("expand_dims", {"x": X, "axes": axes}, X.reshape(shape), name=str(axes))
        for axes, shape in [
            ([0], (1, 2, 3, 4)),
            ([-1], (2, 3, 4, 1)),
            ([1, 0], (1, 1, 2, 3, 4)),
            ([-1, -2], (2, 3, 4, 1, 1)),
            ([-5, 2], (1, 2, 1, 3, 4)),
        ]
    ),
    Record(
        "expand_dims", {"x": np.asarray(2, np.float32), "axes": [0]}, np.full(1, 2.0), name="0-d"
    ),
    Record("squeeze", {"x": X[:1, :1]}, X[0, 0], name="all"),
    Record("squeeze", {"x": X[:1, :, :1], "axes": [-1, 1]}, X[:1, :, 0], name="ignores others"),
    Record("squeeze", {"x": INTS[:1, :1, :1]}, INTS[0, 0, 0], name="to a scalar"),
    Record("transpose", {"x": X, "perm": [2, 0, 1]}, X.transpose(2, 0, 1)),
    Record("transpose", {"x": BOOLS, "perm": [-1, -3, 1]}, BOOLS.transpose(2, 0, 1)),
    Record("reverse", {"x": X}, X[::-1, ::-1, ::-1], name="all"),
    Record("reverse", {"x": INTS, "axes": [-1, 0]}, INTS[::-1, :, ::-1]),
    Record(
        "reverse_sequence",
        {"x": X, "lengths": np.asarray([4, 1], np.int32), "seq_axis": 2, "batch_axis": 0},
        reverse_sequence_by_loops,
    ),
    Record(
        "reverse_sequence",
        {
            "x": INTS,
            "lengths": np.asarray([0, 2, 1, 2], np.int32),
            "seq_axis": -3,
            "batch_axis": -1,
        },
        reverse_sequence_by_loops,
    ),
    Record(
        "reverse_sequence",
        {"x": X.astype(np.uint16), "lengths": np.asarray([3, 2], np.int8), "seq_axis": 1},
        reverse_sequence_by_loops,
        name="uint16",
    ),
    *(
        Record(
            op,
            {"x": INTS.astype(dtype), **attributes},
            expected(INTS.astype(dtype)),
            17,
            name=dtype,
        )
        for dtype in ("int8", "uint8", "int16", "uint16")
        for op, attributes, expected in [
            ("reshape", {"shape": [-1, 0]}, lambda x: x.reshape(6, 4)),
            ("expand_dims", {"axes": [1]}, lambda x: x[:, None]),
            ("squeeze", {}, lambda x: x),
            ("transpose", {"perm": [1, 2, 0]}, lambda x: x.transpose(1, 2, 0)),
            ("reverse", {}, lambda x: x[::-1, ::-1, ::-1]),
            ("reverse", {"axes": []}, lambda x: x),
        ]
    ),
    Record("depth_to_space", {"x": IMAGE, "block_size": 2}, depth_to_space_by_loops),
    Record("space_to_depth", {"x": IMAGE, "block_size": 2}, space_to_depth_by_loops),
    Record(
        "pixel_shuffle",
        {"x": IMAGE, "upscale_factor": 2},
        torch_of(torch.nn.functional.pixel_shuffle),
    ),
    Record(
        "pixel_unshuffle",
        {"x": IMAGE, "downscale_factor": 2},
        torch_of(torch.nn.functional.pixel_unshuffle),
        16,
    ),
    *(
        Record(
            "space_to_batch", {"x": IMAGE, "block_shape": b, "paddings": p}, space_to_batch_by_loops
        )
        for b, p in [
            ([2, 2], [[0, 0], [0, 0]]),
            ([2, 3], [[1, 1], [2, 1]]),
            ([1, 2], [[0, 0], [0, 2]]),
        ]
    ),
    *(
        Record(
            "batch_to_space",
            {
                "x": np.arange(144, dtype=np.float32).reshape(12, 2, 2, 3),
                "block_shape": b,
                "crops": c,
            },
            batch_to_space_by_loops,
        )
        for b, c in [
            ([2, 2], [[0, 0], [0, 0]]),
            ([2, 3], [[1, 0], [2, 1]]),
            ([1, 2], [[0, 0], [0, 2]]),
        ]
    ),
]


@over(RECORDS)
def test_kernel(record, namespace):
    check(record, namespace)


def test_blocks_move_as_core_ml_shows():
    channels = np.asarray([9, 5, 1, 3], np.float32).reshape(1, 4, 1, 1)
    space = run("depth_to_space", {"x": channels, "block_size": 2}, "numpy")
    assert space.tolist() == [[[[9, 5], [1, 3]]]]
    x = np.arange(1, 17, dtype=np.float32).reshape(2, 1, 2, 4)
    arguments = {"x": x, "block_shape": [2, 2], "paddings": [[0, 0], [2, 0]]}
    batch = run("space_to_batch", arguments, "numpy")
    assert batch[:, 0, 0].tolist()[:5] == [[0, 1, 3], [0, 9, 11], [0, 2, 4], [0, 10, 12], [0, 5, 7]]
    arguments = {"x": batch, "block_shape": [2, 2], "crops": [[0, 0], [2, 0]]}
    assert (run("batch_to_space", arguments, "numpy") == x).all()


@pytest.mark.parametrize(
    ("opset", "shape", "message"),
    [
        (13, [1, 0, 0, 4], "with a 0 it must have x's rank, 3. Got [1, 0, 0, 4]"),
        (13, [5, 5], "(2, 3, 4) cannot become [5, 5]"),
        (17, [-1, -1], "(2, 3, 4) cannot become [-1, -1]"),
        (17, [-1, 5], "(2, 3, 4) cannot become [-1, 5]"),
    ],
)
def test_a_shape_that_does_not_fit(opset, shape, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        run("reshape", {"x": X, "shape": shape}, "numpy", opset)


def test_an_axis_there_is_not():
    with pytest.raises(ValueError, match=r"axis: must be in \[-4, 4\). Got 4."):
        run("expand_dims", {"x": X, "axes": [4]}, "numpy")


@pytest.mark.parametrize(
    "record", [r for r in RECORDS if r.arguments["x"].dtype == np.float32], ids=str
)
def test_gradients_flow(record):
    x = torch.from_numpy(record.arguments["x"].copy()).requires_grad_()
    function = find_kernel(record.op, record.opset, "torch")
    others = {name: value for name, value in record.arguments.items() if name != "x"}
    if "lengths" in others:
        others["lengths"] = torch.from_numpy(others["lengths"])
    result = function(torch_namespace, x=x, **others)
    result.sum().backward()
    assert float(x.grad.sum()) == result.numel() - _zeros_added(record)


def _zeros_added(record):
    """The elements of the result that are not elements of x."""
    if record.op != "space_to_batch":
        return 0
    (top, bottom), (left, right) = record.arguments["paddings"]
    n, c, height, width = record.arguments["x"].shape
    return n * c * ((height + top + bottom) * (width + left + right) - height * width)
