"""Products of matrices: what meets the weight is the other operand, a view wherever that can be."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from functools import partial
from math import prod
from typing import TypeVar

from mlpass.arrays import Array, Namespace
from mlpass.errors import NotApplicable
from mlpass.runtime.kernels.arguments import flag
from mlpass.runtime.kernels.registry import Arguments, Kernel
from mlpass.sparsity.layout import Layout, matrix_layout
from mlpass.weights.ops.record import WeightOp, register

Label = TypeVar("Label", bound=Hashable)


def plain_layout(
    name: str, shape: Sequence[int], settings: Mapping[str, object], position: int
) -> Layout:
    """Returns the layout of a weight (rows, columns), which is `name` in messages.

    Raises:
        NotApplicable: it does not have two axes.
    """
    if len(shape) != 2:
        raise NotApplicable(f"{name} of rank {len(shape)} has no channels")
    return matrix_layout(*shape)


def matmul_layout(
    parameter: str, shape: Sequence[int], settings: Mapping[str, object], position: int
) -> Layout:
    """Returns the layout of a matmul operand: its leading axes are groups.

    Args:
        parameter: "x" (*batch, rows, inner) or "y" (*batch, inner, rows).
        shape: as stored; the op may swap its last two axes first.
        settings: of the op.
        position: 0.

    Raises:
        NotApplicable: it is a vector.
    """
    if len(shape) < 2:
        raise NotApplicable(f"matmul.{parameter} of rank {len(shape)} has no channels")
    transposed = bool(settings.get(f"transpose_{parameter}", False))
    first, second = len(shape) - 2, len(shape) - 1
    rows, inner = (first, second) if (parameter == "x") != transposed else (second, first)
    return Layout(tuple(shape), tuple(shape), (tuple(range(first)), (rows,), (inner,), ()))


def einsum_layout(shape: Sequence[int], settings: Mapping[str, object], position: int) -> Layout:
    """Returns the layout of the einsum operand at a position.

    Args:
        shape: one size for each of its letters in the equation.
        settings: of the op; the equation is among them.
        position: of the operand.
    """
    operands, output = str(settings["equation"]).replace(" ", "").split("->")
    labels = operands.split(",")
    parts: tuple[list[int], list[int], list[int], list[int]] = ([], [], [], [])
    for axis, letter in enumerate(labels[position]):
        in_output, in_other = letter in output, letter in labels[1 - position]
        part = 2 if not in_output else (0 if in_other else 1)
        parts[part].append(axis)
    groups, rows, channels, positions = map(tuple, parts)
    return Layout(tuple(shape), tuple(shape), (groups, rows, channels, positions))


def linear_inputs(
    xp: Namespace, arguments: Arguments, kernel: Kernel, position: int
) -> Iterator[Array]:
    """Yields x (..., columns) as (1, samples, columns)."""
    x = arguments["x"]
    yield xp.reshape(x, (1, prod(x.shape[:-1]), x.shape[-1]))


def matmul_inputs(
    parameter: str, xp: Namespace, arguments: Arguments, kernel: Kernel, position: int
) -> Iterator[Array]:
    """Returns the operand that is not `parameter` as (groups, samples, columns).

    Raises:
        NotApplicable: the weight is a vector.
    """
    weight, left = arguments[parameter], parameter == "x"
    if weight.ndim < 2:
        raise NotApplicable(f"matmul.{parameter} of rank {weight.ndim} has no channels")
    other = "y" if left else "x"
    x = arguments[other]
    if x.ndim == 1:
        x = xp.reshape(x, (1, *x.shape))
    elif flag(arguments.get(f"transpose_{other}", False)) != left:  # y has its inputs as columns
        x = xp.matrix_transpose(x)
    # Axes are named from the end, as broadcasting pairs them.
    groups = {axis: weight.shape[axis] for axis in range(-weight.ndim, -2)}
    return _arranged(xp, x, range(-x.ndim, 0), groups, {-1: x.shape[-1]})


def einsum_inputs(
    xp: Namespace, arguments: Arguments, kernel: Kernel, position: int
) -> Iterator[Array]:
    """Returns the operand that is not at `position` as (groups, samples, columns).

    Raises:
        NotApplicable: an operand's letters repeat.
    """
    values = arguments["values"]
    operands, output = str(arguments["equation"]).replace(" ", "").split("->")
    labels = operands.split(",")
    own, others, x = labels[position], labels[1 - position], values[1 - position]
    if len(set(own)) < len(own) or len(set(others)) < len(others):
        raise NotApplicable("einsum.values is read along a diagonal, which is not a matrix")
    sizes = dict(zip(own, values[position].shape, strict=True))
    groups = {name: sizes[name] for name in own if name in output and name in others}
    columns = {name: sizes[name] for name in own if name not in output}
    summed = [axis for axis, name in enumerate(others) if name not in own and name not in output]
    if summed:
        x = xp.sum(x, axis=tuple(summed))
        others = "".join(name for axis, name in enumerate(others) if axis not in summed)
    return _arranged(xp, x, others, groups, columns)


def linear_outputs(xp: Namespace, made: Array, arguments: Arguments, position: int) -> Array:
    """Returns (..., rows) as (1, samples, rows)."""
    return xp.reshape(made, (1, prod(made.shape[:-1]), made.shape[-1]))


def matmul_outputs(
    parameter: str, xp: Namespace, made: Array, arguments: Arguments, position: int
) -> Array:
    """Returns what a matmul makes as (groups, samples, rows), as `matmul_inputs` has its samples.

    Raises:
        NotApplicable: the other operand is a vector.
    """
    weight, left = arguments[parameter], parameter == "x"
    if arguments["y" if left else "x"].ndim == 1:
        raise NotApplicable("matmul of a vector has no samples")
    rows = xp.matrix_transpose(made) if left else made
    groups = {axis: weight.shape[axis] for axis in range(-weight.ndim, -2)}
    return next(_arranged(xp, rows, range(-made.ndim, 0), groups, {-1: rows.shape[-1]}))


def einsum_outputs(xp: Namespace, made: Array, arguments: Arguments, position: int) -> Array:
    """Returns what an einsum makes as (groups, samples, rows), samples as in `einsum_inputs`."""
    operands, output = str(arguments["equation"]).replace(" ", "").split("->")
    labels = operands.split(",")
    own, others = labels[position], labels[1 - position]
    sizes = dict(zip(own, arguments["values"][position].shape, strict=True))
    groups = {name: sizes[name] for name in own if name in output and name in others}
    rows = {name: sizes[name] for name in own if name in output and name not in others}
    samples = [name for name in others if name in output]
    order = [*samples, *(name for name in output if name not in samples)]
    placed = xp.permute_dims(made, [output.index(name) for name in order])
    return next(_arranged(xp, placed, order, groups, rows))


def _arranged(
    xp: Namespace,
    x: Array,
    labels: Sequence[Label],
    groups: Mapping[Label, int],
    columns: Mapping[Label, int],
) -> Iterator[Array]:
    """Yields x as (groups, samples, columns).

    Args:
        xp: the array namespace.
        x: one axis for each of `labels`.
        labels: names of its axes; those that are in no group or column are its samples.
        groups: the weight's size of each axis of the groups, by label; x is broadcast to them.
        columns: likewise for the axes of the columns.
    """
    # Along a group of one, each of x's meets the same weight.
    groups = {label: size for label, size in groups.items() if size > 1}
    absent = [label for label in (*groups, *columns) if label not in labels]
    labels = [*absent, *labels]
    sizes = dict(zip(labels, (*(1 for _ in absent), *x.shape), strict=True))
    samples = [label for label in labels if label not in groups and label not in columns]
    order = [*groups, *samples, *columns]
    x = xp.permute_dims(xp.reshape(x, tuple(sizes.values())), [labels.index(n) for n in order])
    sizes = {**sizes, **groups, **columns}
    x = xp.broadcast_to(x, tuple(sizes[label] for label in order))
    parts = (groups, samples, columns)
    yield xp.reshape(x, tuple(prod(sizes[label] for label in part) for part in parts))


_linear_layout = partial(plain_layout, "linear.weight")
register(
    WeightOp(
        "linear",
        "weight",
        _linear_layout,
        linear_inputs,
        outputs=linear_outputs,
        beside=frozenset({"bias"}),
        adds=True,
    )
)
for _operand in ("x", "y"):
    _layout, _inputs = partial(matmul_layout, _operand), partial(matmul_inputs, _operand)
    _outputs = partial(matmul_outputs, _operand)
    register(WeightOp("matmul", _operand, _layout, _inputs, outputs=_outputs, adds=True))
register(
    WeightOp("einsum", "values", einsum_layout, einsum_inputs, outputs=einsum_outputs, adds=True)
)
