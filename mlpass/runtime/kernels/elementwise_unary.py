"""Ops on each element of one tensor, and two helpers that spare numpy passes over memory."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from mlpass.arrays import Array, Namespace
from mlpass.runtime.kernels.registry import kernel
from mlpass.runtime.kernels.windows import Floats

# Elements that a chain of numpy passes treats at once, so that they stay in the cache.
CHUNK = 65536

# MIL's op -> the array API's function of the same meaning.
_STANDARD = {
    "abs": "abs",
    "acos": "acos",
    "asin": "asin",
    "atan": "atan",
    "atanh": "atanh",
    "ceil": "ceil",
    "cos": "cos",
    "cosh": "cosh",
    "exp": "exp",
    "floor": "floor",
    "round": "round",  # halves to even
    "sign": "sign",
    "sin": "sin",
    "sinh": "sinh",
    "sqrt": "sqrt",
    "square": "square",
    "tan": "tan",
    "tanh": "tanh",
}

_DTYPES = {
    "fp16": "float32",  # floats are kept in fp32 throughout
    "fp32": "float32",
    "int32": "int32",
    "int16": "int16",
    "uint16": "uint16",
    "int8": "int8",
    "uint8": "uint8",
    "bool": "bool",
}

# erf(x) = tanh(x p(x^2)) with p of these coefficients, lowest power first: a minimax fit of
# atanh(erf(x)) / x where |x| <= 4, beyond which the tanh is 1 in fp32. Relative error 3e-7.
ERF_BOUND = 4.0
ERF_COEFFICIENTS = (
    1.1283792743113796,
    0.10276905567259605,
    -0.00019183037710562693,
    -0.0006197851470158372,
    8.763755276832872e-05,
    -5.6685186485384105e-06,
    1.4185500768530582e-07,
)


def reuse(function: Callable[..., Array], fresh: Array, *others: Array | float | None) -> Array:
    """Returns function(fresh, *others), under numpy in the memory of `fresh`.

    Args:
        function: of the array API, whose result has the shape and dtype of `fresh`.
        fresh: an array that its caller has just made and no longer needs.
        others: further arguments.
    """
    if isinstance(fresh, np.ndarray):
        return function(fresh, *others, out=fresh)
    return function(fresh, *others)


def in_chunks(fill: Callable[[Floats, Floats, Floats], None], x: Floats) -> Floats:
    """Returns a numpy array that `fill(part of x, part of result, scratch)` fills part by part."""
    flat = np.ascontiguousarray(x).reshape(-1)
    result = np.empty_like(flat)
    scratch = np.empty(min(flat.size, CHUNK), flat.dtype)
    with np.errstate(over="ignore"):
        for start in range(0, flat.size, CHUNK):
            part = flat[start : start + CHUNK]
            fill(part, result[start : start + CHUNK], scratch[: part.size])
    return result.reshape(x.shape)


def odd_polynomial(
    x: Floats, coefficients: tuple[float, ...], bound: float, out: Floats, scratch: Floats
) -> None:
    """Fills `out` with x p(min(x^2, bound^2)), p's coefficients lowest power first (numpy only)."""
    *lower, highest = coefficients
    np.multiply(x, x, out=scratch)
    if bound < math.inf:
        # Several times as fast as `minimum`, which numpy does not vectorize with a number.
        np.clip(scratch, 0.0, bound * bound, out=scratch)
    out.fill(highest)
    for coefficient in reversed(lower):
        np.multiply(out, scratch, out=out)
        np.add(out, coefficient, out=out)
    np.multiply(out, x, out=out)


def erf_of(xp: Namespace, x: Array) -> Array:
    """x (...) -> its error function: the array namespace's own where it has one, as torch does."""
    if hasattr(xp, "erf"):
        return xp.erf(x)
    if isinstance(x, np.ndarray):
        return in_chunks(_fill_erf, x)
    squared = xp.minimum(x * x, ERF_BOUND * ERF_BOUND)
    ratio = xp.full_like(x, ERF_COEFFICIENTS[-1])
    for coefficient in ERF_COEFFICIENTS[-2::-1]:
        ratio = ratio * squared + coefficient
    return xp.tanh(x * ratio)


