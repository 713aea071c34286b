"""Ops that move elements, by torch's own functions: views where that is enough."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from mlpass.runtime.kernels import tensor_operation
from mlpass.runtime.kernels.arguments import integer, ints
from mlpass.runtime.kernels.registry import kernel

Array = Any


@kernel("split", backend="torch")
def split(
    xp: Any, *, x: Array, axis: Any, num_splits: Any = None, split_sizes: Any = None
) -> tuple[Array, ...]:
    """x (..., size, ...) -> its parts along axis: as many, equal ones, or of such sizes."""
    along = integer(axis)
    if split_sizes is None and num_splits is not None:
        parts = integer(num_splits)
        if -x.ndim <= along < x.ndim and x.shape[along] % parts == 0:
            return tuple(torch.split(x, x.shape[along] // parts, along))
    return tensor_operation.split(
        xp, x=x, axis=axis, num_splits=num_splits, split_sizes=split_sizes
    )


@kernel("pad", backend="torch")
def pad(xp: Any, *, x: Array, pad: Any, mode: str = "constant", constant_val: Any = 0.0) -> Array:
    """x (...), pad (2 * n,) of before and after for the last n axes -> x, padded."""
    amounts = ints(pad)
    fits = len(amounts) % 2 == 0 and len(amounts) <= 2 * x.ndim and min(amounts, default=0) >= 0
    if mode != "constant" or not fits or not x.is_floating_point():
        return tensor_operation.pad(xp, x=x, pad=pad, mode=mode, constant_val=constant_val)
    # torch lists the last axis first.
    pairs = [amounts[place : place + 2] for place in range(len(amounts) - 2, -1, -2)]
    value = constant_val.item() if hasattr(constant_val, "item") else constant_val
    return functional.pad(x, [size for pair in pairs for size in pair], value=value)


@kernel("transpose", backend="torch")
def transpose(xp: Any, *, x: Array, perm: Any) -> Array:
    """x (...) -> axis i is x's axis perm[i]."""
    return x.permute(ints(perm)) if x.ndim else x
