"""Pruned and palettized in one solve: each kept weight is an index into a table of 16 values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from mlpass.arrays import Array, host
from mlpass.errors import NotApplicable
from mlpass.options import option
from mlpass.registries import storage
from mlpass.sparsity.layout import Layout, grouped_layout
from mlpass.storage.storage import Floats, Grid, MakeRounding, Parts, Rounding, Storage

_ENTRIES = 16
_BINS = 1 << 14
_ROUNDS = 30

# Quantiles of the normal distribution, zero among them, scaled to [-1, 1].
# Source: Dettmers et al. 2023, "QLoRA", arXiv 2305.14314, appendix E.
NORMAL_FLOAT = np.array(
    [
        -1.0,
        -0.6961928009986877,
        -0.5250730514526367,
        -0.39491748809814453,
        -0.28444138169288635,
        -0.18477343022823334,
        -0.09105003625154495,
        0.0,
        0.07958029955625534,
        0.16093020141124725,
        0.24611230194568634,
        0.33791524171829224,
        0.44070982933044434,
        0.5626170039176941,
        0.7229568362236023,
        1.0,
    ],
    np.float32,
)


@storage("palettize", lead="bits")
class Palette(Storage):
    """How kept weights become entries of a 4-bit table: `tables[its rows' table, codes]`.

    Its parts are `codes`, uint8 in the weight's shape, 0 to 15, 0 where they are not kept; and
    `tables`, (tables, 16) in the weight's dtype, ascending, of which table i is for the rows,
    counted over all groups, from `i * group_size` on.

    Args:
        table: "kmeans" fits the entries to the weights, "normal_float" scales a fixed table to the
            largest magnitude.
        group_size: rows that share a table; None for one table in all.
        bits: of an index into the table, 4.
    """

    table: str = option(
        default="kmeans",
        choices=("kmeans", "normal_float"),
        must='"kmeans" or "normal_float"',
        help="how the entries are found",
    )
    group_size: int | None = option(
        default=None, low=1, help="rows that share a table; all of them without it"
    )
    bits: int = option(default=4, choices=(4,), must="4", help="bits of an index into the table")
    form: ClassVar[str] = "constexpr_lut_to_dense"

    def grid(self, layout: Layout, power: Floats, dtype: np.dtype[Any]) -> Grid:
        """Returns tables, yet to be fitted.

        Raises:
            NotApplicable: `group_size` does not divide the rows.
        """
        rows = layout.sizes[0] * layout.sizes[1]
        size = self.group_size or rows
        if rows % size:
            raise NotApplicable(f"group_size {size} does not divide its {rows} rows")
        return _Tables(self.table, layout, power, size, dtype)

    def stored(
        self, parts: Parts, kept: NDArray[np.bool_], layout: Callable[[], Layout]
    ) -> tuple[str, dict[str, NDArray[Any]]]:
        """Returns 4 bits, and the tables in blocks of the weight's axes.

        Raises:
            NotApplicable: there are several tables, which do not split its axes into whole blocks.
        """
        tables = parts["tables"]
        blocks = np.zeros((1,) * kept.ndim, np.intp)
        if len(tables) > 1:
            blocks = layout().tabled(len(tables)).join(np.arange(len(tables)))
        return "uint4", {"lut": tables[blocks][..., None]}  # (*blocks, entries, 1)


class _Tables:
    """Tables while they are fitted, and the codes that a sweep leaves."""

    def __init__(
        self, kind: str, layout: Layout, power: Floats, size: int, dtype: np.dtype[Any]
    ) -> None:
        self.kind, self.size, self.dtype = kind, size, dtype
        self.layout, self.power = layout, power
        groups, rows, channels, positions = grouped_layout(layout).sizes
        self.entries = np.zeros((groups * rows // size, _ENTRIES), np.float32)
        self.codes = np.zeros((groups, rows, channels * positions), np.uint8)

    def fit(self, weight: Array, keep: Array) -> MakeRounding:
        """Fixes each table to the kept weights of its rows."""
        shares = np.where(host(keep), self.power[:, None, :], np.float32(0)).reshape(
            len(self.entries), -1
        )
        values = host(weight).reshape(len(self.entries), -1)
        for index, (own, share) in enumerate(zip(values, shares, strict=True)):
            if self.kind == "normal_float":
                entries = NORMAL_FLOAT * np.abs(own).max(initial=0)
            else:
                entries = _kmeans(own, share)
            self.entries[index] = entries.astype(self.dtype)  # as it will be stored
        return self.rounding

    def rounding(self, order: NDArray[np.intp]) -> Rounding:
        """Returns what rounds the columns of a sweep, and notes their codes."""
        between = (self.entries[:, 1:] + self.entries[:, :-1]) / 2

        def round_column(index: int, column: Array) -> Array:
            flat = host(column).reshape(len(between), self.size)
            if len(between) == 1:
                codes = np.searchsorted(between[0], flat, side="left")
            else:
                codes = np.zeros(flat.shape, np.intp)
                for edge in range(_ENTRIES - 1):
                    codes += flat > between[:, edge, None]
            self.codes[:, :, order[index]] = codes.reshape(column.shape)
            return np.take_along_axis(self.entries, codes, axis=1).reshape(column.shape)

        return round_column

    def parts(self, keep: Array) -> dict[str, NDArray[Any]]:
        """Returns codes and tables."""
        return {
            "codes": self.layout.join(np.where(host(keep), self.codes, np.uint8(0))),
            "tables": self.entries.astype(self.dtype),
        }


def _kmeans(values: Floats, shares: Floats) -> Floats:
    """Returns 16 ascending centres for which the weighted square distance of `values` is small.

    Values are counted into fine bins first: Lloyd's rounds then cost the same for any number.

    Args:
        values: 1-D.
        shares: how much each counts, 0 or more.
    """
    used = shares > 0
    if not used.any():  # no sample reaches what is kept: all count alike
        used, shares = values != 0, np.ones_like(shares)
        if not used.any():
            return np.zeros(_ENTRIES, np.float32)
    low, high = float(values[used].min()), float(values[used].max())
    step = (high - low) / _BINS or 1.0
    bins = np.minimum(((values[used] - low) / step).astype(np.intp), _BINS - 1)
    counts = np.bincount(bins, shares[used], _BINS)
    sums = np.bincount(bins, shares[used].astype(np.float64) * values[used], _BINS)
    total, moment = np.append(0, np.cumsum(counts)), np.append(0, np.cumsum(sums))
    middles = low + (np.arange(_BINS) + 0.5) * step
    # The optimum puts centres as densely as the cube root of the density.
    dense = np.cumsum(np.cbrt(counts))
    centres = np.interp((np.arange(_ENTRIES) + 0.5) / _ENTRIES * dense[-1], dense, middles)
    for _ in range(_ROUNDS):
        edges = np.searchsorted(middles, (centres[1:] + centres[:-1]) / 2)
        bounds = np.concatenate([[0], edges, [_BINS]])
        weight = np.diff(total[bounds])
        means = np.diff(moment[bounds]) / np.where(weight > 0, weight, 1)
        centres = np.where(weight > 0, means, centres)
    return np.sort(centres).astype(np.float32)
