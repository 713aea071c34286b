"""A weight read some rows of its matrix at a time, from its file or from memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import pairwise
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from mlpass.arrays import cast_like
from mlpass.buffers import empty
from mlpass.halves import widened
from mlpass.parallel import SLAB, map_ahead, map_items
from mlpass.program.ir import Constant, Raw
from mlpass.sparsity.layout import Layout
from mlpass.sparsity.packing import mask_part
from mlpass.sparsity.ranking import Mask
from mlpass.storage.storage import Floats
from mlpass.weights.reading import count_nonzero, part_of

Made = TypeVar("Made")

# Strips of a weight, of which one is held at a time; where rows lie across it, each takes a reading
# of all of it.
_STRIPS, _ACROSS = 32, 8


class Axes(NamedTuple):
    """How the rows of a weight lie in it as it is stored: (blocks, *before, rows, *after).

    Attributes:
        blocks: of rows, one after the other.
        before: axes within a block before the rows.
        rows: of a block.
        after: axes after the rows.
        order: of the axes (*before, rows, *after) in a matrix, the rows first.
    """

    blocks: int
    before: tuple[int, ...]
    rows: int
    after: tuple[int, ...]
    order: tuple[int, ...]

    @property
    def outer(self) -> int:
        """How many times the rows of a block are passed as it is read."""
        return math.prod(self.before)

    @property
    def inner(self) -> int:
        """How many elements of a row lie side by side."""
        return math.prod(self.after)

    @property
    def size(self) -> int:
        """How many elements a block has."""
        return self.outer * self.rows * self.inner

    def matrix(self, strip: NDArray[Any]) -> NDArray[Any]:
        """Returns (outer, some rows, inner) as (rows, columns)."""
        rows = strip.shape[1]
        split = strip.reshape(*self.before, rows, *self.after).transpose(self.order)
        return split.reshape(rows, -1)

    def strip(self, matrix: NDArray[Any]) -> NDArray[Any]:
        """Returns (rows, columns) as (outer, rows, inner)."""
        shape = (*self.before, len(matrix), *self.after)
        split = matrix.reshape([shape[axis] for axis in self.order])
        back = split.transpose(np.argsort(self.order))
        return back.reshape(self.outer, len(matrix), self.inner)


def axes_of(layout: Layout) -> Axes | None:
    """Returns how rows lie; None where they are not runs of their blocks."""
    sizes = layout.split_shape
    real = [axis for axis in range(len(sizes)) if sizes[axis] > 1]
    place = {axis: number for number, axis in enumerate(real)}
    parts = [[place[axis] for axis in part if axis in place] for part in layout.axes]
    shape, rows, columns = [sizes[axis] for axis in real], parts[0] + parts[1], parts[2] + parts[3]
    first = len(rows) - 1  # of those that lie side by side, up to the last
    while first > 0 and rows[first - 1] + 1 == rows[first]:
        first -= 1
    if not rows or rows[:first] != [*range(first)]:
        return None
    run = rows[first:]
    before, after = shape[first : run[0]], shape[run[-1] + 1 :]

    def moved(axis: int) -> int:
        return axis - first - (len(run) - 1 if axis > run[0] else 0)

    return Axes(
        math.prod(shape[:first]),
        tuple(before),
        math.prod(shape[axis] for axis in run),
        tuple(after),
        (len(before), *map(moved, columns)),
    )


class Banded(Protocol):
    """What rounds bands of rows: see `Bands`."""

    @property
    def rows(self) -> int:
        """Rows that are fitted together."""
        ...

    @property
    def fitted(self) -> bool:
        """Whether a band may be a part of those."""
        ...


class Strip(NamedTuple):
    """Rows of a block that are read together.

    Attributes:
        block: the block.
        start: the first of the rows, in it.
        before: how many rows of the weight come before.
        weight: (outer, rows, inner), as they lie.
        keep: which of these elements are kept.
    """

    block: int
    start: int
    before: int
    weight: NDArray[np.generic]
    keep: Mask

    @property
    def rows(self) -> int:
        """How many they are."""
        return int(self.weight.shape[1])


@dataclass(frozen=True)
class FileRows:
    """A pruned weight in a file, read by rows.

    Attributes:
        constant: the weight.
        axes: how its rows lie.
        keep: the bits of what is kept, as it is stored; they are padded to bytes at the end alone.
        kept: how many elements are.
        layout: of the weight.
    """

    constant: Constant
    axes: Axes
    keep: Raw
    kept: int
    layout: Layout

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """In which it is stored."""
        return np.dtype(self.constant.dtype.numpy)

    @property
    def columns(self) -> int:
        """Elements of a row."""
        return self.constant.size // (self.axes.blocks * self.axes.rows)

    def cuts(self, bands: Banded) -> bool:
        """Returns whether rows that are fitted together lie in two blocks."""
        return self.axes.blocks > 1 and self.axes.rows % bands.rows > 0 and not bands.fitted

    @cached_property
    def like(self) -> NDArray[np.generic]:
        """An array of its type."""
        return np.zeros(0, self.dtype)

    def read(self, start: int, stop: int) -> Iterator[tuple[Floats, Mask]]:
        """Yields runs of the rows from one to another, (rows, columns), zero where not kept."""
        for strip in self.strips(1, start, stop):
            step = max(1, SLAB * strip.rows // max(1, strip.weight.size))
            parts = [slice(at, at + step) for at in range(0, strip.rows, step)]
            yield from map_ahead(partial(self.rows_of, strip), parts)

    def each_band(self, bands: Banded, job: Callable[[int, Floats, Mask], Made]) -> Iterator[Made]:
        """Yields what a job makes of each band: of its first row, its values, and what is kept."""

        def done(strip: Strip, here: slice) -> Made:
            return job(strip.before + here.start, *self.rows_of(strip, here))

        for strip in self.strips(1 if bands.fitted else bands.rows):
            yield from map_items(partial(done, strip), self.bands_of(strip, bands))

    def stored(self) -> Iterator[NDArray[np.generic]]:
        """Yields runs of all rows as `read` does, in the type in which the weight is stored."""
        for values, _ in self.read(0, self.axes.blocks * self.axes.rows):
            yield cast_like(values, self.like)

    def rows_of(self, strip: Strip, part: slice) -> tuple[Floats, Mask]:
        """Returns some rows of a strip, and of its mask, as (rows, columns)."""
        values = self.axes.matrix(strip.weight[:, part]).astype(np.float32)
        kept = self.axes.matrix(strip.keep[:, part])
        return (values if kept.all() else np.where(kept, values, np.float32(0))), kept

    def bands_of(self, strip: Strip, bands: Banded) -> list[slice]:
        """Returns the rows of each band within a strip."""
        unit = 1 if bands.fitted else bands.rows
        step = max(1, SLAB // max(1, unit * self.columns)) * unit
        ends = {*range(0, strip.rows, step), strip.rows}
        if bands.fitted:
            ends.update(range(-strip.before % bands.rows, strip.rows, bands.rows))
        return [slice(*pair) for pair in pairwise(sorted(ends))]

    def strips(self, unit: int, start: int = 0, stop: int | None = None) -> Iterator[Strip]:
        """Yields the rows from one to another, those of a block that are read together."""
        rows = self.axes.rows
        stop = self.axes.blocks * rows if stop is None else stop
        unit = math.lcm(unit, 8)  # so that the bits of a strip begin with a byte
        strips = _STRIPS if self.axes.outer == 1 else _ACROSS
        step = max(1, self.axes.blocks * rows // (strips * unit)) * unit
        while start < stop:
            block, first = divmod(start, rows)
            last = min(first // unit * unit + step, rows, first + stop - start)
            yield Strip(block, first, start, *self._read(block, first, last))
            start += last - first

    def _read(self, block: int, start: int, stop: int) -> tuple[NDArray[np.generic], Mask]:
        """Returns some rows of a block, and which of their elements are kept, as they lie."""
        axes, whole = self.axes, self.kept == self.constant.size
        outer, inner = axes.outer, axes.inner
        shape = (outer, stop - start, inner)
        weight, keep = empty(shape, self.dtype), empty(shape, bool)
        row = inner if outer == 1 else axes.rows * inner  # elements of what is read together
        length = stop - start if outer == 1 else outer
        step, base = max(1, SLAB // row), block * axes.size + (start * inner if outer == 1 else 0)

        def read(first: int) -> None:
            last = min(first + step, length)
            ends = base + first * row, base + last * row
            into = (slice(None), slice(first, last)) if outer == 1 else (slice(first, last),)
            own = slice(None) if outer == 1 else slice(start, stop)
            form = (1, last - first, inner) if outer == 1 else (last - first, axes.rows, inner)
            weight[into] = part_of(self.constant, *ends).reshape(form)[:, own]
            if whole:
                keep[into] = True
            else:
                keep[into] = mask_part(self.keep, *ends).reshape(form)[:, own]

        map_items(read, range(0, length, step))
        return weight, keep


@dataclass(frozen=True)
class HeldRows:
    """A weight in memory, read by rows.

    Attributes:
        weight: in the shape of its layout.
        layout: of it.
    """

    weight: NDArray[np.generic]
    layout: Layout

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """In which it is stored."""
        return self.weight.dtype

    @cached_property
    def kept(self) -> int:
        """How many of its elements are not zero."""
        return count_nonzero(self.weight)

    @cached_property
    def matrix(self) -> NDArray[np.generic]:
        """It as (rows, columns), those of all groups in one order."""
        used = self.layout
        return used.matrix(self.weight).reshape(used.all_rows, used.columns)

    def read(self, start: int, stop: int) -> Iterator[tuple[Floats, Mask]]:
        """Yields runs of the rows from one to another, (rows, columns), and what is not zero."""
        for values in self._runs(start, stop):
            yield widened(values), values != 0

    def stored(self) -> Iterator[NDArray[np.generic]]:
        """Yields runs of all rows, (rows, columns), as they are stored."""
        return self._runs(0, len(self.matrix))

    def _runs(self, start: int, stop: int) -> Iterator[NDArray[np.generic]]:
        step = max(1, SLAB // max(1, self.matrix.shape[1]))
        return (self.matrix[at : min(at + step, stop)] for at in range(start, stop, step))
