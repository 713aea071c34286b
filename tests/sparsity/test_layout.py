"""Layouts: split and join are inverse, and rows times columns is what the op computes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mlpass.errors import NotApplicable
from mlpass.sparsity.layout import layout_of

# (op type, parameter, position, shape, settings, (groups, rows, channels, positions))
CASES = [
    ("linear", "weight", 0, (6, 8), {}, (1, 6, 8, 1)),
    ("conv", "weight", 0, (6, 4, 3, 5), {}, (1, 6, 4, 15)),
    ("conv", "weight", 0, (6, 4, 3), {"groups": 2}, (2, 3, 4, 3)),
    ("conv", "weight", 0, (6, 1, 3, 3, 2), {"groups": 6}, (6, 1, 1, 18)),
    ("conv_transpose", "weight", 0, (6, 4, 3, 5), {}, (1, 4, 6, 15)),
    ("conv_transpose", "weight", 0, (6, 4, 3), {"groups": 3}, (3, 4, 2, 3)),
    ("matmul", "y", 0, (8, 6), {}, (1, 6, 8, 1)),
    ("matmul", "y", 0, (6, 8), {"transpose_y": True}, (1, 6, 8, 1)),
    ("matmul", "x", 0, (6, 8), {"transpose_y": True}, (1, 6, 8, 1)),
    ("matmul", "x", 0, (2, 5, 8, 6), {"transpose_x": True}, (10, 6, 8, 1)),
    ("einsum", "values", 1, (1, 8, 7, 6), {"equation": "nchw,nwhu->nchu"}, (8, 6, 7, 1)),
    ("lstm", "weight_ih", 0, (16, 5), {}, (1, 16, 5, 1)),
    ("gru", "weight_hh", 0, (12, 4), {}, (1, 12, 4, 1)),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}.{case[1]}{case[3]}")
def test_sizes_and_that_join_undoes_split(case):
    op_type, parameter, position, shape, settings, sizes = case
    if op_type == "einsum":
        shape, sizes = (1, 7, 8, 6), (8, 6, 7, 1)  # n w h u: batch n, h; inner w; rows u
    layout = layout_of(op_type, parameter, position, shape, settings)
    array = np.arange(np.prod(shape)).reshape(shape)
    assert layout.sizes == sizes
    assert layout.split(array).shape == sizes
    assert np.array_equal(layout.join(layout.split(array)), array)


def test_conv_rows_times_patches_is_the_convolution():
    weight = torch.randn(6, 4, 3, 3, dtype=torch.float64)
    image = torch.randn(1, 8, 5, 5, dtype=torch.float64)
    wanted = torch.nn.functional.conv2d(image, weight, groups=2)
    layout = layout_of("conv", "weight", 0, weight.shape, {"groups": 2})
    matrix = layout.split(weight.numpy()).reshape(2, 3, -1)
    patches = torch.nn.functional.unfold(image, 3).numpy().reshape(2, -1, 9)
    assert np.allclose(matrix @ patches, wanted.numpy().reshape(2, 3, 9))


def test_conv_transpose_rows_are_outputs():
    weight = torch.randn(6, 4, 1, dtype=torch.float64)
    signal = torch.randn(1, 6, 5, dtype=torch.float64)
    wanted = torch.nn.functional.conv_transpose1d(signal, weight, groups=3)
    layout = layout_of("conv_transpose", "weight", 0, weight.shape, {"groups": 3})
    matrix = layout.split(weight.numpy())[..., 0]
    assert np.allclose(matrix @ signal.numpy().reshape(3, 2, 5), wanted.numpy().reshape(3, 4, 5))


@pytest.mark.parametrize(
    ("op_type", "shape", "text"),
    [
        ("gather", (100, 8), "a gather table has no input and output channels"),
        ("linear", (8,), r"linear.weight of rank 1 has no channels"),
        ("matmul", (8,), r"matmul.weight of rank 1 has no channels"),
    ],
)
def test_what_has_no_layout_says_why(op_type, shape, text):
    with pytest.raises(NotApplicable, match=text):
        layout_of(op_type, "weight", 0, shape, {})


@pytest.mark.parametrize(
    ("case", "tables", "shape"),
    [
        (("linear", "weight", 0, (6, 8), {}), 3, (3, 1)),
        (("matmul", "y", 0, (8, 6), {}), 2, (1, 2)),
        (("conv", "weight", 0, (6, 4, 3, 3), {"groups": 2}), 6, (6, 1, 1, 1)),
        (("conv", "weight", 0, (12, 1, 3), {"groups": 12}), 4, (4, 1, 1)),
        (("conv_transpose", "weight", 0, (6, 4, 3), {"groups": 3}), 6, (3, 2, 1)),
        (("conv_transpose", "weight", 0, (6, 4, 3), {"groups": 3}), 1, (1, 1, 1)),
        (("matmul", "x", 0, (2, 6, 8, 4), {"transpose_x": True}), 4, (2, 2, 1, 1)),
        (("einsum", "values", 1, (2, 5, 3, 4), {"equation": "nchw,nwhu->nchu"}), 12, (2, 1, 3, 2)),
    ],
)
def test_tables_are_for_runs_of_rows(case, tables, shape):
    layout = layout_of(*case)
    groups, rows, channels, positions = layout.sizes
    numbers = layout.tabled(tables).join(np.arange(tables))
    assert numbers.shape == shape
    for axis, (few, many) in enumerate(zip(shape, layout.shape, strict=True)):
        numbers = np.repeat(numbers, many // few, axis=axis)
    wanted = np.repeat(np.arange(tables), groups * rows // tables)
    found = layout.split(numbers).reshape(groups * rows, channels * positions)
    assert np.array_equal(found, np.broadcast_to(wanted[:, None], found.shape))


def test_tables_that_are_for_no_block_say_so():
    layout = layout_of("conv", "weight", 0, (12, 4, 3), {"groups": 3})
    with pytest.raises(NotApplicable, match="2 tables are for no whole blocks of its axes"):
        layout.tabled(2)
