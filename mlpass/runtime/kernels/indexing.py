"""Moving elements by index: how MIL reads indices, and what the array API standard lacks for it.

What an index out of range does, by opset. Up to iOS16 negative indices count from the end, and
others are errors. Since iOS17 negative ones are out of range, too: an error with
`validate_indices`; without it MIL leaves the result open ("memory safe"), and here gathers read 0
and scatters drop the update, which is what Metal's graph library documents.

`combine_rows` is every scatter; it has one helper for each backend, and one in standard functions
alone for any other. All of it stays differentiable under torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from mlpass.arrays import Array, Namespace, host

if TYPE_CHECKING:
    from torch import Tensor

Numbers = NDArray[np.number]

# How indices are read: negative ones from the end; out of range an error; out of range ignored.
WRAP, CHECK, IGNORE = "wrap", "check", "ignore"

MODES = ("add", "sub", "mul", "div", "max", "min", "update")

_UFUNCS = {"mul": np.multiply, "max": np.maximum, "min": np.minimum}
_REDUCTIONS = {"mul": "prod", "max": "amax", "min": "amin"}


def is_torch(xp: Namespace) -> bool:
    """Returns whether `xp` is torch's namespace."""
    return str(xp.__name__).endswith("torch")


def _moved(xp: Namespace, x: Array, move: Callable[[Array], Array]) -> Array:
    """Returns what `move` makes of `x`, each element of which is one of x's."""
    if not _is_torch_uint16(xp, x):
        return move(x)
    # torch has this type, but hardly an op for it; the same bits move well as int16.
    tensor: Any = x
    moved: Any = move(tensor.view(xp.int16))
    return cast(Array, moved.view(x.dtype))


def _is_torch_uint16(xp: Namespace, x: Array) -> bool:
    return is_torch(xp) and x.dtype == xp.uint16


def flipped(xp: Namespace, x: Array, axes: tuple[int, ...]) -> Array:
    """Returns `x` backwards along `axes`."""
    return _moved(xp, x, lambda part: xp.flip(part, axis=axes))


def take(xp: Namespace, x: Array, indices: Array, axis: int) -> Array:
    """x (..., size, ...), indices (count,) in [0, size) -> (..., count, ...)."""
    return _moved(xp, x, lambda part: xp.take(part, indices, axis=axis))


def take_along(xp: Namespace, x: Array, indices: Array, axis: int) -> Array:
    """x (..., size, ...), indices of its shape but for `axis` -> x at indices, of their shape."""
    places = xp.astype(indices, xp.int64)
    return _moved(xp, x, lambda part: xp.take_along_axis(part, places, axis=axis))


def stable_argsort(xp: Namespace, x: Array, axis: int, ascending: bool) -> Array:
    """Returns the indices (int64) that sort `x` along `axis`, those of equal elements ascending."""
    if _is_torch_uint16(xp, x):
        x = xp.astype(x, xp.int32)
    if ascending:
        return xp.astype(xp.argsort(x, axis=axis, stable=True), xp.int64)
    # Neither `descending=True`, which numpy lacks, nor negation, which unsigned ints lack.
    order = xp.argsort(xp.flip(x, axis=axis), axis=axis, stable=True)
    return xp.flip(x.shape[axis] - 1 - xp.astype(order, xp.int64), axis=axis)


def reading_of(validate_indices: bool) -> str:
    """Returns how iOS17 reads indices."""
    return CHECK if validate_indices else IGNORE


def axis_of(axis: int, rank: int) -> int:
    """Returns `axis` counted from the first.

    Raises:
        ValueError: there is no such axis.
    """
    if not -rank <= axis < rank:
        raise ValueError(f"axis: must be in [{-rank}, {rank}). Got {axis}.")
    return axis % rank


def read_indices(
    xp: Namespace, indices: Array, size: int, reading: str
) -> tuple[Array, Array | None]:
    """Returns `indices` as int64 in [0, size), and which of them were: None where all were.

    Raises:
        ValueError: one is out of range, and `reading` does not ignore that.
    """
    indices = xp.astype(indices, xp.int64)
    if 0 in indices.shape:
        return indices, None
    smallest, largest = int(xp.min(indices)), int(xp.max(indices))
    if smallest >= 0 and largest < size:
        return indices, None
    if reading == IGNORE:
        inside = (indices >= 0) & (indices < size)
        return xp.clip(indices, 0, max(size - 1, 0)), inside
    low = -size if reading == WRAP else 0
    if smallest < low or largest >= size:
        raise ValueError(f"indices: all must be in [{low}, {size}).")
    return xp.where(indices < 0, indices + size, indices), None


