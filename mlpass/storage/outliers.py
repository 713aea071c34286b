"""Outliers: the few weights that a grid would miss by most are kept apart, as values of their own.

The weight is then a sum: what the grid has for every element, and for the outliers what is left of
them, which is sparse. The grid is fitted to all others alone. Which ones go is found in turns, as
in trimmed k-means: those whose rounding costs the outputs most on the Gram's diagonal, by a grid
that was fitted without those that were found before; at first, those that weigh most there.

Sources: Dettmers et al. 2023, "SpQR", arXiv 2306.03078; Kim et al. 2023, "SqueezeLLM", arXiv
2306.07629 (a dense low part and a sparse rest); Cuesta-Albertos et al. 1997, "Trimmed k-means".
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mlpass.arrays import Array, host
from mlpass.sparsity.layout import Layout, grouped_layout
from mlpass.sparsity.ranking import Mask
from mlpass.sparsity.select import keep_above, keys_of, lowest
from mlpass.storage.storage import Floats, Grid, MakeRounding, Movable, Rounding, outlier_count

ROUNDS = 2  # of choosing outliers and fitting the grid to the others


class Trimmed(Movable, Grid, Protocol):
    """A grid that can be fitted to some of the elements."""

    def fit(
        self, weight: Array, keep: Array, apart: Mask | None = None, *, roughly: bool = False
    ) -> MakeRounding:
        """Fixes the values as `Grid.fit` does.

        Args:
            weight: (groups, rows, columns), zero where it is not kept, and where it is apart.
            keep: the same shape.
            apart: the same shape, which elements count for nothing.
            roughly: whether the values are only a start.
        """
        ...

    def decoded(self) -> Floats:
        """Returns the weight that its codes stand for, (groups, rows, columns)."""
        ...

    def forget(self) -> None:
        """Lets go of the codes: `nearest` notes them anew."""
        ...


class Divided:
    """A grid, and the outliers beside it. Its parts are the grid's, with two more.

    These are `apart`, bool in the weight's shape, and `rest`, what an outlier is more than its
    code, (outliers,) in the order in which they are stored.
    """

    def __init__(
        self,
        grid: Trimmed,
        share: float,
        layout: Layout,
        power: Floats,
        dtype: np.dtype[Any],
        apart: Mask | None = None,
    ) -> None:
        """Divides the weights of a grid.

        Args:
            grid: for all but the outliers.
            share: of elements that are outliers.
            layout: of the weight.
            power: (groups, columns), how much an error in each column counts.
            dtype: in which the weight is stored.
            apart: (groups, rows, columns), the outliers; None where they are yet to be chosen.
        """
        self.grid, self.share, self.layout, self.power = grid, share, layout, power
        self.dtype = dtype
        shape = grouped_layout(layout).shape
        self.values = np.zeros((*shape[:2], int(np.prod(shape[2:]))), np.float32)
        self.apart, self.chosen = apart, apart is not None

    def fit(self, weight: Array, keep: Array, *, roughly: bool = False) -> MakeRounding:
        """Chooses the outliers, and fixes the grid to the others."""
        values, kept = host(weight), host(keep)

        def fit_others() -> None:
            others = np.where(self._outliers, np.float32(0), values)
            self.grid.fit(others, kept, self.apart, roughly=roughly)

        if self.chosen:
            fit_others()
            return self.rounding
        error = np.square(values) * self.power[:, None]
        for number in range(ROUNDS):
            if number:
                error = np.square(self.grid.nearest(values) - values) * self.power[:, None]
            self.apart = self._largest(error, kept)
            fit_others()
        return self.rounding

    def rounding(self, order: NDArray[np.intp]) -> Rounding:
        """Returns what rounds the columns of a sweep, outliers to their type alone."""
        round_others = self.grid.rounding(order)

        def round_column(index: int, column: Array) -> Array:
            values = host(column)
            others = host(round_others(index, values))
            own = self.values[:, :, order[index]] = self._typed(values)
            return np.where(self._outliers[:, :, order[index]], own, others)

        return round_column

    def nearest(self, weight: Array) -> Floats:
        """Returns each element's nearest value, outliers' in their type."""
        self.values[:] = self._typed(host(weight))
        return self._with_outliers(self.grid.nearest(weight))

    def spread(self, values: Floats) -> Floats:
        """Returns what elements change by with the grid's values: outliers do not."""
        return np.where(self._outliers, np.float32(0), self.grid.spread(values))

    def gathered(self, weight: Floats, *, squared: bool = False) -> Floats:
        """Returns for each value of the grid the sum over its elements, outliers left out."""
        others = np.where(self._outliers, np.float32(0), weight)
        return self.grid.gathered(others, squared=squared)

    def moved(self, values: Floats) -> Floats:
        """Returns the weight with the grid's values changed."""
        return self._with_outliers(self.grid.moved(values))

    def parts(self, keep: Array) -> dict[str, NDArray[np.generic]]:
        """Returns the grid's parts, and the outliers with what they are more than their codes."""
        kept = host(keep)
        if self.apart is None:  # nothing was fitted: only sizes count
            self.apart = self._largest(np.ones(kept.shape, np.float32), kept)
        apart = self.layout.join(self.apart & kept)
        rest = self.layout.join(self._typed(self.values - self.grid.decoded()))
        return {**self.grid.parts(keep), "apart": apart, "rest": rest[apart].astype(self.dtype)}

    @property
    def _outliers(self) -> Mask:
        assert self.apart is not None  # it is fitted first
        return self.apart

    def _largest(self, error: Floats, keep: Mask) -> Mask:
        """Returns which of the kept elements have the largest errors."""
        count = outlier_count(self.share, keep.size, int(np.count_nonzero(keep)))
        ranked = np.where(keep, np.maximum(error, np.finfo(np.float32).tiny), np.float32(0))
        keys = keys_of(ranked.reshape(-1))
        apart: Mask = keep_above(keys, lowest(keys, keys.size - count))[0].reshape(keep.shape)
        return apart

    def _with_outliers(self, weight: Floats) -> Floats:
        return np.where(self._outliers, self.values, weight)

    def _typed(self, values: Floats) -> Floats:
        limit = float(np.finfo(self.dtype).max)
        typed: Floats = np.clip(values, -limit, limit).astype(self.dtype).astype(np.float32)
        return typed


def divided(
    grid: Trimmed, share: float, layout: Layout, power: Floats, dtype: np.dtype[np.generic]
) -> Grid:
    """Returns a grid with a share of outliers beside it; the grid itself where that is 0."""
    return Divided(grid, share, layout, power, dtype) if share else grid
