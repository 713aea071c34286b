"""Products of matrices."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mlpass.arrays import Array, Namespace, as_factor
from mlpass.runtime.kernels.elementwise_unary import is_integral, reuse
from mlpass.runtime.kernels.registry import by_rows, kernel

# What MIL allows of einsum, letters named in the order in which they appear.
_EINSUM_EQUATIONS = ("abcd,adce->abce", "abc,cbd->abd")


@by_rows("x")
@kernel("linear")
def linear(xp: Namespace, *, x: Array, weight: Array, bias: Array | None = None) -> Array:
    """x (..., in), weight (out, in), bias (out,) -> (..., out)."""
    result = _product(xp, x, xp.matrix_transpose(_like(xp, weight, x)))
    return result if bias is None else reuse(xp.add, result, _like(xp, bias, x))


@kernel("matmul")
def matmul(
    xp: Namespace, *, x: Array, y: Array, transpose_x: bool = False, transpose_y: bool = False
) -> Array:
    """x (..., m, k), y (..., k, n) -> (..., m, n), leading axes broadcast; a vector has no m or n.

    `transpose_x` and `transpose_y` swap the last two axes first; a vector stays as it is.
    """
    if transpose_x and x.ndim > 1:
        x = xp.matrix_transpose(x)
    if transpose_y and y.ndim > 1:
        y = xp.matrix_transpose(y)
    if x.dtype != y.dtype:
        # Since iOS17 a constant may have a type of its own: integers meet floats as floats.
        x, y = (_like(xp, x, y), y) if is_integral(xp, x) else (x, _like(xp, y, x))
    return _product(xp, x, y)


@kernel("einsum")
def einsum(xp: Namespace, *, values: Sequence[Array], equation: str) -> Array:
    """values ([b,] c, h, w) and ([b,] w, h, u) -> ([b,] c, h, u): w summed, b and h broadcast.

    Raises:
        ValueError: another equation or number of values, which MIL does not allow.
    """
    if _canonical(equation) not in _EINSUM_EQUATIONS:
        raise ValueError(
            f"equation: must be of the form nchw,nwhu->nchu or chw,whu->chu. Got {equation!r}."
        )
    if len(values) != 2:
        raise ValueError(f"values: must be 2 tensors. Got {len(values)}.")
    left, right = (_swap_middle(xp, value) for value in values)
    return _swap_middle(xp, xp.matmul(left, right))


def _product(xp: Namespace, x: Array, y: Array) -> Array:
    """Returns matmul(x, y); leading axes of x alone are folded into one product."""
    x, y = as_factor(x), as_factor(y)
    if x.ndim < 3 or y.ndim != 2:
        return xp.matmul(x, y)
    rows = xp.reshape(x, (math.prod(x.shape[:-1]), x.shape[-1]))
    return xp.reshape(xp.matmul(rows, y), (*x.shape[:-1], y.shape[-1]))


def _like(xp: Namespace, part: Array, x: Array) -> Array:
    return part if part.dtype == x.dtype else xp.astype(part, x.dtype)


def _canonical(equation: str) -> str:
    """Returns the equation with its letters renamed a, b, c... in order of appearance."""
    names: dict[str, str] = {}
    for letter in filter(str.isalpha, equation):
        names.setdefault(letter, chr(ord("a") + len(names)))
    return "".join(names.get(letter, letter) for letter in equation if not letter.isspace())


def _swap_middle(xp: Namespace, x: Array) -> Array:
    """x (..., p, q, r) -> (..., q, p, r)."""
    leading = tuple(range(x.ndim - 3))
    return xp.permute_dims(x, (*leading, x.ndim - 2, x.ndim - 3, x.ndim - 1))
