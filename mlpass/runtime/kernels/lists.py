"""Lists of tensors. A kernel returns a new list and leaves the one it was given as it was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mlpass.arrays import Array, Namespace
from mlpass.runtime.kernels.arguments import ints
from mlpass.runtime.kernels.registry import kernel

_DTYPES = {"fp16": "float32", "fp32": "float32", "fp64": "float32", "int64": "int32"}


@dataclass(frozen=True, eq=False)
class TensorList:
    """Tensors of one shape, with what an entry is that was never written.

    Attributes:
        items: the entries; None where nothing was written.
        grows: whether writing past the end makes it longer.
        element: zeros of the element's shape, where that is known.
    """

    items: tuple[Array | None, ...]
    grows: bool
    element: Array | None

    def item(self, xp: Namespace, index: int) -> Array:
        """Returns an entry; one that was never written is all zeros.

        Raises:
            ValueError: there is no such entry.
        """
        if not 0 <= index < len(self.items):
            raise ValueError(f"index {index} is not in a list of length {len(self.items)}")
        item = self.items[index]
        if item is not None:
            return item
        if self.element is not None:
            return self.element
        like = next((other for other in self.items if other is not None), None)
        if like is None:
            raise ValueError("the list's element shape is unknown, and nothing was written to it")
        return xp.zeros_like(like)

    def written(self, places: Sequence[int], values: Sequence[Array]) -> TensorList:
        """Returns the list with `values` at `places`.

        Raises:
            ValueError: a place is past the end of a list that does not grow.
        """
        items = list(self.items)
        for place, value in zip(places, values, strict=True):
            if place < 0 or (place >= len(items) and not self.grows):
                raise ValueError(f"index {place} is not in a list of length {len(items)}")
            items += [None] * (place + 1 - len(items))
            items[place] = value
        return TensorList(tuple(items), self.grows, self.element)


@kernel("make_list")
def make_list(
    xp: Namespace,
    *,
    elem_shape: Sequence[Array | str],
    init_length: int = 1,
    dynamic_length: bool = True,
    dtype: str = "fp32",
) -> TensorList:
    """elem_shape, sizes that may be words for unknown ones -> a list of `init_length` entries."""
    element = None
    if not any(isinstance(size, str) for size in elem_shape):
        shape = [number for size in elem_shape for number in ints(size)]
        element = xp.zeros(tuple(shape), dtype=getattr(xp, _DTYPES.get(dtype, dtype)))
    return TensorList((None,) * init_length, dynamic_length, element)


@kernel("list_length")
def list_length(xp: Namespace, *, ls: TensorList) -> Array:
    """ls -> (), its number of entries."""
    return xp.asarray(len(ls.items), dtype=xp.int32)


@kernel("list_write")
def list_write(xp: Namespace, *, ls: TensorList, index: int, value: Array) -> TensorList:
    """ls, index (), value (...) -> ls with the value there."""
    return ls.written([index], [value])


@kernel("list_read")
def list_read(xp: Namespace, *, ls: TensorList, index: int) -> Array:
    """ls, index () -> (...), the entry there."""
    return ls.item(xp, index)


@kernel("list_gather")
def list_gather(xp: Namespace, *, ls: TensorList, indices: tuple[int, ...]) -> Array:
    """ls, indices (k,) -> (k, ...), the entries there."""
    return xp.stack([ls.item(xp, index) for index in indices])


@kernel("list_scatter")
def list_scatter(
    xp: Namespace, *, ls: TensorList, indices: tuple[int, ...], value: Array
) -> TensorList:
    """ls, indices (k,), value (k, ...) -> ls with those entries."""
    return ls.written(indices, [value[row, ...] for row in range(value.shape[0])])
