"""Ops that make, join and part tensors."""

import numpy as np
import pytest
import torch
from array_api_compat import torch as torch_namespace
from harness import Record, check, over, run

import mlpass.runtime.kernels.tensor_operation as kernels

pytestmark = pytest.mark.slow_but_every(3)

X = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
INTS = np.arange(24, dtype=np.int32).reshape(2, 3, 4)
BOOLS = INTS % 3 == 0


def band_by_loops(x, lower=-1, upper=-1):
    out = x.copy()
    for row, column in np.ndindex(*x.shape[-2:]):
        if 0 <= lower < row - column or 0 <= upper < column - row:
            out[..., row, column] = 0
    return out


def cumsum_by_loops(x, axis=0, exclusive=False, reverse=False):
    moved = np.moveaxis(x, axis, 0)
    moved = moved[::-1] if reverse else moved
    out, total = np.zeros_like(moved), np.zeros_like(moved[0])
    for place, item in enumerate(moved):
        out[place] = total if exclusive else total + item
        total = total + item
    return np.moveaxis(out[::-1] if reverse else out, 0, axis)


def padded(x, pad, mode="constant", constant_val=0.0):
    pairs = [(0, 0)] * (x.ndim - len(pad) // 2) + list(zip(pad[::2], pad[1::2], strict=True))
    if mode == "constant":
        return np.pad(x, pairs, constant_values=constant_val)
    return np.pad(x, pairs, "edge" if mode == "replicate" else mode)


def parts(x, axis, num_splits=None, split_sizes=None):
    return tuple(np.split(x, np.cumsum(split_sizes)[:-1] if split_sizes else num_splits, axis))


RECORDS = [
    Record("fill", {"shape": [2, 3]}, np.zeros((2, 3)), 13, name="default"),
    Record("fill", {"shape": [2, 1], "value": 1.5}, np.full((2, 1), 1.5), 13),
    Record("fill", {"shape": [3], "value": -7}, np.full(3, -7), 13, name="int"),
    Record("fill", {"shape": [3], "value": True}, np.full(3, True), 13, name="bool"),
    Record("fill", {"shape": [], "value": 2.0}, np.asarray(2.0), 13, name="scalar"),
    Record("fill_like", {"ref_tensor": INTS}, np.zeros((2, 3, 4)), 16, name="default"),
    Record("fill_like", {"ref_tensor": X, "value": 3}, np.full((2, 3, 4), 3), 16, name="int"),
    *(
        Record("range_1d", {"start": a, "end": b, "step": c}, np.asarray(list(expected)), 13)
        for a, b, c, expected in [
            (0, 5, 1, range(5)),
            (5, 15, 2, range(5, 15, 2)),
            (5, -3, -3, range(5, -3, -3)),
            (5, 16, 3, range(5, 16, 3)),
        ]
    ),
    *(
        Record("range_1d", {"start": a, "end": b, "step": c}, np.arange(a, b, c), 13)
        for a, b, c in [(5.0, 15.0, 2.0), (0.0, 1.0, 0.25), (2.0, 0.5, -0.5), (1.0, 1.0, 1.0)]
    ),
    Record(
        "range_1d",
        {"start": np.float32(0), "end": np.float32(1), "step": np.float32(0.1)},
        np.arange(10) * 0.1,
        name="rounded step",
        skip={"torch": "numpy scalars", "read-only": "numpy scalars"},
    ),
    *(
        Record(
            "one_hot",
            {"indices": np.asarray(indices, np.int32), "one_hot_vector_size": 4, **attributes},
            np.asarray(expected),
            13,
            name=name,
        )
        for indices, attributes, expected, name in [
            ([1, 0], {}, [[0, 1, 0, 0], [1, 0, 0, 0]], "default"),
            ([1, 0], {"axis": 0}, [[0, 1], [1, 0], [0, 0], [0, 0]], "axis"),
            ([[3], [2]], {"axis": -2}, [[[0], [0], [0], [1]], [[0], [0], [1], [0]]], "middle"),
            ([1], {"on_value": 1.0, "off_value": 0.5}, [[0.5, 1.0, 0.5, 0.5]], "float"),
            (2, {"on_value": 1, "off_value": 9}, [9, 9, 1, 9], "0-d"),
            (2, {"on_value": True, "off_value": False}, [False, False, True, False], "bool"),
            ([-1, 4], {}, [[0] * 4] * 2, "out of range"),
        ]
    ),
    *(
        Record("band_part", {"x": x, "lower": lower, "upper": upper}, band_by_loops, 13)
        for x, lower, upper in [
            (X, 0, -1),
            (X, -1, 0),
            (X, 0, 0),
            (X, 1, 2),
            (X, -1, -1),
            (BOOLS, 1, 0),
            (INTS, 9, 1),
        ]
    ),
    Record("band_part", {"x": X}, X, 13, name="default"),
    *(
        Record("cumsum", {"x": x, "axis": axis, "exclusive": e, "reverse": r}, cumsum_by_loops, 13)
        for x, axis in [(X, 0), (X, -1), (INTS, 1)]
        for e in (False, True)
        for r in (False, True)
    ),
    Record("cumsum", {"x": INTS}, cumsum_by_loops, 13, name="default"),
    *(
        Record("pad", {"x": X, "pad": pad, "mode": mode}, padded, 13, name=f"{mode} {pad}")
        for mode in ("constant", "reflect", "replicate")
        for pad in ([1, 1, 2, 2], [1, 0, 0, 2, 3, 1], [0, 0], [0, 3], [1, 1, 0, 0, 0, 0], [])
    ),
    Record("pad", {"x": X, "pad": [1, 2], "constant_val": 0.5}, padded, 13, name="value"),
    Record("pad", {"x": X, "pad": [7, 9], "mode": "replicate"}, padded, 13, name="wide"),
    Record("pad", {"x": INTS, "pad": [1, 0, 0, 1], "constant_val": 3}, padded, 13, name="ints"),
    Record("tile", {"x": X, "reps": [1, 2, 3]}, np.tile(X, (1, 2, 3)), 13),
    Record("tile", {"x": BOOLS, "reps": [2, 1, 1]}, np.tile(BOOLS, (2, 1, 1)), 13),
    Record("shape", {"x": X}, np.asarray([2, 3, 4]), 13),
    Record("shape", {"x": np.asarray(1, np.int32)}, np.zeros(0, int), 13, name="0-d"),
    Record(
        "concat", {"values": (X, X[:, :1], X), "axis": 1}, np.concatenate([X, X[:, :1], X], 1), 13
    ),
    Record("concat", {"values": (BOOLS, BOOLS), "axis": -3}, np.concatenate([BOOLS] * 2), 13),
    Record("concat", {"values": (INTS,), "axis": -1}, INTS, 13, name="one"),
    Record(
        "concat",
        {"values": (np.asarray(3, np.int32), np.asarray(4, np.int32)), "axis": 0},
        np.asarray([3, 4]),
        13,
        name="scalars",
    ),
    Record(
        "concat",
        {
            "values": (
                np.asarray([[1, 2], [3, 4], [5, 6]], np.int32),
                np.asarray([[7, 8], [9, 10], [11, 12]], np.int32),
            ),
            "axis": 0,
            "interleave": True,
        },
        np.asarray([[1, 2], [7, 8], [3, 4], [9, 10], [5, 6], [11, 12]]),
        13,
        name="interleaved",
    ),
    Record(
        "concat",
        {"values": (X, -X, 2 * X), "axis": -1, "interleave": True},
        np.stack([X, -X, 2 * X], -1).reshape(2, 3, 12),
        13,
        name="interleaved last",
    ),
    Record("split", {"x": X, "axis": 2, "num_splits": 2}, parts, 13, name="even"),
    Record("split", {"x": X, "axis": -1, "num_splits": 1}, parts, 13, name="one"),
    Record("split", {"x": INTS, "axis": 2, "split_sizes": [1, 3]}, parts, 13, name="sizes"),
    Record(
        "split", {"x": X, "axis": 1, "num_splits": 2, "split_sizes": [2, 1]}, parts, 13, name="both"
    ),
    Record("stack", {"values": (X, -X), "axis": 0}, np.stack([X, -X]), 13),
    Record(
        "stack",
        {"values": (BOOLS, ~BOOLS, BOOLS), "axis": -1},
        np.stack([BOOLS, ~BOOLS, BOOLS], -1),
        13,
    ),
    Record(
        "stack",
        {"values": (np.asarray(1, np.int32),) * 2, "axis": 0},
        np.asarray([1, 1]),
        13,
        name="0-d",
    ),
    Record("identity", {"x": X}, X, 13),
]


@over(RECORDS)
def test_kernel(record, namespace):
    check(record, namespace)


def test_identity_of_a_list():
    items = [X, INTS]
    assert kernels.identity(np, x=items) is items


@pytest.mark.parametrize(
    ("op", "arguments", "message"),
    [
        ("pad", {"x": X, "pad": [0] * 8}, "pairs of sizes of 0 or more for the last axes of 3"),
        ("pad", {"x": X, "pad": [1]}, "pairs of sizes"),
        ("pad", {"x": X, "pad": [-1, 1]}, r"Got \[-1, 1\]"),
        ("pad", {"x": X, "pad": [1, 1], "mode": "wrap"}, "reflect or replicate. Got 'wrap'"),
        (
            "pad",
            {"x": X, "pad": [1, 4], "mode": "reflect"},
            "reflects at most 3 on axis 2. Got 1 and 4",
        ),
        ("split", {"x": X, "axis": 0}, "needs num_splits or split_sizes"),
        ("split", {"x": X, "axis": 1, "num_splits": 2}, r"sizes \[1, 1\] do not add up to 3"),
        ("split", {"x": X, "axis": 2, "split_sizes": [2, 1]}, r"sizes \[2, 1\] do not add up to 4"),
        ("concat", {"values": (X, X), "axis": 3}, r"axis: must be in \[-3, 3\)"),
    ],
)
def test_what_does_not_fit(op, arguments, message):
    with pytest.raises(ValueError, match=message):
        run(op, arguments, "numpy")


@pytest.mark.parametrize(
    ("op", "attributes"),
    [
        *(("pad", {"pad": (1, 0, 2, 1), "mode": m}) for m in ("constant", "reflect", "replicate")),
        ("band_part", {"lower": 0, "upper": 1}),
        ("cumsum", {"axis": -1, "exclusive": True, "reverse": True}),
        ("tile", {"reps": (1, 2, 3)}),
        ("split", {"axis": 2, "split_sizes": (1, 3)}),
    ],
)
def test_gradients_flow(op, attributes):
    x = torch.from_numpy(X.astype(np.float64)).requires_grad_()
    function = getattr(kernels, op)
    assert torch.autograd.gradcheck(lambda x: function(torch_namespace, x=x, **attributes), x)


@pytest.mark.parametrize("attributes", [{}, {"interleave": True}])
def test_gradients_flow_through_what_is_joined(attributes):
    values = [torch.from_numpy(X.astype(np.float64)).requires_grad_() for _ in range(2)]

    def joined(*values):
        together = kernels.concat(torch_namespace, values=values, axis=1, **attributes)
        return together, kernels.stack(torch_namespace, values=values, axis=-1)

    assert torch.autograd.gradcheck(joined, values)
