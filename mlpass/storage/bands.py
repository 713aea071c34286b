"""Rounding some rows of a weight at a time, for weights that are too large to be held as floats."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import prod
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from mlpass.sparsity.layout import Layout
from mlpass.sparsity.ranking import Mask
from mlpass.storage.storage import Floats, Grid, Parts


class Rows(Protocol):
    """A pruned weight of which some rows are read at a time, those of all groups in one order."""

    @property
    def layout(self) -> Layout:
        """Of the weight."""
        ...

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """In which it is stored."""
        ...

    @property
    def kept(self) -> int:
        """How many of its elements are kept."""
        ...

    def read(self, start: int, stop: int) -> Iterator[tuple[Floats, Mask]]:
        """Yields runs of the rows from one to another, (rows, columns), zero where not kept."""
        ...


class Bands(NamedTuple):
    """How a storage rounds bands of rows: each by a grid of its own, as one grid would all rows.

    Attributes:
        rows: that are fitted together: a band is some such runs, the last of a weight may be less.
        grid: returns the grid of the band that begins at a row, given its layout.
        joined: returns the parts of the weight but for its codes, given those of all bands, one
            after the other.
        fitted: whether the values are fixed already: then a band may be a part of one run, too.
    """

    rows: int
    grid: Callable[[int, Layout], Grid]
    joined: Callable[[Parts], Parts]
    fitted: bool = False

    def rounded(
        self, start: int, weight: Floats, keep: Mask, layout: Layout
    ) -> tuple[dict[str, NDArray[np.generic]], Floats]:
        """Returns the parts of a band, codes as (rows, columns), and its values.

        Args:
            start: its first row.
            weight: (rows, columns), zero where it is not kept.
            keep: the same shape.
            layout: of the whole weight.
        """
        shape = (len(weight), *layout.sizes[2:])
        grid = self.grid(start, Layout(shape, shape, ((), (0,), (1,), (2,))))
        grid.fit(weight[None], keep[None])
        values = grid.nearest(weight[None])[0]
        parts = grid.parts(keep[None])
        parts["codes"] = parts["codes"].reshape(weight.shape)
        return parts, values


def columns_of(layout: Layout) -> int:
    """Returns how many elements a row of a weight has."""
    return prod(layout.sizes[2:])
