"""Ops on the elements of two tensors, which are broadcast, and the choice between them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mlpass.arrays import Array, Namespace
from mlpass.runtime.kernels.elementwise_unary import is_integral, reuse
from mlpass.runtime.kernels.registry import kernel

# MIL's op -> the array API's function of the same meaning.
_STANDARD = {
    "add": "add",
    "equal": "equal",
    "greater": "greater",
    "greater_equal": "greater_equal",
    "less": "less",
    "less_equal": "less_equal",
    "logical_and": "logical_and",
    "logical_or": "logical_or",
    "logical_xor": "logical_xor",
    "maximum": "maximum",
    "minimum": "minimum",
    "mul": "multiply",
    "not_equal": "not_equal",
    "sub": "subtract",
}


def _register_standard(op_type: str, name: str) -> None:
    def binary(xp: Namespace, *, x: Array, y: Array) -> Array:
        function: Callable[[Array, Array], Array] = getattr(xp, name)
        return function(x, y)

    binary.__name__ = binary.__qualname__ = op_type
    binary.__doc__ = f"x (...), y (...) -> {name} of their elements, broadcast."
    kernel(op_type)(binary)


for _op_type, _name in _STANDARD.items():
    _register_standard(_op_type, _name)


@kernel("floor_div")
def floor_div(xp: Namespace, *, x: Array, y: Array) -> Array:
    """x (...), y (...) -> x / y rounded towards minus infinity; an integer by 0 is 0."""
    if not is_integral(xp, x):
        return xp.floor_divide(x, y)
    divisor, is_zero = _nonzero(xp, y)
    return xp.where(is_zero, 0, xp.floor_divide(x, divisor))


@kernel("mod")
def mod(xp: Namespace, *, x: Array, y: Array) -> Array:
    """x (...), y (...) -> the remainder of `floor_div`, of y's sign; an integer by 0 is 0."""
    if not is_integral(xp, x):
        return xp.remainder(x, y)
    divisor, is_zero = _nonzero(xp, y)
    return xp.where(is_zero, 0, xp.remainder(x, divisor))


@kernel("real_div")
def real_div(xp: Namespace, *, x: Array, y: Array) -> Array:
    """x (...), y (...) -> x / y; of integers the part before the point; an integer by 0 is 0."""
    if not is_integral(xp, x):
        return xp.divide(x, y)
    divisor, is_zero = _nonzero(xp, y)
    below = xp.floor_divide(x, divisor)
    # A negative quotient that is not whole was rounded away from zero.
    up = xp.logical_and(below < 0, below * divisor != x)
    return xp.where(is_zero, 0, below + xp.astype(up, below.dtype))


@kernel("pow")
def pow_(xp: Namespace, *, x: Array, y: Array) -> Array:
    """x (...), y (...) -> x^y; of integers the part before the point."""
    if is_integral(xp, x):
        return _integer_power(xp, x, y)
    if isinstance(x, np.ndarray) and y.ndim == 0:
        # numpy's power is many times slower than the products that these are.
        if y == 2:
            return np.multiply(x, x)
        if y == 3:
            cube = np.multiply(x, x)
            return reuse(xp.multiply, cube, x)
    return xp.pow(x, y)


@kernel("select")
def select(xp: Namespace, *, cond: Array, a: Array, b: Array) -> Array:
    """cond (...) of bools, a (...), b (...) -> a where cond holds, else b, broadcast."""
    return xp.where(cond, a, b)


def _nonzero(xp: Namespace, y: Array) -> tuple[Array, Array]:
    """Returns `y` with 1 in the place of 0, and where that is."""
    is_zero = y == 0
    return xp.where(is_zero, 1, y), is_zero


def _integer_power(xp: Namespace, x: Array, y: Array) -> Array:
    power = xp.pow(x, xp.maximum(y, 0))
    # 1 / x^|y|: only of 1 and -1 anything is left before the point.
    odd = xp.where(y % 2 == 0, 1, x)
    inverse = xp.where(xp.abs(x) == 1, odd, 0)
    return xp.where(y < 0, inverse, power)