def read_rows(
    xp: Namespace, indices: Array, sizes: tuple[int, ...], reading: str
) -> tuple[Array, Array | None]:
    """indices (..., len(sizes)) -> (...) of row numbers, and which of them are in range."""
    rows = xp.zeros(indices.shape[:-1], dtype=xp.int64, device=indices.device)
    inside = None
    for place, size in enumerate(sizes):
        part, within = read_indices(xp, indices[..., place], size, reading)
        rows = rows * size + part
        if within is not None:
            inside = within if inside is None else inside & within
    return rows, inside


def combine_rows(xp: Namespace, data: Array, rows: Array, updates: Array, mode: str) -> Array:
    """data (size, inner), rows (count,) in [0, size), updates (count, inner) -> (size, inner).

    Each update is combined with the row that it names, in order: several may name one. Of several
    that "update" a row, the last one stays. Integers are divided as C does it, towards zero.

    Raises:
        ValueError: `mode` is not one of `MODES`.
    """
    if mode not in MODES:
        raise ValueError(f"mode: must be one of {', '.join(MODES)}. Got {mode!r}.")
    if mode == "div":
        divisors = combine_rows(xp, xp.ones_like(data), rows, updates, "mul")
        return _divided(xp, data, divisors)
    if xp is np:
        return _combine_numpy(host(data), host(rows), host(updates), mode)
    if is_torch(xp):
        tensors = cast("tuple[Tensor, Tensor, Tensor]", (data, rows, updates))
        return _combine_torch(xp, *tensors, mode)
    return combine_standard(xp, data, rows, updates, mode)


def _combine_numpy(data: Numbers, rows: NDArray[np.int64], updates: Numbers, mode: str) -> Numbers:
    combined = np.array(data, order="C")
    if mode == "update":
        combined[rows] = updates
        return combined
    # `ufunc.at` is fast for flat indices alone.
    inner = data.shape[1]
    places = (rows[:, None] * inner + np.arange(inner)).reshape(-1)
    ufunc = {**_UFUNCS, "add": np.add, "sub": np.subtract}[mode]
    ufunc.at(combined.reshape(-1), places, np.ascontiguousarray(updates).reshape(-1))
    return combined


def _combine_torch(xp: Namespace, data: Tensor, rows: Tensor, updates: Tensor, mode: str) -> Array:
    if mode in ("add", "sub"):
        return data.index_add(0, rows, updates, alpha=1 if mode == "add" else -1)
    if mode != "update":
        spread = rows[:, None].expand(updates.shape)
        return data.scatter_reduce(0, spread, updates, _REDUCTIONS[mode])
    # Which of several writers of a row wins is left open by torch: keep the last ones alone.
    order = cast("Tensor", xp.arange(rows.shape[0], device=rows.device))
    last = rows.new_full((data.shape[0],), -1).scatter_reduce(0, rows, order, "amax")
    keep = last[rows] == order
    return data.index_copy(0, rows[keep], updates[keep])


def combine_standard(xp: Namespace, data: Array, rows: Array, updates: Array, mode: str) -> Array:
    """The nth update of every row, all rows at once, for each n."""
    if rows.shape[0] == 0:
        return data
    order = xp.argsort(rows, stable=True)
    ordered = xp.take(rows, order)
    every = xp.arange(data.shape[0], dtype=rows.dtype, device=rows.device)
    first = xp.searchsorted(ordered, every, side="left")
    count = xp.searchsorted(ordered, every, side="right") - first
    for nth in range(int(xp.max(count))):
        hit = count > nth
        places = xp.where(hit, first + nth, xp.zeros_like(first))
        update = xp.take(updates, xp.take(order, places), axis=0)
        data = xp.where(hit[:, None], _combined(xp, data, update, mode), data)
    return data


def _combined(xp: Namespace, data: Array, update: Array, mode: str) -> Array:
    if mode == "update":
        return update
    if mode in ("max", "min"):
        return (xp.maximum if mode == "max" else xp.minimum)(data, update)
    if mode == "mul":
        return data * update
    return data + update if mode == "add" else data - update


def _divided(xp: Namespace, data: Array, divisors: Array) -> Array:
    if xp.isdtype(data.dtype, "real floating"):
        return data / divisors
    # Dividing by zero gives 0: C leaves it open, and numpy would warn.
    zero = divisors == 0
    quotients = xp.abs(data) // xp.where(zero, xp.ones_like(divisors), xp.abs(divisors))
    signed = xp.where((data < 0) != (divisors < 0), -quotients, quotients)
    return xp.where(zero, xp.zeros_like(signed), signed)
