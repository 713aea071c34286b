"""Windows: columns of a weight that are decided together, for methods that go column by column."""

from __future__ import annotations

import math

import numpy as np

from mlpass.sparsity.layout import Layout, transposed_layout
from mlpass.sparsity.mode import Mode, Window


def column_windows(mode: Mode, layout: Layout, width: int, positions: int = 1) -> list[Window]:
    """Returns windows of `width` neighbouring columns, seen as channels of `positions` each."""
    groups, rows = layout.sizes[:2]
    columns = np.arange(layout.sizes[2] * layout.sizes[3])
    return [
        Window(part, transposed_layout(groups, rows, part.size // positions, positions), mode)
        for part in np.split(columns, range(width, columns.size, width))
    ]


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
