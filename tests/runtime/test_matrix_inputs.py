"""Inputs of weights: times the weight's matrix, they are what the op's own kernel computes."""

from __future__ import annotations

import math

import array_api_strict
import numpy as np
import pytest
import torch
from array_api_compat import torch as torch_namespace

from mlpass.errors import NotApplicable
from mlpass.runtime.backends.base import load_kernels
from mlpass.runtime.inputs import convolutions
from mlpass.runtime.kernels.registry import find_kernel
from mlpass.runtime.matrix_inputs import matrix_inputs, row_counts
from mlpass.sparsity.layout import layout_of

load_kernels("numpy")
load_kernels("torch")

RNG = np.random.default_rng(7)
# Each with what makes its arrays.
NAMESPACES = {
    "numpy": (np, np.asarray),
    "torch": (torch_namespace, lambda array: torch.from_numpy(np.array(array))),
    "strict": (array_api_strict, array_api_strict.asarray),
}
SCALARS = (str, int, np.integer)
over_namespaces = pytest.mark.parametrize("namespace", NAMESPACES)


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def given(arguments, namespace):
    """Returns arguments with their float arrays as the namespace's own."""
    make = NAMESPACES[namespace][1]

    def convert(value):
        if isinstance(value, tuple):
            return tuple(map(convert, value))
        is_data = isinstance(value, np.ndarray) and value.dtype == np.float32
        return make(value) if is_data else value

    return {name: convert(value) for name, value in arguments.items()}


def kernel_of(op_type, namespace, opset=18):
    return find_kernel(op_type, opset, "torch" if namespace == "torch" else "numpy")


def inputs_of(op_type, parameter, arguments, namespace, position=0, opset=18):
    """Returns the inputs of a weight as one numpy array, its chunks joined."""
    chunks = matrix_inputs(
        NAMESPACES[namespace][0],
        op_type,
        parameter,
        position,
        given(arguments, namespace),
        kernel_of(op_type, namespace, opset),
    )
    return np.concatenate([np.asarray(chunk) for chunk in chunks], axis=1)


def matrix_of(op_type, parameter, arguments, position=0):
    """Returns a weight as (groups, rows, columns)."""
    weight = arguments[parameter]
    weight = weight[position] if isinstance(weight, tuple) else weight
    settings = {name: value for name, value in arguments.items() if isinstance(value, SCALARS)}
    layout = layout_of(op_type, parameter, position, weight.shape, settings)
    groups, rows, channels, positions = layout.sizes
    return layout.split(weight).reshape(groups, rows, channels * positions)


def check(op_type, parameter, arguments, namespace, rows_of, position=0):
    """Fails where inputs times matrix is not the kernel's output, as `rows_of` arranges it."""
    xp = NAMESPACES[namespace][0]
    inputs = inputs_of(op_type, parameter, arguments, namespace, position)
    matrix = matrix_of(op_type, parameter, arguments, position)
    output = kernel_of(op_type, namespace)(xp, **given(arguments, namespace))
    wanted = rows_of(np.asarray(output))
    found = inputs @ matrix.swapaxes(1, 2)
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


# Products


@over_namespaces
@pytest.mark.parametrize("shape", [(6,), (5, 6), (2, 3, 5, 6)])
def test_linear(shape, namespace):
    arguments = {"x": normal(*shape), "weight": normal(4, 6)}
    check("linear", "weight", arguments, namespace, lambda y: y.reshape(1, -1, 4))


def by_groups(axes, left):
    """Returns what arranges a matmul's output: the axes of the groups first, then its rows last."""

    def rows_of(output):
        output = output.swapaxes(-1, -2) if left else output
        moved = np.moveaxis(output, axes, range(len(axes)))
        return moved.reshape(math.prod(moved.shape[: len(axes)]), -1, moved.shape[-1])

    return rows_of


# (shape of the weight, shape of the other operand, axes of the output that are groups)
MATMULS = [
    ((6, 4), (5, 6), ()),
    ((6, 4), (3, 2, 5, 6), ()),
    ((3, 6, 4), (3, 5, 6), (0,)),
    ((3, 6, 4), (5, 6), (0,)),
    ((3, 6, 4), (1, 5, 6), (0,)),
    ((3, 6, 4), (2, 3, 5, 6), (1,)),
    ((3, 6, 4), (2, 1, 5, 6), (1,)),
    ((2, 1, 6, 4), (3, 5, 6), (0,)),
    ((2, 1, 6, 4), (2, 3, 5, 6), (0,)),
    ((2, 3, 6, 4), (2, 3, 5, 6), (0, 1)),
    ((2, 3, 6, 4), (1, 3, 5, 6), (0, 1)),
    ((1, 1, 6, 4), (2, 3, 5, 6), ()),
]


