"""No rows: what kernels make of tensors that an expert with no token, or an empty batch, gives."""

from __future__ import annotations

import numpy as np
import pytest
from harness import NAMESPACES, run


def none(*shape):
    return np.zeros(shape, np.float32)


X = none(0, 6)
IMAGE = none(0, 4, 8, 8)
ONES = np.ones(6, np.float32)
# Each with the shape of its (first) result.
CASES = {
    "softmax": ({"x": X, "axis": -1}, (0, 6)),
    "softmax over rows of none": ({"x": none(2, 0, 6), "axis": 2}, (2, 0, 6)),
    "gelu": ({"x": X, "mode": "EXACT"}, (0, 6)),
    "silu": ({"x": X}, (0, 6)),
    "relu": ({"x": X}, (0, 6)),
    "erf": ({"x": X}, (0, 6)),
    "add": ({"x": X, "y": ONES}, (0, 6)),
    "select": ({"cond": X > 0, "a": X, "b": X}, (0, 6)),
    "cast": ({"x": X, "dtype": "int32"}, (0, 6)),
    "layer_norm": ({"x": X, "axes": [1], "gamma": ONES, "beta": ONES, "epsilon": 1e-5}, (0, 6)),
    "reduce_sum": ({"x": X, "axes": [1], "keep_dims": False}, (0,)),
    "reduce_mean": ({"x": X, "axes": [-1], "keep_dims": True}, (0, 1)),
    "reduce_max": ({"x": X, "axes": [1], "keep_dims": True}, (0, 1)),
    "reduce_l2_norm": ({"x": X, "axes": [1], "keep_dims": True}, (0, 1)),
    "reduce_argmax": ({"x": X, "axis": 1, "keep_dims": False}, (0,)),
    "reduce_sum of rows of none": ({"x": X, "axes": [0], "keep_dims": False}, (6,)),
    "cumsum": ({"x": X, "axis": 1}, (0, 6)),
    "topk": ({"x": X, "k": 2, "axis": 1}, (0, 2)),
    "argsort": ({"x": X, "axis": 1}, (0, 6)),
    "reshape": ({"x": X, "shape": [-1, 2, 3]}, (0, 2, 3)),
    "transpose": ({"x": X, "perm": [1, 0]}, (6, 0)),
    "concat": ({"values": (X, none(2, 6)), "axis": 0}, (2, 6)),
    "tile": ({"x": X, "reps": [1, 2]}, (0, 12)),
    "expand_dims": ({"x": X, "axes": [0]}, (1, 0, 6)),
    "one_hot": ({"indices": np.zeros((0,), np.int32), "one_hot_vector_size": 4}, (0, 4)),
    "gather": ({"x": none(3, 6), "indices": np.zeros((0,), np.int32), "axis": 0}, (0, 6)),
    "gather_along_axis": (
        {"x": none(0, 6), "indices": np.zeros((0, 2), np.int32), "axis": 1},
        (0, 2),
    ),
    "gather_nd": ({"x": none(3, 6), "indices": np.zeros((0, 1), np.int32)}, (0, 6)),
    "gather_nd of a batch of none": (
        {"x": none(0, 3, 6), "indices": np.zeros((0, 2, 1), np.int32), "batch_dims": 1},
        (0, 2, 6),
    ),
    "scatter_nd": (
        {
            "data": none(3, 6),
            "indices": np.zeros((0, 1), np.int32),
            "updates": X,
            "mode": "add",
        },
        (3, 6),
    ),
    "conv": ({"x": IMAGE, "weight": none(3, 4, 3, 3)}, (0, 3, 6, 6)),
    "depthwise conv": ({"x": IMAGE, "weight": none(4, 1, 3, 3), "groups": 4}, (0, 4, 6, 6)),
    "max_pool": (
        {"x": IMAGE, "kernel_sizes": [2, 2], "strides": [2, 2], "pad_type": "valid"},
        (0, 4, 4, 4),
    ),
    "avg_pool": (
        {"x": IMAGE, "kernel_sizes": [2, 2], "strides": [2, 2], "pad_type": "valid"},
        (0, 4, 4, 4),
    ),
    "batch_norm": ({"x": IMAGE, "mean": none(4), "variance": np.ones(4, np.float32)}, (0, 4, 8, 8)),
    "instance_norm": ({"x": IMAGE}, (0, 4, 8, 8)),
    "upsample_nearest_neighbor": (
        {"x": IMAGE, "scale_factor_height": 2, "scale_factor_width": 2},
        (0, 4, 16, 16),
    ),
    "scaled_dot_product_attention": (
        {"query": none(2, 0, 4), "key": none(2, 3, 4), "value": none(2, 3, 5)},
        (2, 0, 5),
    ),
    "scaled_dot_product_attention without heads": (
        {"query": none(0, 2, 3, 4), "key": none(0, 2, 3, 4), "value": none(0, 2, 3, 5)},
        (0, 2, 3, 5),
    ),
    "scaled_dot_product_attention without keys": (
        {"query": none(2, 3, 4), "key": none(2, 0, 4), "value": none(2, 0, 5)},
        (2, 3, 5),
    ),
}


@pytest.mark.parametrize("namespace", NAMESPACES)
@pytest.mark.parametrize("case", CASES)
def test_no_rows_give_none(case, namespace):
    arguments, shape = CASES[case]
    with np.errstate(invalid="ignore"):
        made = run(case.split(" ")[-1 if case == "depthwise conv" else 0], arguments, namespace)
    made = made[0] if isinstance(made, tuple) else made
    assert made.shape == shape
    assert np.isfinite(made.astype(np.float32)).all()
