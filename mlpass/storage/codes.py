"""Which entry of its table each value is nearest to: how many middles of neighbours it is above."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Codes = NDArray[np.uint8] | NDArray[np.intp]

# Middles that a value is compared with one after the other: sooner than by halving, which branches.
_COMPARED = 63


def column_codes(between: Floats, rows: int) -> Callable[[Floats], Codes]:
    """Returns what gives the codes of columns: how many middles of its table each value is above.

    Args:
        between: (tables, middles).
        rows: of each table.
    """
    tables, count = between.shape
    if count > _COMPARED:
        return lambda column: _halved(between, column.reshape(tables, rows)).reshape(-1)
    middles = np.ascontiguousarray(between.T if tables == 1 else np.repeat(between, rows, axis=0).T)

    def codes(column: Floats) -> Codes:
        above = (column > middles).view(np.uint8)
        found: NDArray[np.uint8] = np.add.reduce(above, axis=0, dtype=np.uint8)
        return found

    return codes


def codes_of(between: Floats, values: Floats) -> Codes:
    """Returns how many middles of its table each value is above.

    Args:
        between: (tables, middles).
        values: (tables, values).
    """
    if between.shape[1] > _COMPARED:
        return np.stack(
            [np.searchsorted(*each, side="left") for each in zip(between, values, strict=True)]
        )
    found = np.zeros(values.shape, np.uint8)
    for middle in range(between.shape[1]):
        found += values > between[:, middle, None]
    return found


def _halved(between: Floats, values: Floats) -> NDArray[np.intp]:
    """Returns how many middles of its table each value is above, found by halving.

    Args:
        between: (tables, middles), a power of two less one of them.
        values: (tables, values).
    """
    if len(between) == 1:
        return np.searchsorted(between[0], values, side="left")
    middles, origin = between.reshape(-1), np.arange(len(between))[:, None] * between.shape[1]
    places = np.broadcast_to(origin, values.shape).copy()
    step = (between.shape[1] + 1) // 2
    while step:
        places += step * (values > middles[places + (step - 1)])
        step //= 2
    places -= origin
    return places