@over_namespaces
@pytest.mark.parametrize("transposed", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("case", MATMULS, ids=str)
def test_matmul(case, left, transposed, namespace):
    weight, other, groups = case
    weight, other = normal(*weight), normal(*other)
    if left:
        weight, other = weight.swapaxes(-1, -2), other.swapaxes(-1, -2)
    x, y = (weight, other) if left else (other, weight)
    x = np.ascontiguousarray(x.swapaxes(-1, -2) if transposed[0] else x)
    y = np.ascontiguousarray(y.swapaxes(-1, -2) if transposed[1] else y)
    arguments = {"x": x, "y": y, "transpose_x": transposed[0], "transpose_y": transposed[1]}
    rows_of = by_groups(groups, left)
    check("matmul", "x" if left else "y", arguments, namespace, rows_of)


@over_namespaces
def test_matmul_with_a_vector(namespace):
    rows_of = lambda y: y.reshape(1, 1, -1)  # noqa: E731
    check("matmul", "y", {"x": normal(6), "y": normal(6, 4)}, namespace, rows_of)
    check("matmul", "x", {"x": normal(4, 6), "y": normal(6)}, namespace, rows_of)


@over_namespaces
@pytest.mark.parametrize(
    ("equation", "shapes", "batch"),
    [
        ("nchw,nwhu->nchu", ((2, 3, 4, 5), (2, 5, 4, 6)), 2),
        ("nchw,nwhu->nchu", ((2, 3, 4, 5), (1, 5, 4, 6)), 1),
        ("nchw,nwhu->nchu", ((1, 3, 4, 5), (2, 5, 4, 6)), 2),
        ("chw, whu -> chu", ((3, 4, 5), (5, 4, 6)), 1),
        ("chw,whu->chu", ((3, 1, 5), (5, 4, 6)), 1),
    ],
)
@pytest.mark.parametrize("position", [0, 1])
def test_einsum(equation, shapes, batch, position, namespace):
    arguments = {"values": tuple(normal(*shape) for shape in shapes), "equation": equation}
    weight = arguments["values"][position]
    own = (weight.shape[0] if weight.ndim == 4 else 1, weight.shape[-2])  # sizes of n and h

    def rows_of(output):
        output = output.reshape(-1, *output.shape[-3:])  # n c h u
        groups = [axis for axis, size in zip((0, 2), own, strict=True) if size > 1]
        rows = 3 if position else 1
        samples = [axis for axis in range(4) if axis not in (*groups, rows)]
        moved = output.transpose(*groups, *samples, rows)
        return moved.reshape(math.prod(own), -1, output.shape[rows])

    check("einsum", "values", arguments, namespace, rows_of, position)


# What MIL does not run, but layouts accept: numpy's own einsum is the judge.
@over_namespaces
@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("nab,abu->nu", ((2, 3, 4), (3, 4, 5))),  # two axes make up the columns
        ("nka,au->nu", ((2, 5, 3), (3, 4))),  # an axis is summed that the weight does not have
        ("na,abu->nu", ((2, 3), (3, 4, 5))),  # one that the weight alone has
        ("na,uva->nuv", ((2, 3), (5, 4, 3))),  # two make up the rows
    ],
)
def test_einsum_of_any_equation(equation, shapes, namespace):
    values = tuple(normal(*shape) for shape in shapes)
    arguments = {"values": values, "equation": equation}
    found = inputs_of("einsum", "values", arguments, namespace, 1)
    matrix = matrix_of("einsum", "values", arguments, 1)
    expected = np.einsum(equation, *values).reshape(1, 2, -1)
    np.testing.assert_allclose(found @ matrix.swapaxes(1, 2), expected, rtol=1e-4, atol=1e-4)


# Convolutions


