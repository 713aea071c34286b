"""Scatters, against loops."""

import numpy as np
import pytest
import torch
from array_api_compat import torch as torch_namespace
from harness import Record, check, over, run

from mlpass.runtime.kernels.indexing import MODES, combine_rows, combine_standard
from mlpass.runtime.kernels.scatter import scatter, scatter_along_axis, scatter_nd

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 3, 4, 5)).astype(np.float32)
INTS = RNG.integers(-50, 50, (3, 4)).astype(np.int32)
ONE = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b if isinstance(a, np.floating) else np.int32(int(a / b)),
    "max": max,
    "min": min,
    "update": lambda _, b: b,
}


def scatter_by_loops(data, indices, updates, axis=0, mode="add"):
    out = np.moveaxis(data.copy(), axis, 0)
    for row, update in zip(indices, np.moveaxis(updates, axis, 0), strict=True):
        for place in np.ndindex(*out.shape[1:]):
            out[(row, *place)] = ONE[mode](out[(row, *place)], update[place])
    return np.moveaxis(out, 0, axis)


def scatter_along_by_loops(data, indices, updates, axis=0, mode="add"):
    out = data.copy()
    for place in np.ndindex(*indices.shape):
        target = list(place)
        target[axis] = indices[place]
        out[tuple(target)] = ONE[mode](out[tuple(target)], updates[place])
    return out


def scatter_nd_by_loops(data, indices, updates, mode="add"):
    out = data.copy()
    depth = indices.shape[-1]
    for place in np.ndindex(*updates.shape):
        split = indices.ndim - 1
        target = (*indices[place[:split]], *place[split:])[: max(depth, data.ndim)]
        out[target] = ONE[mode](out[target], updates[place])
    return out


def at(shape, sizes, seed=1, low=0):
    """Returns random indices below each of `sizes`; `low` is by how much of a size."""
    rng = np.random.default_rng(seed)
    parts = [rng.integers(int(low * size), size, shape) for size in sizes]
    return (parts[0] if len(sizes) == 1 else np.stack(parts, -1)).astype(np.int32)


def nonzero(shape, seed=2, dtype=np.float32):
    values = np.random.default_rng(seed).uniform(1, 5, shape)
    return (values * np.where(np.random.default_rng(seed).random(shape) < 0.5, -1, 1)).astype(dtype)


def scatters(mode):
    """Each kind of scatter, with duplicate indices."""
    ints = {"data": INTS, "mode": mode}
    return [
        Record(
            "scatter",
            {
                "data": X,
                "indices": at((7,), [4], low=-1),
                "updates": nonzero((2, 3, 7, 5)),
                "axis": 2,
                "mode": mode,
            },
            scatter_by_loops,
            13,
            name=mode,
        ),
        Record(
            "scatter",
            {**ints, "indices": at((5,), [3]), "updates": nonzero((5, 4), dtype=np.int32)},
            scatter_by_loops,
            17,
            name=f"{mode} ints",
        ),
        Record(
            "scatter_along_axis",
            {
                "data": X,
                "indices": at((2, 6, 4, 5), [3], low=-1),
                "updates": nonzero((2, 6, 4, 5)),
                "axis": -3,
                "mode": mode,
            },
            scatter_along_by_loops,
            13,
            name=mode,
        ),
        Record(
            "scatter_along_axis",
            {**ints, "indices": at((2, 4), [3]), "updates": nonzero((2, 4), dtype=np.int32)},
            scatter_along_by_loops,
            18,
            name=f"{mode} ints",
        ),
        Record(
            "scatter_nd",
            {
                "data": X,
                "indices": at((4, 3), (2, 3)),
                "updates": nonzero((4, 3, 4, 5)),
                "mode": mode,
            },
            scatter_nd_by_loops,
            13,
            name=mode,
        ),
        Record(
            "scatter_nd",
            {**ints, "indices": at((9,), (3, 4)), "updates": nonzero((9,), dtype=np.int32)},
            scatter_nd_by_loops,
            17,
            name=f"{mode} elements",
        ),
    ]


