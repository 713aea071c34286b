"""One weight in a storage without samples: each kept element by itself, at the nearest value."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mlpass.arrays import HostArray, cast_like
from mlpass.solvers.solve import Solution
from mlpass.sparsity.layout import Layout
from mlpass.sparsity.ranking import Mask
from mlpass.storage.storage import Storage


def nearest(
    weight: NDArray[np.generic], keep: Mask, storage: Storage, layout: Layout
) -> Solution[HostArray]:
    """Returns a masked weight with every kept element at the nearest value that a storage has.

    The storage is fitted as where all inputs are equally loud and do not correlate, and so is the
    error: that of the weight itself.

    Args:
        weight: of the shape of `layout`.
        keep: the same shape.
        storage: to round to.
        layout: of the weight.
    """
    matrix, kept = layout.matrix(weight).astype(np.float32), layout.matrix(keep)
    whole = bool(kept.all())
    masked = matrix if whole else np.where(kept, matrix, np.float32(0))
    loudness = np.ones((layout.sizes[0], layout.columns), np.float32)
    grid = storage.grid(layout, loudness, weight.dtype)
    grid.fit(masked, kept)
    found = grid.nearest(masked)
    if not whole:
        found *= kept
    power = _square_sum(matrix)
    matrix -= found
    return Solution(
        cast_like(layout.join(found), weight),
        keep,
        _square_sum(matrix) / power if power > 0 else 0.0,
        0.0,
        parts=grid.parts(kept),
        method="magnitude",
        reason=storage.note(layout),
    )


def _square_sum(values: NDArray[np.float32]) -> float:
    flat = values.reshape(-1)
    return float(sum(np.dot(part, part) for part in np.array_split(flat, 1 + flat.size // 65536)))