def by_channel_groups(groups):
    """Returns what arranges a convolution's output as (groups, samples, rows)."""

    def rows_of(output):
        batch, channels = output.shape[:2]
        parts = output.reshape(batch, groups, channels // groups, -1).transpose(1, 0, 3, 2)
        return parts.reshape(groups, -1, channels // groups)

    return rows_of


# (shape of x, shape of the weight, what steers)
CONVS = [
    ((2, 3, 9), (4, 3, 3), {}),
    ((2, 3, 9), (4, 3, 3), {"strides": [2], "dilations": [2]}),
    ((2, 3, 9, 8), (4, 3, 3, 2), {"strides": np.array([2, 1]), "pad_type": "same"}),
    ((2, 3, 9, 8), (4, 3, 4, 2), {"strides": [2, 3], "pad_type": "same_lower"}),
    ((2, 3, 9, 8), (4, 3, 3, 3), {"pad_type": "custom", "pad": [0, 1, 2, 3]}),
    ((2, 6, 7, 7), (4, 3, 3, 3), {"groups": 2, "dilations": [1, 2]}),
    ((2, 6, 7, 7), (12, 1, 3, 3), {"groups": 6, "pad_type": "same"}),
    ((2, 4, 5, 6, 4), (6, 2, 2, 3, 2), {"groups": np.int32(2), "strides": [1, 2, 1]}),
    ((2, 4, 5, 6, 4), (6, 4, 3, 3, 3), {"pad_type": "custom", "pad": [1, 1, 0, 2, 1, 0]}),
    ((1, 6, 5, 5), (4, 6, 1, 1), {}),
    ((1, 6, 5, 5), (4, 3, 1, 1), {"groups": 2, "strides": [2, 2]}),
    ((3, 6, 5, 5), (4, 6, 1, 1), {"pad_type": "custom", "pad": [1, 0, 0, 1]}),
    ((2, 6, 40, 30), (4, 3, 1, 1), {"groups": 2, "pad_type": "custom", "pad": [1, 0, 0, 1]}),
]
TRANSPOSED = [
    ((2, 3, 5), (3, 4, 3), {"strides": [2]}),
    ((2, 3, 5, 4), (3, 2, 3, 2), {"strides": [2, 3]}),
    ((1, 2, 3, 4, 3), (2, 2, 2, 3, 2), {"dilations": [2, 1, 1]}),
    ((2, 4, 4, 4), (4, 3, 3, 3), {"groups": 2, "strides": [2, 1]}),
    ((2, 4, 4, 4), (4, 1, 3, 3), {"groups": 4, "pad_type": "same", "dilations": [2, 2]}),
    ((1, 2, 4, 4), (2, 3, 2, 2), {"strides": [3, 3]}),
    ((1, 2, 4, 4), (2, 3, 2, 2), {"strides": [3, 3], "pad_type": "same"}),
    ((1, 2, 4, 5), (2, 3, 3, 4), {"strides": [2, 1], "pad_type": "same_lower"}),
    (
        (2, 2, 4, 5),
        (2, 3, 3, 3),
        {"strides": [2, 2], "pad_type": "same", "output_shape": [2, 3, 7, 10]},
    ),
    ((1, 2, 6, 6), (2, 3, 3, 3), {"pad_type": "custom", "pad": [0, 1, 2, 1]}),
    ((1, 2, 6, 6), (2, 3, 3, 3), {"pad_type": "custom", "pad": [3, 1, 4, 2], "strides": [2, 3]}),
    ((1, 2, 4, 4), (2, 3, 2, 2), {"strides": [3, 3], "output_shape": np.array([1, 3, 15, 12])}),
    ((1, 2, 3), (2, 3, 1), {"strides": [5], "pad_type": "custom", "pad": [1, 7]}),
    ((2, 6, 5, 5), (6, 4, 1, 1), {}),
]


@over_namespaces
@pytest.mark.parametrize("chunk", [1 << 22, 1, 1500])
@pytest.mark.parametrize("case", CONVS, ids=lambda case: f"{case[1]}-{case[2]}")
def test_conv(case, chunk, namespace, monkeypatch):
    monkeypatch.setattr(convolutions, "_CHUNK", chunk)
    shape, weight, steering = case
    arguments = {"x": normal(*shape), "weight": normal(*weight), **steering}
    rows_of = by_channel_groups(int(steering.get("groups", 1)))
    check("conv", "weight", arguments, namespace, rows_of)


@over_namespaces
@pytest.mark.parametrize("chunk", [1 << 22, 200])
@pytest.mark.parametrize("case", TRANSPOSED, ids=lambda case: f"{case[1]}-{case[2]}")
def test_conv_transpose(case, chunk, namespace, monkeypatch):
    monkeypatch.setattr(convolutions, "_CHUNK", chunk)
    shape, weight, steering = case
    arguments = {"x": normal(*shape), "weight": normal(*weight), **steering}
    rows_of = by_channel_groups(steering.get("groups", 1))
    check("conv_transpose", "weight", arguments, namespace, rows_of)


@pytest.mark.parametrize(
    ("batch", "channels", "size", "chunks"), [(4, 64, 112, 8), (40, 512, 7, 3), (3, 8, 9, 1)]
)
def test_chunks_are_bounded_and_few(batch, channels, size, chunks):
    arguments = {
        "x": np.zeros((batch, channels, size, size), np.float32),
        "weight": np.zeros((4, channels, 3, 3), np.float32),
        "pad_type": "same",
    }
    found = list(matrix_inputs(np, "conv", "weight", 0, arguments, None))
    assert len(found) == chunks
    assert max(chunk.nbytes for chunk in found) <= 16 << 20
    assert sum(chunk.shape[1] for chunk in found) == batch * size * size


# Recurrent layers: from the products with both weights the states follow, element by element.

STEPS, BATCH, SIZE, HIDDEN = 5, 3, 4, 6


def recurrent(gates, direction, **more):
    arguments = {
        "x": normal(STEPS, BATCH, SIZE),
        "initial_h": normal(BATCH, HIDDEN),
        "weight_ih": normal(gates * HIDDEN, SIZE) / 2,
        "weight_hh": normal(gates * HIDDEN, HIDDEN) / 2,
        "direction": direction,
        **more,
    }
    return {"output_sequence": False, **arguments}


def products_of(op_type, arguments, namespace, suffix="", reverse=False, opset=18):
    """Returns both products, (steps, batch, gates), steps in the order in which they are made."""
    steps, states = (
        inputs_of(op_type, parameter, arguments, namespace, opset=opset)
        @ matrix_of(op_type, parameter, arguments).swapaxes(1, 2)
        for parameter in (f"weight_ih{suffix}", f"weight_hh{suffix}")
    )
    steps = steps.reshape(STEPS, BATCH, -1)
    return steps[::-1] if reverse else steps, states.reshape(STEPS, BATCH, -1)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def states_of(op_type, arguments, namespace, opset=18):
    made = kernel_of(op_type, namespace, opset)(
        NAMESPACES[namespace][0], **given({**arguments, "output_sequence": True}, namespace)
    )
    return np.asarray(made[0])


def close(found, wanted):
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


@over_namespaces
@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_rnn(direction, namespace):
    arguments = recurrent(1, direction)
    steps, states = products_of("rnn", arguments, namespace, reverse=direction == "reverse")
    close(np.tanh(steps + states), states_of("rnn", arguments, namespace))


@over_namespaces
@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("after", [True, False, None])
def test_gru(direction, after, namespace):
    opset = 13 if after is None else 18
    more = {} if after is None else {"reset_after": after}
    arguments = recurrent(3, direction, **more)
    backwards = direction == "reverse"
    steps, products = products_of("gru", arguments, namespace, reverse=backwards, opset=opset)
    own = inputs_of("gru", "weight_hh", arguments, namespace, opset=opset)
    before = own.reshape(STEPS, BATCH, HIDDEN)
    reset, update = (sigmoid((steps + products)[..., part]) for part in gates_of(0, 2))
    (output,) = gates_of(1)
    # Where the reset gate comes before the product, it is no product with the hidden states.
    inner = reset * products[..., output]
    if not after:
        inner = (reset * before) @ arguments["weight_hh"][output].T
    found = np.tanh(steps[..., output] + inner)
    states = states_of("gru", arguments, namespace, opset)
    close((1 - update) * found + update * before, states)
    close(before[1:], states[:-1])


def gates_of(*numbers):
    return [slice(number * HIDDEN, (number + 1) * HIDDEN) for number in numbers]


@over_namespaces
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_lstm(direction, namespace):
    both = direction == "bidirectional"
    wide = HIDDEN * (1 + both)
    arguments = recurrent(4, direction, bias=normal(4 * HIDDEN), clip=1.5)
    arguments |= {"initial_h": normal(BATCH, wide), "initial_c": normal(BATCH, wide)}
    arguments["peephole"] = normal(3 * HIDDEN) / 2
    if both:
        arguments |= {f"{name}_back": normal(*arguments[name].shape) for name in BACK}
    made = states_of("lstm", arguments, namespace)
    for suffix, backwards in [("", direction == "reverse"), ("_back", True)][: 1 + both]:
        part = slice(HIDDEN, None) if suffix else slice(None, HIDDEN)
        sums = sum(products_of("lstm", arguments, namespace, suffix, backwards))
        sums = sums + arguments[f"bias{suffix}"]
        peephole, c = arguments[f"peephole{suffix}"], arguments["initial_c"][:, part]
        states = []
        for step in sums:
            i, f, o, z = (step[:, gate] for gate in gates_of(0, 1, 2, 3))
            seen = [peephole[gate] for gate in gates_of(0, 1, 2)]
            c = sigmoid(f + c * seen[1]) * c + sigmoid(i + c * seen[0]) * np.tanh(z)
            c = np.clip(c, -1.5, 1.5)
            states.append(sigmoid(o + c * seen[2]) * np.tanh(c))
        wanted = made[..., part]
        close(np.stack(states), wanted[::-1] if suffix else wanted)


BACK = ("weight_ih", "weight_hh", "bias", "peephole")


@over_namespaces
def test_one_step_has_the_initial_state_alone(namespace):
    arguments = {**recurrent(1, "forward"), "x": normal(1, BATCH, SIZE)}
    close(inputs_of("rnn", "weight_hh", arguments, namespace)[0], arguments["initial_h"])


# Tables


@over_namespaces
@pytest.mark.parametrize("axis", [{}, {"axis": 0}, {"axis": np.int32(-2)}])
def test_rows_of_a_table_are_counted(axis, namespace):
    xp, make = NAMESPACES[namespace]
    indices = np.array([[0, 3, 3, -1], [2, -5, 3, 7]], np.int32)
    arguments = {"x": make(normal(5, 2)), "indices": make(indices), **axis}
    assert np.asarray(row_counts(xp, arguments)).tolist() == [2, 0, 1, 3, 1]
    inside = {**arguments, "indices": make(np.array(4, np.int32))}
    assert np.asarray(row_counts(xp, inside)).tolist() == [0, 0, 0, 0, 1]


def test_tables_read_along_another_axis_have_no_rows():
    arguments = {"x": normal(5, 2), "indices": np.array([0]), "axis": 1}
    with pytest.raises(NotApplicable, match="gather reads along axis 1 of its table"):
        row_counts(np, arguments)


# What is none


@pytest.mark.parametrize(
    ("op_type", "parameter", "arguments", "text"),
    [
        ("gather", "x", {}, "a gather table is read, not multiplied with"),
        ("lstm", "bias", {}, "lstm.bias is no matrix of dot products"),
        ("add", "y", {}, "add.y is no matrix of dot products"),
        ("matmul", "y", {"x": normal(2, 3), "y": normal(3)}, "matmul.y of rank 1 has no channels"),
        (
            "einsum",
            "values",
            {"values": (normal(3, 3), normal(3, 2)), "equation": "ii,ij->j"},
            "einsum.values is read along a diagonal",
        ),
    ],
)
def test_what_is_no_matrix_says_why(op_type, parameter, arguments, text):
    with pytest.raises(NotApplicable, match=text):
        matrix_inputs(np, op_type, parameter, 0, arguments, None)


def test_products_and_single_points_are_views():
    x = normal(2, 3, 5, 6)
    weight = normal(4, 6)
    tall = normal(7, 6, 40, 40)
    calls = [
        ("linear", "weight", {"x": x, "weight": weight}),
        ("matmul", "y", {"x": x, "y": weight.T}),
        ("matmul", "y", {"x": x, "y": normal(2, 3, 6, 4)}),
        ("matmul", "x", {"x": weight, "y": normal(6, 9)}),
        ("matmul", "x", {"x": weight, "y": x[0, 0], "transpose_y": True}),
        ("conv", "weight", {"x": tall, "weight": normal(4, 6, 1, 1)}),
        ("conv", "weight", {"x": tall[:1, :, :5], "weight": normal(4, 6, 1, 1)}),
        ("lstm", "weight_ih", {"x": x[0]}),
    ]
    for op_type, parameter, arguments in calls:
        data = {id(value) for value in arguments.values()}
        assert data
        for chunk in matrix_inputs(np, op_type, parameter, 0, arguments, None):
            assert any(
                np.shares_memory(chunk, value)
                for name, value in arguments.items()
                if name != parameter and isinstance(value, np.ndarray)
            ), op_type


def test_the_law_can_fail():
    arguments = {"x": normal(2, 3, 7, 7), "weight": normal(4, 3, 3, 3)}
    with pytest.raises(AssertionError, match="Not equal"):
        check("conv", "weight", arguments, "numpy", lambda y: by_channel_groups(1)(y)[:, ::-1])