SCATTERS = [record for mode in MODES for record in scatters(mode)]
DEFAULTS = [
    Record(
        "scatter",
        {
            "data": np.asarray([[1, 2, 3], [4, 5, 6]], np.float32),
            "indices": np.asarray([1, 0], np.int32),
            "updates": np.asarray([[5, 6, 7], [8, 9, 10]], np.float32),
        },
        np.asarray([[9.0, 11, 13], [9, 11, 13]]),
        name="add by default",
    ),
    Record(
        "scatter_nd",
        {
            "data": INTS,
            "indices": np.zeros((0, 2), np.int32),
            "updates": np.zeros(0, np.int32),
            "mode": "update",
        },
        INTS,
        name="nothing",
    ),
]
# What iOS17 leaves open: out of range, scatters drop the update.
OUTSIDE = [
    Record(
        "scatter",
        {"data": INTS, "indices": np.asarray([-1, 1, 9], np.int32), "updates": INTS},
        lambda data, **_: np.stack([data[0], data[1] * 2, data[2]]),
    ),
    Record(
        "scatter_along_axis",
        {"data": INTS, "indices": np.asarray([[3, -1, 0, 9]], np.int32), "updates": INTS[:1]},
        lambda data, **_: data + np.asarray([[0, 0, 1, 0]] + [[0] * 4] * 2) * data,
    ),
    Record(
        "scatter_nd",
        {
            "data": INTS,
            "indices": np.asarray([[0, 4], [0, 1], [-1, 0]], np.int32),
            "updates": np.asarray([1, 2, 3], np.int32),
            "mode": "update",
        },
        lambda data, **_: np.vstack([[data[0, 0], 2, *data[0, 2:]], data[1:]]),
    ),
]


@over(SCATTERS + DEFAULTS + OUTSIDE)
def test_kernel(record, namespace):
    check(record, namespace)


@pytest.mark.parametrize("namespace", ["numpy", "torch"])
@pytest.mark.parametrize("record", OUTSIDE, ids=str)
def test_indices_are_validated(record, namespace):
    with pytest.raises(ValueError, match=r"indices: all must be in \[0, [234]\)"):
        run(record.op, {**record.arguments, "validate_indices": True}, namespace)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("count", [0, 1, 40])
def test_every_backend_combines_alike(mode, count):
    data, rows = nonzero((6, 3)), at((count,), [6])
    updates = nonzero((count, 3))
    expected = scatter_by_loops(data, rows, updates, 0, mode)
    tensors = [torch.from_numpy(a) for a in (data, rows.astype(np.int64), updates)]
    results = [
        combine_rows(np, data, rows, updates, mode),
        combine_rows(torch_namespace, *tensors, mode).numpy(),
    ]
    if mode != "div":
        results.append(combine_standard(torch_namespace, *tensors, mode).numpy())
    for result in results:
        np.testing.assert_allclose(result, expected, rtol=1e-5)


def test_the_last_of_many_updates_stays():
    count = 100_000  # enough for torch to share the work among threads
    rows, updates = np.arange(count) % 7, np.arange(count, dtype=np.float32)
    arguments = {
        "data": np.zeros(7, np.float32),
        "indices": rows.astype(np.int32),
        "updates": updates,
    }
    for namespace in ("numpy", "torch"):
        result = run("scatter", {**arguments, "mode": "update"}, namespace)
        assert result.tolist() == [float(updates[rows == row][-1]) for row in range(7)]


def test_ints_divide_towards_zero_and_by_zero_to_zero():
    arguments = {
        "data": np.asarray([7, -7, 7, -7, 5], np.int32),
        "indices": np.arange(5, dtype=np.int32),
        "updates": np.asarray([2, 2, -2, -2, 0], np.int32),
        "mode": "div",
    }
    for namespace in ("numpy", "torch", "strict"):
        assert run("scatter", arguments, namespace).tolist() == [3, -3, -3, 3, 0]


@pytest.mark.parametrize(
    ("op", "arguments", "message"),
    [
        (
            "scatter_nd",
            {"data": INTS[0], "updates": INTS},
            "indices: the last axis must be at most 1. Got 2.",
        ),
        ("scatter_nd", {"data": INTS, "updates": INTS[0, :2]}, r"updates: must be of shape \(1,\)"),
        (
            "scatter",
            {"data": INTS, "updates": np.zeros((1, 2, 4), np.int32), "mode": "xor"},
            "mode: must be one of add, .* Got 'xor'.",
        ),
    ],
)
def test_what_does_not_fit(op, arguments, message):
    with pytest.raises(ValueError, match=message):
        run(op, {"indices": np.zeros((1, 2), np.int32), **arguments}, "numpy")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("function", [scatter, scatter_along_axis, scatter_nd])
def test_gradients_of_scatters(function, mode):
    data = torch.from_numpy(nonzero((4, 3), 5).astype(np.float64)).requires_grad_()
    shape = {scatter: (5, 3), scatter_along_axis: (5, 3), scatter_nd: (5,)}[function]
    updates = torch.from_numpy(nonzero(shape, 6).astype(np.float64)).requires_grad_()
    indices = {
        scatter: torch.asarray([0, 3, 3, 1, 0]),
        scatter_along_axis: torch.from_numpy(at((5, 3), [4])),
        scatter_nd: torch.from_numpy(at((5,), (4, 3))),
    }[function]

    def combine(data, updates):
        return function(torch_namespace, data=data, indices=indices, updates=updates, mode=mode)

    assert torch.autograd.gradcheck(combine, (data, updates))
