"""Windows: columns of a weight that are decided together, for methods that go column by column."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mlpass.sparsity.layout import Layout, transposed_layout
from mlpass.sparsity.mode import Mode, Window, needed
from mlpass.sparsity.ranking import Mask, Score, keep_rows, row_zeros


@dataclass(frozen=True)
class RowZeros(Mode):
    """Zeroes as many of the lowest of each row as it is told.

    Args:
        zeros: how many, for each row of each group.
    """

    zeros: tuple[int, ...]

    def keep(self, score: Score, layout: Layout | None = None) -> Mask:
        """Returns the keep mask of one weight, or of a window."""
        used = needed(self, layout)
        matrix = used.matrix(score).reshape(used.all_rows, used.columns)
        zeros = np.array(self.zeros, np.int64)
        return used.join(keep_rows(matrix, zeros).reshape(used.sizes))


def column_windows(mode: Mode, layout: Layout, width: int, positions: int = 1) -> list[Window]:
    """Returns windows of `width` neighbouring columns, seen as channels of `positions` each."""
    groups, rows = layout.sizes[:2]
    columns = np.arange(layout.columns)
    return [
        Window(part, transposed_layout(groups, rows, part.size // positions, positions), mode)
        for part in np.split(columns, range(width, columns.size, width))
    ]


def with_row_zeros(share: float, layout: Layout, parts: list[Window]) -> list[Window]:
    """Returns the windows, each with what every row has to lose in its columns.

    Over all windows a row loses exactly what it would if all its columns were ranked at once.
    """
    columns = max(1, layout.columns)
    whole = row_zeros(share, layout.all_rows, columns)
    ends = np.cumsum([0, *(part.columns.size for part in parts)])
    zeros = np.diff(whole * ends[:, None] // columns, axis=0)
    modes = [RowZeros(tuple(each.tolist())) for each in zeros]
    return [part._replace(mode=mode) for part, mode in zip(parts, modes, strict=True)]


def with_shares(mode: Mode, parts: list[Window], units: list[int]) -> list[Window]:
    """Returns the windows, each with the share of its `units` that the mode has to zero there."""
    shares = _shares(mode.target or 0.0, units)
    return [part._replace(mode=mode.at(share)) for part, share in zip(parts, shares, strict=True)]


def _shares(target_sparsity: float, units: list[int]) -> list[float]:
    """Returns a sparsity for each part, whose floors add up to that of the whole.

    Half a unit is added, so that rounding cannot lose one.
    """
    ends = np.cumsum([0, *units])
    zeros = np.diff([math.floor(target_sparsity * int(end)) for end in ends])
    return [min(1.0, (int(count) + 0.5) / size) for count, size in zip(zeros, units, strict=True)]
