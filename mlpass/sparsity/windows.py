"""Windows: columns of a weight that are decided together, for methods that go column by column."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlpass.sparsity.layout import Layout, transposed_layout

if TYPE_CHECKING:
    from mlpass.sparsity.modes import Mode


class Window(NamedTuple):
    """Columns of a weight matrix that are decided together, and the mode that decides them.

    Attributes:
        columns: indices into channels times positions, positions last.
        layout: of their (groups, columns, rows) score, transposed since columns go one by one.
        mode: with the count that this window has to zero.
    """

    columns: NDArray[np.intp]
    layout: Layout
    mode: Mode


def column_windows(mode: Mode, layout: Layout, width: int, positions: int = 1) -> list[Window]:
    """Returns windows of `width` neighbouring columns, seen as channels of `positions` each."""
    groups, rows = layout.sizes[:2]
    columns = np.arange(layout.sizes[2] * layout.sizes[3])
    return [
        Window(part, transposed_layout(groups, rows, part.size // positions, positions), mode)
        for part in np.split(columns, range(width, columns.size, width))
    ]


def with_shares(mode: Any, parts: list[Window], units: list[int]) -> list[Window]:
    """Returns the windows, each with the share of its `units` that the mode has to zero there."""
    shares = _shares(mode.target_sparsity, units)
    return [
        part._replace(mode=replace(mode, target_sparsity=share))
        for part, share in zip(parts, shares, strict=True)
    ]


def _shares(target_sparsity: float, units: list[int]) -> list[float]:
    """Returns a sparsity for each part, whose floors add up to that of the whole.

    Half a unit is added, so that rounding cannot lose one.
    """
    ends = np.cumsum([0, *units])
    zeros = np.diff([math.floor(target_sparsity * int(end)) for end in ends])
    return [min(1.0, (int(count) + 0.5) / size) for count, size in zip(zeros, units, strict=True)]
