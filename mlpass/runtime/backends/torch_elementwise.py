"""Ops on single elements by torch's own functions, where the namespace's are slow to call.

A small op takes torch a microsecond: what the array API's promotion of types costs would double it.
"""

from __future__ import annotations

import typing
from collections.abc import Callable

import torch
from torch import Tensor

from mlpass.arrays import Array, Namespace
from mlpass.runtime.kernels import elementwise_binary, elementwise_unary
from mlpass.runtime.kernels.registry import find_kernel, kernel

# MIL's op -> torch's function of the same meaning, for operands of one type.
_BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": torch.add,
    "equal": torch.eq,
    "greater": torch.gt,
    "greater_equal": torch.ge,
    "less": torch.lt,
    "less_equal": torch.le,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "mul": torch.mul,
    "not_equal": torch.ne,
    "sub": torch.sub,
}


def _register_binary(op_type: str, function: Callable[[Tensor, Tensor], Tensor]) -> None:
    common = typing.cast("Callable[..., Array]", find_kernel(op_type, 13))

    def binary(xp: Namespace, *, x: Tensor, y: Tensor) -> Array:
        return function(x, y) if x.dtype == y.dtype else common(xp, x=x, y=y)

    binary.__name__ = binary.__qualname__ = op_type
    binary.__doc__ = f"x (...), y (...) -> {function.__name__} of their elements, broadcast."
    kernel(op_type, backend="torch")(binary)


for _op_type, _function in _BINARY.items():
    _register_binary(_op_type, _function)


@kernel("real_div", backend="torch")
def real_div(xp: Namespace, *, x: Tensor, y: Tensor) -> Array:
    """x (...), y (...) -> x / y; of integers the part before the point; an integer by 0 is 0."""
    if x.is_floating_point() and y.dtype == x.dtype:
        return torch.div(x, y)
    return elementwise_binary.real_div(xp, x=x, y=y)


@kernel("pow", backend="torch")
def pow_(xp: Namespace, *, x: Tensor, y: Tensor) -> Array:
    """x (...), y (...) -> x^y; of integers the part before the point."""
    if x.is_floating_point() and not y.ndim and y.device.type == "cpu" and not y.requires_grad:
        return torch.pow(x, y.item())  # a square is many times as fast as a power
    return elementwise_binary.pow_(xp, x=x, y=y)


@kernel("clip", backend="torch")
def clip(xp: Namespace, *, x: Tensor, alpha: float, beta: float) -> Array:
    """x (...) -> min(max(x, alpha), beta)."""
    return torch.clamp(x, alpha, beta)


@kernel("rsqrt", backend="torch")
def rsqrt(xp: Namespace, *, x: Tensor, epsilon: float = 1e-12) -> Array:
    """x (...) -> 1 / sqrt(x + epsilon)."""
    return torch.rsqrt(x + epsilon)


@kernel("cast", backend="torch")
def cast(xp: Namespace, *, x: Tensor, dtype: str) -> Array:
    """x (...) -> its values as `dtype`, as the common kernel has it."""
    if x.dtype == torch.float32 and dtype in ("fp16", "fp32"):
        return x
    return elementwise_unary.cast(xp, x=x, dtype=dtype)
