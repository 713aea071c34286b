"""Inputs of products of matrices: views of the other operand, wherever its axes allow it."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from math import prod
from typing import Any

from mlpass.errors import NotApplicable
from mlpass.runtime.kernels.arguments import flag

Array = Any


def linear_inputs(xp: Any, arguments: Mapping[str, Any]) -> Iterator[Array]:
    """Yields x (..., columns) as (1, samples, columns)."""
    x = arguments["x"]
    yield xp.reshape(x, (1, prod(x.shape[:-1]), x.shape[-1]))


def matmul_inputs(xp: Any, parameter: str, arguments: Mapping[str, Any]) -> Iterator[Array]:
    """Yields the operand that is not `parameter` as (groups, samples, columns).

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


def einsum_inputs(xp: Any, position: int, arguments: Mapping[str, Any]) -> Iterator[Array]:
    """Yields the operand that is not at `position` as (groups, samples, columns).

    Raises:
        NotApplicable: an operand's letters repeat.
    """
    values = arguments["values"]
    operands, output = str(arguments["equation"]).replace(" ", "").split("->")
    labels = operands.split(",")
    own, others, x = labels[position], labels[1 - position], values[1 - position]
    if len(set(own)) < len(own) or len(set(others)) < len(others):
        raise NotApplicable("einsum.values is read along a diagonal, which is no matrix")
    sizes = dict(zip(own, values[position].shape, strict=True))
    groups = {name: sizes[name] for name in own if name in output and name in others}
    columns = {name: sizes[name] for name in own if name not in output}
    summed = [axis for axis, name in enumerate(others) if name not in own and name not in output]
    if summed:
        x = xp.sum(x, axis=tuple(summed))
        others = "".join(name for axis, name in enumerate(others) if axis not in summed)
    return _arranged(xp, x, others, groups, columns)


def _arranged(
    xp: Any,
    x: Array,
    labels: Sequence[Hashable],
    groups: Mapping[Any, int],
    columns: Mapping[Any, int],
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
