"""The outliers of a large weight, found among all its rows without holding them all."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from mlpass.program.ir import Raw
from mlpass.sparsity.layout import Layout
from mlpass.sparsity.packing import mask_part, unmark_first
from mlpass.sparsity.ranking import Mask
from mlpass.sparsity.select import Keys, digits_of, keys_of, keys_type, lowest_by
from mlpass.storage.outliers import ROUNDS, Divided, Trimmed
from mlpass.storage.storage import Bands, Floats, Grid, Storage, outlier_count
from mlpass.weights.rows import Banded, FileRows


@dataclass(frozen=True)
class Outliers:
    """Which elements of a weight are kept apart, by its rows.

    Attributes:
        columns: of the weight.
        starts: the first row of each band.
        bits: of the elements of each band, least significant first.
    """

    columns: int
    starts: list[int]
    bits: list[Raw]

    def rows(self, start: int, stop: int) -> Mask:
        """Returns which elements of some rows are outliers, (rows, columns)."""
        found: list[Mask] = []
        number = bisect_right(self.starts, start) - 1
        while start < stop:
            first, bits = self.starts[number], self.bits[number]
            end = self.starts[number + 1] if number + 1 < len(self.starts) else stop
            last = min(stop, end)
            ends = (start - first) * self.columns, (last - first) * self.columns
            found.append(mask_part(bits, *ends).reshape(last - start, self.columns))
            start, number = last, number + 1
        return np.concatenate(found)


def bands_beside_outliers(pruned: FileRows, storage: Storage) -> Bands | None:
    """Returns how a storage with outliers rounds a weight some rows at a time; None if it cannot.

    The outliers are those that it would choose with the whole weight before it: of each element
    two bits are held meanwhile.
    """
    count = outlier_count(storage.apart, pruned.constant.size, pruned.kept)
    apart = _largest(pruned, _Rows(), count, lambda _, values: np.square(values))
    bands = storage.bands(_Others.of(pruned, apart))
    for _ in range(ROUNDS - 1):
        if bands is None or pruned.cuts(bands):
            return None
        apart = _largest(pruned, bands, count, _errors(pruned, bands, apart))
        bands = storage.bands(_Others.of(pruned, apart))
    if bands is None:
        return None
    fitted = bands.grid

    def grid(start: int, layout: Layout) -> Grid:
        rows, columns = layout.sizes[1], pruned.columns
        here = apart.rows(start, start + rows)[None]
        power = np.ones((1, columns), np.float32)
        others = cast("Trimmed", fitted(start, layout))
        return Divided(others, storage.apart, layout, power, pruned.dtype, here)

    return bands._replace(grid=grid)


class _Rows(NamedTuple):
    """Bands of any rows."""

    rows: int = 1
    fitted: bool = False


@dataclass(frozen=True)
class _Others(FileRows):
    """A weight in a file without its outliers."""

    apart: Outliers

    @classmethod
    def of(cls, pruned: FileRows, apart: Outliers) -> _Others:
        """Returns the others of a weight."""
        parts = pruned.constant, pruned.axes, pruned.keep, pruned.kept, pruned.layout
        return cls(*parts, apart)

    def read(self, start: int, stop: int) -> Iterator[tuple[Floats, Mask]]:
        """Yields runs of rows, zero where they are not kept, and where they are apart."""
        for values, kept in super().read(start, stop):
            others = ~self.apart.rows(start, start + len(values))
            start += len(values)
            yield np.where(others, values, np.float32(0)), kept & others


def _errors(pruned: FileRows, bands: Bands, apart: Outliers) -> Callable[[int, Floats], Floats]:
    """Returns what gives the squares of what a grid that is fitted to the others leaves over."""
    grids: dict[int, Trimmed] = {}

    def fit(start: int, values: Floats, kept: Mask) -> None:
        here = apart.rows(start, start + len(values))
        layout = bands.layout_of(len(values), pruned.layout)
        grid = grids[start] = cast("Trimmed", bands.grid(start, layout))
        grid.fit(np.where(here, np.float32(0), values)[None], kept[None], here[None])
        grid.forget()

    for _ in pruned.each_band(bands, fit):
        pass

    def error(start: int, values: Floats) -> Floats:
        found: Floats = np.square(grids[start].nearest(values[None])[0] - values)
        grids[start].forget()
        return found

    return error


def _largest(
    pruned: FileRows, bands: Banded, count: int, error: Callable[[int, Floats], Floats]
) -> Outliers:
    """Returns so many of the kept elements as outliers: those with the largest errors."""
    dtype = keys_type(np.dtype(np.float32))

    def keys(start: int, values: Floats, kept: Mask) -> Keys:
        errors = np.maximum(error(start, values), np.finfo(np.float32).tiny)
        return keys_of(np.where(kept, errors, np.float32(0))).reshape(-1)

    def histogram(prefix: int, shift: int) -> NDArray[np.int64]:
        def digits(start: int, values: Floats, kept: Mask) -> NDArray[np.int64]:
            return digits_of(keys(start, values, kept), prefix, shift)

        return cast("NDArray[np.int64]", sum(pruned.each_band(bands, digits)))

    cut = lowest_by(histogram, pruned.constant.size - count, dtype)

    def mark(start: int, values: Floats, kept: Mask) -> tuple[int, Raw, Raw]:
        own = keys(start, values, kept)
        pack = partial(np.packbits, bitorder="little")
        return start, pack(own >= dtype.type(cut.key)), pack(own == dtype.type(cut.key))

    starts, bits, left = [], [], cut.ties
    for start, marked, tied in pruned.each_band(bands, mark):
        left = unmark_first(left, tied, marked)
        starts.append(start)
        bits.append(marked)
    return Outliers(pruned.columns, starts, bits)
