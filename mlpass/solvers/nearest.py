"""One weight in a storage without samples: each kept element by itself, at the nearest value."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlpass.arrays import cast_like, host
from mlpass.solvers.problem import Pruned
from mlpass.solvers.rounding import rounded
from mlpass.solvers.solve import Solution
from mlpass.sparsity.layout import Layout
from mlpass.sparsity.ranking import Mask
from mlpass.storage.storage import Storage


def nearest(
    weight: NDArray[Any], keep: Mask, storage: Storage, layout: Layout
) -> Solution[NDArray[Any]]:
    """Returns a masked weight with every kept element at the nearest value that a storage has.

    The storage is fitted as where all inputs are equally loud and do not correlate, and so is the
    error: that of the weight itself.

    Args:
        weight: of the shape of `layout`.
        keep: the same shape.
        storage: to round to.
        layout: of the weight.

    Raises:
        NotApplicable: the storage does not fit this weight.
    """
    groups, rows, channels, positions = layout.sizes
    shape = (groups, rows, channels * positions)
    matrix = layout.split(weight).reshape(shape).astype(np.float32)
    kept = layout.split(keep).reshape(shape)
    masked = np.where(kept, matrix, np.float32(0))
    grid = storage.grid(layout, np.ones((groups, shape[2]), np.float32), weight.dtype)
    rounding = grid.fit(masked, kept)(np.arange(shape[2]))
    found = host(rounded(Pruned(masked, kept), rounding))
    whole = float(np.square(matrix, dtype=np.float64).sum())
    change = float(np.square(found - matrix, dtype=np.float64).sum())
    return Solution(
        cast_like(layout.join(found), weight),
        keep,
        change / whole if whole > 0 else 0.0,
        0.0,
        parts=grid.parts(kept),
        method="magnitude",
    )
