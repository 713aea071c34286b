"""What methods do with arrays of either kind: numpy's, or torch's tensors on their device.

Methods are written once, with what both namespaces have in common and what is here. Where the two
have nothing in common, `on_torch` has the other form.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlpass.halves import widened
from mlpass.solvers.products import Part, row_parts
from mlpass.sparsity.tensors import has_double, is_tensor, placed, taken

Values = Any


def namespace(values: Values) -> Any:
    """Returns the functions for some values: numpy, or torch."""
    if not is_tensor(values):
        return np
    import torch

    return torch


def tensor_form(values: Values) -> ModuleType | None:
    """Returns `on_torch` for a tensor, None for numpy's arrays."""
    if not is_tensor(values):
        return None
    from mlpass.solvers import on_torch

    return on_torch


def jobs(values: Values, work_each: int) -> list[Part]:
    """Returns jobs over (groups, rows, ...) as `row_parts`; a device divides its work itself."""
    groups, rows = values.shape[:2]
    if is_tensor(values):
        return [(slice(0, groups), slice(0, rows))]
    return row_parts(groups, rows, work_each)


def blank(like: Values, shape: Sequence[int], mask: bool = False) -> Values:
    """Returns uninitialised fp32, or bool for a mask."""
    if is_tensor(like):
        xp = namespace(like)
        return like.new_empty(tuple(shape), dtype=xp.bool if mask else xp.float32)
    return np.empty(tuple(shape), bool if mask else np.float32)


def zeros(like: Values, shape: Sequence[int]) -> Values:
    """Returns fp32 zeros."""
    if is_tensor(like):
        return like.new_zeros(tuple(shape), dtype=namespace(like).float32)
    return np.zeros(tuple(shape), np.float32)


def in_fp32(values: Values) -> Values:
    """Returns fp32 in the order of its axes; the values themselves where they are that."""
    if is_tensor(values):
        return values.float().contiguous()
    return np.ascontiguousarray(widened(values))


def copied(values: Values) -> Values:
    """Returns a copy."""
    return values.clone() if is_tensor(values) else values.copy()


def masked(values: Values, keep: Values) -> Values:
    """Returns the values, 0 where they are not kept."""
    if is_tensor(values):
        return values.where(keep, 0.0)
    # Several times as fast as numpy's `where`, which branches on each element.
    return np.bitwise_and(values.view(np.int32), -keep.view(np.int8)).view(np.float32)


def ratio(over: Values, under: Values) -> Values:
    """Returns `over / under`, 0 where `under` is not above 0."""
    if is_tensor(under):
        live = under > 0
        return (over / under.where(live, 1.0)).where(live, 0.0)
    return np.divide(over, under, out=np.zeros_like(under), where=under > 0)


def diagonals(matrices: Values) -> Values:
    """Returns the diagonals of (groups, columns, columns), a view where that can be."""
    return namespace(matrices).einsum("gii->gi", matrices)


def inner(first: NDArray[Any], second: Values) -> float:
    """Returns the sum of the products of an array's elements with those of some values."""
    second = taken(second)
    if is_tensor(second):
        return total(placed(first, second) * second)
    return float(np.vdot(first, second))


def total(values: Values) -> float:
    """Returns the sum, in fp64 where the device has it."""
    if not is_tensor(values):
        return float(values.sum(dtype=np.float64))
    return float((values.double() if has_double(values) else values).sum())


def largest(values: Values) -> float:
    """Returns the largest magnitude, 0 of nothing."""
    if not is_tensor(values):
        return float(np.abs(values).max(initial=0))
    return float(values.abs().max()) if values.numel() else 0.0


def limit_of(values: Values) -> float:
    """Returns the largest number that their dtype holds."""
    return float(namespace(values).finfo(values.dtype).max)
