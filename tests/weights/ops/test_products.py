"""Products of matrices: inputs times matrix is what the op computes; layouts of every operand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mlpass.errors import NotApplicable
from tests.weights.ops.law import check, chunks_of, inputs_of, matrix_of, normal, over_namespaces


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


@pytest.mark.parametrize(
    ("op_type", "parameter", "arguments", "text"),
    [
        ("matmul", "y", {"x": normal(2, 3), "y": normal(3)}, "matmul.y of rank 1 has no channels"),
        (
            "einsum",
            "values",
            {"values": (normal(3, 3), normal(3, 2)), "equation": "ii,ij->j"},
            "einsum.values is read along a diagonal",
        ),
    ],
)
def test_what_is_not_a_matrix_says_why(op_type, parameter, arguments, text):
    with pytest.raises(NotApplicable, match=text):
        list(chunks_of(op_type, parameter, arguments))


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
        for chunk in chunks_of(op_type, parameter, arguments):
            assert any(
                np.shares_memory(chunk, value)
                for name, value in arguments.items()
                if name != parameter and isinstance(value, np.ndarray)
            ), op_type
