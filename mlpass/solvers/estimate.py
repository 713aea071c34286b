"""What a form would cost a weight, cheaply: each element by itself, and some of the rows."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlpass.arrays import host
from mlpass.solvers.gram import Gram, output_power
from mlpass.solvers.solve import make_problem
from mlpass.solvers.wanda import Uncorrelated
from mlpass.sparsity.layout import Layout
from mlpass.sparsity.mode import Mode
from mlpass.storage.storage import Storage

_RUN = 8  # rows that follow each other: those of a table, as most palettes have them
_FEWEST = 6  # runs
_ENOUGH = 1 << 13  # elements


class Excerpt(NamedTuple):
    """Some rows of a weight, or all of them.

    Attributes:
        weight: in the shape of `layout`.
        layout: of the rows.
    """

    weight: NDArray[Any]
    layout: Layout


def excerpt(weight: NDArray[Any], layout: Layout) -> Excerpt:
    """Returns runs of rows, evenly spaced, of a weight that is large; else all of it.

    Rows are solved for on one Gram each by itself, so some tell what all would. The loudest run is
    among them: it may make most of the outputs, and sets the table that all rows share.

    Args:
        weight: in the shape of `layout`.
        layout: of the weight.
    """
    groups, rows, channels, positions = layout.sizes
    count = max(_FEWEST, _ENOUGH // max(1, channels * positions * _RUN))
    if groups > 1 or rows <= count * _RUN:
        return Excerpt(weight, layout)
    matrix = layout.split(weight)[0].reshape(rows, -1)
    power = np.einsum("rc,rc->r", matrix, matrix, dtype=np.float32)
    loudest = int(power.argmax()) // _RUN * _RUN
    starts = np.linspace(0, rows - _RUN, count).astype(np.intp)
    starts[np.abs(starts - loudest).argmin()] = min(loudest, rows - _RUN)
    picked = (starts[:, None] + np.arange(_RUN)).reshape(-1)
    some = matrix[picked].reshape(-1, channels, positions)
    return Excerpt(some, Layout(some.shape, some.shape, ((), (0,), (1,), (2,))))


def estimated(rows: Excerpt, gram: Gram, mode: Mode, storage: Storage | None) -> float:
    """Returns the relative output error of a form whose elements are each decided by itself.

    What goes has the least magnitude times input norm, what stays the nearest value of the storage.

    Args:
        rows: of a weight.
        gram: of its inputs.
        mode: which elements may stay.
        storage: None where values are kept as they come.

    Raises:
        NotApplicable: the mode does not fit this weight.
    """
    problem = make_problem(rows.weight, gram.hosted, mode, rows.layout)
    pruned = Uncorrelated().prune(problem)
    found = pruned.weight
    if storage is not None:
        grid = storage.grid(rows.layout, host(problem.gram.diagonal), rows.weight.dtype)
        grid.fit(found, pruned.keep)
        found = grid.nearest(found) * pruned.keep
    whole = output_power(problem.weight, problem.gram)
    return output_power(found - problem.weight, problem.gram) / whole if whole > 0 else 0.0


def relative_error(
    weight: NDArray[Any], other: NDArray[Any], gram: Gram, layout: Layout, mode: Mode
) -> float:
    """Returns the relative error of the outputs of another weight.

    Args:
        weight: in the shape of `layout`.
        other: in its place.
        gram: of its inputs.
        layout: of the weight.
        mode: any.
    """
    problem = make_problem(other, gram.hosted, mode, layout, weight)
    whole = output_power(problem.target, problem.gram)
    changed = output_power(problem.weight - problem.target, problem.gram)
    return changed / whole if whole > 0 else 0.0
