"""Why an array's shape does not fit an input: an axis too few, too many or elsewhere, in words."""

from __future__ import annotations

from collections.abc import Callable, Iterator

Shape = tuple[int, ...]


def misfit(shape: Shape, allow: Callable[[Shape], bool]) -> str:
    """Returns, after a colon, which axis is wrong and what mends it; nothing where none stands out.

    Args:
        shape: of what was given.
        allow: whether an input takes a shape; it does not take `shape`.
    """
    return next((f": {text}" for mended, text in _mended(shape) if allow(mended)), "")


def _mended(shape: Shape) -> Iterator[tuple[Shape, str]]:
    """Yields shapes that `shape` may have been meant as, the likeliest first, and what is wrong.

    `x` is the array of one sample in all of the texts.
    """
    rank = len(shape)
    missing = "the first axis (batch, 1) is missing"
    yield (1, *shape), f"{missing}; add it with x[None], or x[:, None] where x holds many samples"
    yield (1, 1, *shape), "the first two axes (1, 1) are missing; add them with x[None, None]"
    for axis in range(1, rank + 1):
        place = _place(axis, rank + 1)
        cure = f"add it with np.expand_dims(x, {axis})"
        yield (*shape[:axis], 1, *shape[axis:]), f"{place} (1) is missing; {cure}"
    for axis, size in enumerate(shape):
        extra = f"{_place(axis, rank)} ({size}) is one too many"
        cure = f"take it off with np.squeeze(x, {axis})"
        if size != 1 and axis == 0:
            cure = "where it counts samples, give one at a time, such as x[0]"
        if size == 1 or axis == 0:
            yield (*shape[:axis], *shape[axis + 1 :]), f"{extra}; {cure}"
    if rank and shape[0] > 1:
        cure = "give one sample at a time, such as x[:1]"
        yield (1, *shape[1:]), f"the first axis (batch) is {shape[0]}, too many; {cure}"
    for order in _orders(rank):
        moved = tuple(shape[axis] for axis in order)
        what = "the channels are last" if order[-3:] == (rank - 1, rank - 3, rank - 2) else ""
        what = what or "the axes are in another order"
        cure = f"x.transpose{order}"
        yield moved, f"{what}; {cure} has the right order"
        yield (1, *moved), f"{missing}, and {what}; take {cure}[None]"


def _orders(rank: int) -> Iterator[Shape]:
    """Yields the orders in which one axis of several is elsewhere, the last one first."""
    for axis in reversed(range(rank)):
        rest = [other for other in range(rank) if other != axis]
        for place in reversed(range(rank)):
            if place != axis:
                yield (*rest[:place], axis, *rest[place:])


def _place(axis: int, rank: int) -> str:
    """Returns what to call an axis."""
    if axis == 0:
        return "the first axis"
    return "the last axis" if axis == rank - 1 else f"axis {axis}"
