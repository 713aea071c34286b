"""Ops that move elements, by torch's own functions: views where that is enough."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from mlpass.arrays import Array, Namespace
from mlpass.runtime.kernels import tensor_operation
from mlpass.runtime.kernels.registry import kernel
from mlpass.runtime.kernels.room import check_room


@kernel("split", backend="torch")
def split(
    xp: Namespace,
    *,
    x: Tensor,
    axis: int,
    num_splits: int | None = None,
    split_sizes: tuple[int, ...] | None = None,
) -> tuple[Array, ...]:
    """x (..., size, ...) -> its parts along axis: as many, equal ones, or of such sizes."""
    if split_sizes is None and num_splits is not None and -x.ndim <= axis < x.ndim:
        size, rest = divmod(x.shape[axis], num_splits)
        if not rest:
            return tuple(torch.split(x, size, axis))
    return tensor_operation.split(
        xp, x=x, axis=axis, num_splits=num_splits, split_sizes=split_sizes
    )


@kernel("pad", backend="torch")
def pad(
    xp: Namespace,
    *,
    x: Tensor,
    pad: tuple[int, ...],
    mode: str = "constant",
    constant_val: Tensor | float = 0.0,
) -> Array:
    """x (...), pad (2 * n,) of before and after for the last n axes -> x, padded."""
    fits = len(pad) % 2 == 0 and len(pad) <= 2 * x.ndim and min(pad, default=0) >= 0
    if mode != "constant" or not fits or not x.is_floating_point():
        return tensor_operation.pad(xp, x=x, pad=pad, mode=mode, constant_val=constant_val)
    # torch lists the last axis first.
    pairs = [pad[place : place + 2] for place in range(len(pad) - 2, -1, -2)]
    before = x.ndim - len(pairs)
    sizes = zip(x.shape[before:], reversed(pairs), strict=True)
    check_room((*x.shape[:before], *(size + sum(pair) for size, pair in sizes)), x.dtype)
    value = constant_val.item() if hasattr(constant_val, "item") else constant_val
    return functional.pad(x, [size for pair in pairs for size in pair], value=value)


@kernel("transpose", backend="torch")
def transpose(xp: Namespace, *, x: Tensor, perm: tuple[int, ...]) -> Array:
    """x (...) -> axis i is x's axis perm[i]."""
    return x.permute(perm) if x.ndim else x
