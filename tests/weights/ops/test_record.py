"""Records of weight ops: a layout each, registered once; a new one is known everywhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mlpass.errors import ConfigError, NotApplicable
from mlpass.weights.ops.record import WEIGHT_OPS, layout_of, register

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
    ("name", "shape", "settings", "text"),
    [
        ("gather.x", (100, 8), {}, "a gather table has no input and output channels"),
        ("linear.weight", (8,), {}, r"linear.weight of rank 1 has no channels"),
        ("lstm.weight_hh", (8, 4, 1), {}, r"lstm.weight_hh of rank 3 has no channels"),
        ("matmul.y", (8,), {}, r"matmul.y of rank 1 has no channels"),
        ("lstm.bias", (8,), {}, "lstm.bias is not read as a weight"),
        ("add.y", (8, 8), {}, "add.y is not read as a weight"),
        ("conv.weight", (6, 4, 3), {"groups": 4}, "conv.weight does not fit the op's other"),
        ("conv.weight", (6, 4, 3), {"groups": 0}, "conv.weight does not fit the op's other"),
        ("einsum.values", (6, 4), {}, "einsum.values does not fit the op's other parameters"),
    ],
)
def test_what_has_no_layout_says_why(name, shape, settings, text):
    op_type, parameter = name.split(".")
    with pytest.raises(NotApplicable, match=text):
        layout_of(op_type, parameter, 0, shape, settings)


def test_an_op_is_registered_once():
    twice = WEIGHT_OPS["linear"]["weight"]
    with pytest.raises(ConfigError, match="linear.weight is registered already; register it once"):
        register(twice)


def test_weight_parameters_are_those_of_coremltools_ops():
    from coremltools.converters.mil.mil.ops.registry import SSAOpRegistry

    for op_type, records in WEIGHT_OPS.items():
        for version in SSAOpRegistry.core_ops[op_type].values():
            known = set(version.input_spec.input_types)
            assert records.keys() <= known, op_type
        beside = frozenset().union(*(one.beside for one in records.values()))
        newest = SSAOpRegistry.core_ops[op_type].values()
        assert beside <= {name for one in newest for name in one.input_spec.input_types}, op_type
