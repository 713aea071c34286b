"""Palettized weights: each element is an index into a table of a few values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from math import prod
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from mlpass.arrays import Array, host
from mlpass.errors import NotApplicable
from mlpass.options import option, phrase_of
from mlpass.parallel import SLAB, map_items
from mlpass.registries import storage
from mlpass.sparsity.layout import Layout
from mlpass.sparsity.ranking import Mask
from mlpass.storage.codes import codes_of, column_codes
from mlpass.storage.kmeans import fitted_in_pieces, fitted_tables, is_large, tables_together
from mlpass.storage.normal_float import normal_float
from mlpass.storage.outliers import divided
from mlpass.storage.storage import (
    Bands,
    Floats,
    Grid,
    MakeRounding,
    Parts,
    Rounding,
    Rows,
    Storage,
    Stored,
    is_old,
    not_before_ios18,
)

_FORM = "constexpr_lut_to_dense"
_OLD_BITS = (1, 2, 4, 6, 8)
Element = TypeVar("Element", bound=np.generic)
# Some tables and, of one whose values are many, some of these.
_Part = tuple[range, slice]


@storage("palettize", lead="bits")
class Palette(Storage):
    """How weights become entries of a table: `tables[its rows' table, codes]`.

    Its parts are `codes`, uint8 in the weight's shape; and `tables`, (tables, 2 ** bits) in the
    weight's dtype, ascending, of which table i is for the rows, counted over all groups, from i
    times their share on. Where a group does not divide the rows, it is the next smaller one that
    does, down to half of it, or else all of them.

    Args:
        bits: of an index into a table: 1, 2, 3, 4, 6 or 8.
        group_size: rows that share a table; 0 (or None) for one table a weight.
        table: "kmeans" fits the entries to the weights, "normal_float" scales a fixed table to the
            largest magnitude.
        outliers: share of elements that are kept apart, in the weight's dtype beside a mask.
    """

    bits: int = option(
        default=4,
        choices=(1, 2, 3, 4, 6, 8),
        must="1, 2, 3, 4, 6 or 8",
        help="bits of an index into a table",
    )
    group_size: int | None = option(
        default=8, low=0, help="rows that share a table; 0 for one table a weight"
    )
    table: str = option(
        default="kmeans",
        choices=("kmeans", "normal_float"),
        must='"kmeans" or "normal_float"',
        help="how the entries are found",
    )
    outliers: float = option(
        default=0.0, low=0, high=0.5, help="share of elements that are kept apart, as they are"
    )

    def __post_init__(self) -> None:
        if self.group_size is None:
            object.__setattr__(self, "group_size", 0)

    @property
    def phrase(self) -> str:
        """How people say it."""
        groups = f" in groups of {self.group_size}" if self.group_size else ", one table"
        usual = self.group_size == type(self).group_size
        said = f"{self.bits}-bit palette{'' if usual else groups}"
        return phrase_of(self, said, "bits", "group_size")

    @property
    def entries(self) -> int:
        """How many values a table has."""
        return 1 << self.bits

    @property
    def code_bits(self) -> int:
        """The bits of an index."""
        return self.bits

    @property
    def apart(self) -> float:
        """The share of outliers."""
        return self.outliers

    @property
    def needs_mask(self) -> bool:
        """Whether a table has no room for zero: with one bit, a single value would be left."""
        return self.bits == 1

    @property
    def needs_ios18(self) -> str | None:
        """Groups of rows, and 3 bits."""
        if self.bits not in _OLD_BITS:
            return f"bits={self.bits}"
        return f"group_size={self.group_size}" if self.group_size else None

    @property
    def in_ios16(self) -> str:
        """One table a weight."""
        return "group_size=0, one table a weight, of 1, 2, 4, 6 or 8 bits"

    def rows_a_table(self, layout: Layout) -> int:
        """Returns how many rows of a weight share a table."""
        rows = layout.all_rows
        wanted = min(self.group_size or rows, rows)
        for size in range(wanted, (wanted - 1) // 2, -1):
            if rows % size == 0:
                try:
                    layout.tabled(rows // size)
                except NotApplicable:
                    continue
                return size
        return rows

    def note(self, layout: Layout) -> str | None:
        """Returns how many rows share a table where that is not `group_size`."""
        rows, size = layout.all_rows, self.rows_a_table(layout)
        if size == min(self.group_size or rows, rows):
            return None
        found = "one table" if size == rows else f"a table for {size} rows"
        return f"{found}: its {rows} rows do not divide into groups of {self.group_size}"

    def grid(self, layout: Layout, power: Floats, dtype: np.dtype[np.generic]) -> Grid:
        """Returns tables, yet to be fitted."""
        return divided(_Tables(self, layout, power, dtype), self.outliers, layout, power, dtype)

    def bands(self, weight: Rows) -> Bands | None:
        """Returns how rows are rounded: those of some tables, or a part of a large one's."""
        size, columns = self.rows_a_table(weight.layout), weight.layout.columns
        total = prod(weight.layout.shape)
        zero = weight.kept < total and not self.masked(total, weight.kept)
        power = np.ones((1, columns), np.float32)

        def tables(rows: int, layout: Layout) -> _Tables:
            grid = _Tables(
                replace(self, group_size=rows, outliers=0.0), layout, power, weight.dtype
            )
            grid.zero = zero
            return grid

        if not is_large(size * columns):
            rows = size * tables_together(size * columns)
            return Bands(rows, lambda _, layout: tables(size, layout), lambda parts: parts)
        entries = np.concatenate(list(self._large(weight, size, zero)))
        entries = entries.astype(weight.dtype)

        def fixed(start: int, layout: Layout) -> _Tables:
            grid = tables(0, layout)
            grid.entries[:] = entries[start // size]
            grid.fixed = True
            return grid

        return Bands(size, fixed, lambda _: {"tables": entries}, fitted=True)

    def _large(self, weight: Rows, size: int, zero: bool) -> Iterator[Floats]:
        """Yields tables of `size` rows each, as (1, entries), which no band holds as a whole."""
        rows = weight.layout.all_rows
        for start in range(0, rows, size):
            pieces = partial(weight.read, start, start + size)
            if self.table == "normal_float":
                largest = max(np.abs(values).max(initial=0) for values, _ in pieces())
                yield normal_float(self.entries)[None] * np.float32(largest)
            else:
                yield fitted_in_pieces(pieces, self.entries, zero)[None]

    def stored(self, parts: Parts, layout: Layout, opset: int) -> Stored:
        """Returns indices, and the tables in blocks of the weight's axes, or the only one.

        Raises:
            NotApplicable: iOS16 and 17 have no form for it.
        """
        tables, element = parts["tables"], f"uint{self.bits}"
        if is_old(opset):
            if self.bits not in _OLD_BITS:
                raise not_before_ios18(f"a palette of {self.bits} bits")
            if len(tables) > 1:
                raise not_before_ios18(f"a palette of {len(tables)} tables")
            shape = np.array(layout.shape, np.uint32)
            return Stored(
                _FORM, "indices", element, {"lut": tables[0], "shape": shape}, packed=True
            )
        blocks = np.zeros((1,) * len(layout.shape), np.intp)
        if len(tables) > 1:
            blocks = layout.tabled(len(tables)).join(np.arange(len(tables)))
        return Stored(_FORM, "indices", element, {"lut": tables[blocks][..., None]})

    def others_nbytes(self, layout: Layout, itemsize: int, opset: int) -> int:
        """Returns the bytes of the tables."""
        return layout.all_rows // self.rows_a_table(layout) * self.entries * itemsize


class _Tables:
    """Tables while they are fitted, and the codes that a sweep leaves."""

    def __init__(
        self, palette: Palette, layout: Layout, power: Floats, dtype: np.dtype[np.generic]
    ) -> None:
        self.palette, self.layout, self.power, self.dtype = palette, layout, power, dtype
        self.size = palette.rows_a_table(layout)
        self.entries = np.zeros((layout.all_rows // self.size, palette.entries), np.float32)
        self.codes = np.zeros((*layout.sizes[:2], layout.columns), np.uint8)
        self.zero: bool | None = None  # whether a table has a zero; None asks the weight's sizes
        self.fixed = False  # whether tables stay as they are

    @property
    def between(self) -> Floats:
        """The middles of neighbouring entries."""
        middles: Floats = (self.entries[:, 1:] + self.entries[:, :-1]) / np.float32(2)
        return middles

    def fit(
        self, weight: Array, keep: Array, apart: Mask | None = None, *, roughly: bool = False
    ) -> MakeRounding:
        """Fixes each table to the kept weights of its rows, and to a zero where that is stored.

        What is `apart` is zero in `weight`, and counts for nothing.
        """
        if self.fixed:
            return self.rounding
        count, kept = len(self.entries), host(keep)
        values = host(weight).reshape(count, -1)
        if self.palette.table == "normal_float":
            largest = np.abs(values).max(axis=1, initial=0)
            table = normal_float(self.palette.entries)
            found: Floats = (table * largest[:, None]).astype(np.float32)
        else:
            number = int(np.count_nonzero(kept))
            zero = self.zero
            if zero is None:
                zero = number < kept.size and not self.palette.masked(kept.size, number)
            whole = number == kept.size and (apart is None or not apart.any())
            alike = whole and (self.power == self.power.flat[0]).all()
            shares = None
            if not alike or self.power.flat[0] == 0:
                counts = kept if apart is None else kept & ~apart
                shares = np.where(counts, self.power[:, None, :], np.float32(0)).reshape(count, -1)
            found = fitted_tables(values, shares, self.palette.entries, zero, roughly=roughly)
        self.entries[:] = found.astype(self.dtype)  # as it will be stored
        return self.rounding

    def rounding(self, order: NDArray[np.intp]) -> Rounding:
        """Returns what rounds the columns of a sweep, and notes their codes."""
        entries, of_column = self.entries.reshape(-1), column_codes(self.between, self.size)
        origin = np.repeat(np.arange(len(self.entries)) * self.palette.entries, self.size)

        def round_column(index: int, column: Array) -> Array:
            codes = of_column(host(column).reshape(-1))
            self.codes[:, :, order[index]] = codes.reshape(column.shape)
            found: Floats = entries.take(origin + codes).reshape(column.shape)
            return found

        return round_column

    def forget(self) -> None:
        """Lets go of the codes: `nearest` notes them anew."""
        self.codes = np.zeros((1, 0, 0), np.uint8)

    def nearest(self, weight: Array) -> Floats:
        """Returns each element's nearest entry, and notes their codes."""
        if self.codes.shape != weight.shape:
            self.codes = np.zeros(weight.shape, np.uint8)
        values, codes = (self._by_table(each) for each in (host(weight), self.codes))
        between, found = self.between, np.empty_like(values)

        def round_part(part: _Part) -> None:
            tables, run = part
            own = slice(tables.start, tables.stop)
            codes[own, run] = codes_of(between[own], values[own, run])
            for table in tables:
                np.take(self.entries[table], codes[table, run], out=found[table, run], mode="clip")

        map_items(round_part, self._parts())
        return found.reshape(weight.shape)

    def _by_table(self, values: NDArray[Element]) -> NDArray[Element]:
        """Returns (groups, rows, columns) as (tables, values)."""
        return values.reshape(len(self.entries), -1)

    def _parts(self) -> list[_Part]:
        """Returns some tables each, or some values of a large one."""
        tables = len(self.entries)
        each = self.codes.size // tables
        step, width = max(1, SLAB // max(1, each)), min(each, SLAB)
        return [
            (range(start, min(start + step, tables)), slice(left, left + width))
            for start in range(0, tables, step)
            for left in range(0, each, width)
        ]

    def spread(self, values: Floats) -> Floats:
        """Returns each element's share of what the entries change by."""
        codes = self._by_table(self.codes)
        found = np.empty(codes.shape, np.float32)

        def take(part: _Part) -> None:
            tables, run = part
            for table in tables:
                np.take(values[table], codes[table, run], out=found[table, run], mode="clip")

        map_items(take, self._parts())
        return found.reshape(self.codes.shape)

    def gathered(self, weight: Floats, *, squared: bool = False) -> Floats:
        """Returns for each entry the sum over the elements that take it; an entry 0 stays."""
        codes, values = self._by_table(self.codes), self._by_table(weight)
        entries, parts = self.palette.entries, self._parts()

        def add(part: _Part) -> NDArray[np.float64]:
            tables, run = part
            sums = [np.bincount(codes[each, run], values[each, run], entries) for each in tables]
            return np.stack(sums)

        found = np.zeros(self.entries.shape)
        for (tables, _), sums in zip(parts, map_items(add, parts), strict=True):
            found[tables.start : tables.stop] += sums
        return np.where(self.entries == 0, np.float32(0), found.astype(np.float32))

    def moved(self, values: Floats) -> Floats:
        """Returns the weight with other entries, which are in order again.

        A table stays of which an entry would be more than its type can hold.
        """
        with np.errstate(over="ignore"):
            entries = (self.entries + values).astype(self.dtype).astype(np.float32)
        np.copyto(entries, self.entries, where=~np.isfinite(entries).all(axis=1, keepdims=True))
        order = np.argsort(entries, axis=1, kind="stable")
        self.entries[:] = np.take_along_axis(entries, order, axis=1)
        rank = np.argsort(order, axis=1, kind="stable").astype(np.uint8)
        codes = self._by_table(self.codes)
        for table in np.flatnonzero((np.diff(order) < 0).any(axis=1)):
            codes[table] = rank[table][codes[table]]
        return self.decoded()

    def decoded(self) -> Floats:
        """Returns the weight that the codes stand for."""
        return self.spread(self.entries)

    def parts(self, keep: Array) -> dict[str, NDArray[np.generic]]:
        """Returns codes and tables; what is not kept is the entry 0 where there is one."""
        codes, kept = self.codes, host(keep)
        if not kept.all():
            zero = np.argmax(self.entries == 0, axis=1).astype(np.uint8)
            zeros = np.repeat(zero, self.size).reshape(codes.shape[:2])
            codes = np.where(kept, codes, zeros[:, :, None])
        return {"codes": self.layout.join(codes), "tables": self.entries.astype(self.dtype)}