def _fill_erf(x: Floats, out: Floats, scratch: Floats) -> None:
    odd_polynomial(x, ERF_COEFFICIENTS, ERF_BOUND, out, scratch)
    np.tanh(out, out=out)


def is_integral(xp: Namespace, x: Array) -> bool:
    """Returns whether `x` holds integers."""
    return bool(xp.isdtype(x.dtype, "integral"))


def _register_standard(op_type: str, name: str) -> None:
    def unary(xp: Namespace, *, x: Array) -> Array:
        function: Callable[[Array], Array] = getattr(xp, name)
        return function(x)

    unary.__name__ = unary.__qualname__ = op_type
    unary.__doc__ = f"x (...) -> {name} of each element."
    kernel(op_type)(unary)


for _op_type, _name in _STANDARD.items():
    _register_standard(_op_type, _name)


@kernel("erf")
def erf(xp: Namespace, *, x: Array) -> Array:
    """x (...) -> its error function."""
    return erf_of(xp, x)


@kernel("exp2")
def exp2(xp: Namespace, *, x: Array) -> Array:
    """x (...) -> 2^x; of integers the integer part, at most the largest int32."""
    if is_integral(xp, x):
        power = xp.pow(2.0, xp.astype(xp.clip(x, -1, 31), xp.float64))
        return xp.astype(xp.minimum(xp.floor(power), 2.0**31 - 1), x.dtype)
    return xp.exp2(x) if hasattr(xp, "exp2") else xp.exp(x * math.log(2))


@kernel("clip")
def clip(xp: Namespace, *, x: Array, alpha: float, beta: float) -> Array:
    """x (...) -> min(max(x, alpha), beta)."""
    return xp.clip(x, alpha, beta)


@kernel("threshold")
def threshold(xp: Namespace, *, x: Array, alpha: float) -> Array:
    """x (...) -> max(x, alpha)."""
    return xp.maximum(x, int(alpha)) if is_integral(xp, x) else xp.clip(x, alpha, math.inf)


@kernel("inverse")
def inverse(xp: Namespace, *, x: Array, epsilon: float = 1e-4) -> Array:
    """x (...) -> 1 / (x + epsilon)."""
    return reuse(xp.reciprocal, x + epsilon)


@kernel("log")
def log(xp: Namespace, *, x: Array, epsilon: float = 1e-45) -> Array:
    """x (...) -> the natural logarithm of x + epsilon."""
    return reuse(xp.log, x + epsilon)


@kernel("rsqrt")
def rsqrt(xp: Namespace, *, x: Array, epsilon: float = 1e-12) -> Array:
    """x (...) -> 1 / sqrt(x + epsilon)."""
    return reuse(xp.reciprocal, reuse(xp.sqrt, x + epsilon))


@kernel("logical_not")
def logical_not(xp: Namespace, *, x: Array) -> Array:
    """x (...) of bools -> not x."""
    return xp.logical_not(x)


@kernel("cast")
def cast(xp: Namespace, *, x: Array, dtype: str) -> Array:
    """x (...) -> its values as `dtype`.

    Floats are cut off towards zero; beyond int32 they saturate and NaN is 0, as Arm processors
    have it. Integers keep their low bits, and only 0 is False.

    Raises:
        ValueError: MIL has no such dtype.
    """
    if dtype not in _DTYPES:
        raise ValueError(f"dtype: must be one of {', '.join(_DTYPES)}. Got {dtype!r}.")
    target = getattr(xp, _DTYPES[dtype])
    if xp.isdtype(x.dtype, "real floating") and xp.isdtype(target, "integral"):
        x = _to_int32(xp, x)
    return xp.astype(x, target, copy=False)


def _to_int32(xp: Namespace, x: Array) -> Array:
    if isinstance(x, np.ndarray) and (x.size == 0 or (x.min() >= -(2.0**31) and x.max() < 2.0**31)):
        return x.astype(np.int32)
    known = xp.where(xp.isnan(x), 0.0, x)
    # 2^31 - 128 is the largest int32 that fp32 can hold.
    whole = xp.astype(xp.clip(known, -(2.0**31), 2.0**31 - 128), xp.int32)
    return xp.where(known >= 2.0**31, 2**31 - 1, whole)
