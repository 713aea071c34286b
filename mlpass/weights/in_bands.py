"""A large weight, rounded to a storage some rows at a time without ever being held as floats."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlpass.arrays import cast_like
from mlpass.buffers import empty
from mlpass.parallel import SLAB, map_ahead, map_items
from mlpass.program.dtypes import DType, pack_elements
from mlpass.program.ir import Constant, Raw
from mlpass.sparsity.layout import Layout
from mlpass.sparsity.packing import mask_part
from mlpass.sparsity.ranking import Mask
from mlpass.storage.storage import Bands, Floats, Parts, Storage
from mlpass.weights.reading import part_of
from mlpass.weights.sites import Site
from mlpass.weights.storing import Encoded, check_storage, encode_codes

# Strips of a weight, of which one is held at a time; where rows lie across it, each takes a reading
# of all of it.
_STRIPS, _ACROSS = 32, 8


class _Axes(NamedTuple):
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


def _axes_of(layout: Layout) -> _Axes | None:
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

    return _Axes(
        math.prod(shape[:first]),
        tuple(before),
        math.prod(shape[axis] for axis in run),
        tuple(after),
        (len(before), *map(moved, columns)),
    )


@dataclass(frozen=True)
class _Pruned:
    """A pruned weight in a file, read by rows.

    Attributes:
        constant: the weight.
        axes: how its rows lie.
        keep: the bits of what is kept, as it is stored; they are padded to bytes at the end alone.
        kept: how many elements are.
        layout: of the weight.
    """

    constant: Constant
    axes: _Axes
    keep: Raw
    kept: int
    layout: Layout

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """In which it is stored."""
        return np.dtype(self.constant.dtype.numpy)

    def read(self, start: int, stop: int) -> Iterator[tuple[Floats, Mask]]:
        """Yields runs of the rows from one to another, (rows, columns), zero where not kept."""
        for block, first, last in self.strips(1, start, stop):
            weight, keep = self.strip(block, first, last)
            step = max(1, SLAB * weight.shape[1] // max(1, weight.size))

            parts = [slice(at, at + step) for at in range(0, weight.shape[1], step)]
            yield from map_ahead(partial(self.rows_of, weight, keep), parts)

    def rows_of(self, weight: NDArray[np.generic], keep: Mask, part: slice) -> tuple[Floats, Mask]:
        """Returns some rows of a strip, and of its mask, as (rows, columns)."""
        values = self.axes.matrix(weight[:, part]).astype(np.float32)
        kept = self.axes.matrix(keep[:, part])
        return (values if kept.all() else np.where(kept, values, np.float32(0))), kept

    def strips(
        self, unit: int, start: int = 0, stop: int | None = None
    ) -> Iterator[tuple[int, int, int]]:
        """Yields a block, the first of its rows that are read together and the one after the last.

        Args:
            unit: rows that no strip cuts.
            start: the first row of all.
            stop: the one after the last.
        """
        rows = self.axes.rows
        stop = self.axes.blocks * rows if stop is None else stop
        unit = math.lcm(unit, 8)  # so that the bits of a strip begin with a byte
        strips = _STRIPS if self.axes.outer == 1 else _ACROSS
        step = max(1, self.axes.blocks * rows // (strips * unit)) * unit
        while start < stop:
            block, first = divmod(start, rows)
            last = min(first // unit * unit + step, rows, first + stop - start)
            yield block, first, last
            start += last - first

    def strip(self, block: int, start: int, stop: int) -> tuple[NDArray[np.generic], Mask]:
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


def encode_in_bands(
    site: Site, storage: Storage, keep: Raw, kept: int, layout: Layout
) -> Encoded | None:
    """Returns a weight in a file as it will be stored; None where it has to be held as a whole.

    Of all elements codes and two bits are held.

    Args:
        site: whose weight it is.
        storage: to round to.
        keep: the bits of what is kept.
        kept: how many elements are.
        layout: of the weight.

    Raises:
        ModelFormatError: the model is too old for it.
        NotApplicable: the form cannot say it.
    """
    constant, axes = site.constant, _axes_of(layout)
    assert constant is not None
    if axes is None:
        return None
    pruned = _Pruned(constant, axes, keep, kept, layout)
    bands = storage.bands(pruned)
    if bands is None:
        return None
    if axes.blocks > 1 and axes.rows % bands.rows and not bands.fitted:  # some lie in two blocks
        return None
    check_storage([site], storage)
    check_storage([site], storage, zeros=kept < constant.size)
    codes, nonzero, others = _rounded(pruned, bands)
    stored = int(np.bitwise_count(nonzero).sum(dtype=np.int64))
    parts: Parts = {"codes": codes, **bands.joined(others)}
    mask = None
    flat = codes.reshape(-1)
    if kept < constant.size and storage.masked(constant.size, stored):
        mask, flat = nonzero, _compacted(flat, nonzero)

    def made(element: DType, dtype: str, shape: tuple[int, ...]) -> Constant:
        def packed(start: int) -> Raw:
            return pack_elements(flat[start : start + SLAB], element)

        pieces = partial(map_ahead, packed, range(0, flat.size, SLAB))
        return Constant.in_pieces(pieces, dtype, shape, constant)

    return encode_codes(site, parts, storage, layout, stored, mask, made)


def _rounded(
    pruned: _Pruned, bands: Bands
) -> tuple[NDArray[np.generic], Raw, dict[str, NDArray[np.generic]]]:
    """Returns codes, the bits of what is not zero, and the other parts of all bands."""
    axes, size = pruned.axes, pruned.constant.size
    outer, rows, inner = axes.outer, axes.rows, axes.inner
    codes: Raw = empty((axes.blocks, outer, rows, inner), np.uint8)
    width = -(-rows * inner // 8)
    bits: Raw = empty((axes.blocks, outer, width), np.uint8)
    kind: np.dtype[np.generic] = codes.dtype
    found: dict[str, list[NDArray[np.generic]]] = {}
    columns = size // (axes.blocks * rows)
    for block, start, stop in pruned.strips(1 if bands.fitted else bands.rows):
        weight, keep = pruned.strip(block, start, stop)
        nonzero: Mask = empty(weight.shape, bool)

        def round_band(
            ends: tuple[int, int],
            weight: NDArray[np.generic] = weight,
            keep: Mask = keep,
            nonzero: Mask = nonzero,
            block: int = block,
            start: int = start,
        ) -> dict[str, NDArray[np.generic]]:
            here = slice(ends[0] - start, ends[1] - start)
            values, kept = pruned.rows_of(weight, keep, here)
            first = block * rows + ends[0]
            parts, values = bands.rounded(first, values, kept, pruned.layout)
            values *= kept
            nonzero[:, here] = axes.strip(cast_like(values, weight) != 0)
            codes[block, :, slice(*ends)] = axes.strip(parts["codes"]).view(np.uint8)
            return parts

        for parts in map_items(round_band, _bounds(bands, columns, block * rows, start, stop)):
            kind = parts.pop("codes").dtype
            for name, part in parts.items():
                found.setdefault(name, []).append(part)
        here = slice(start * inner // 8, -(-stop * inner // 8))
        bits[block, :, here] = np.packbits(nonzero.reshape(outer, -1), axis=1, bitorder="little")
    others = {name: np.concatenate(each) for name, each in found.items()}
    shaped = codes.view(kind).reshape(pruned.constant.shape)
    return shaped, _unpadded(bits.reshape(-1, width), rows * inner, size), others


def _bounds(
    bands: Bands, columns: int, before: int, start: int, stop: int
) -> list[tuple[int, int]]:
    """Returns the ends of the bands of a strip.

    Args:
        bands: how they are rounded.
        columns: elements of a row.
        before: how many rows there are before the block of the strip.
        start: the strip's first row in its block.
        stop: the one after the last.
    """
    unit = 1 if bands.fitted else bands.rows
    step = max(1, SLAB // max(1, unit * columns)) * unit
    ends = {*range(start, stop, step), stop}
    if bands.fitted:
        ends.update(end for end in range(start, stop) if (before + end) % bands.rows == 0)
    return [*pairwise(sorted(ends))]


def _unpadded(bits: Raw, length: int, size: int) -> Raw:
    """Returns the bits of all rows in one, from rows of `length` bits that are padded to bytes."""
    if length % 8 == 0 or len(bits) == 1:
        return bits.reshape(-1)
    flat: Raw = empty((-(-size // 8),), np.uint8)
    step = 8 * max(1, SLAB // (8 * length))

    def pack(start: int) -> None:
        rows = np.unpackbits(bits[start : start + step], axis=1, count=length, bitorder="little")
        at = start * length // 8
        packed = np.packbits(rows.reshape(-1), bitorder="little")
        flat[at : at + packed.size] = packed

    map_items(pack, range(0, len(bits), step))
    return flat


def _compacted(codes: NDArray[np.generic], mask: Raw) -> NDArray[np.generic]:
    """Returns the codes that a mask has, moved to the front of where all were."""
    count = 0
    for start in range(0, codes.size, SLAB):
        part = codes[start : start + SLAB]
        chosen = np.compress(mask_part(mask, start, start + part.size), part)
        codes[count : count + chosen.size] = chosen
        count += chosen.size
    return codes[:count]
