"""Tables that rows are gathered from: not multiplied with, so what counts is how often, by row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from mlpass.arrays import Array, Namespace
from mlpass.errors import NotApplicable
from mlpass.runtime.kernels.arguments import integer
from mlpass.runtime.kernels.indexing import IGNORE, axis_of, combine_rows, read_indices
from mlpass.runtime.kernels.registry import Arguments
from mlpass.sparsity.layout import Layout
from mlpass.weights.ops.record import WeightOp, register


def gather_layout(shape: Sequence[int], settings: Mapping[str, object], position: int) -> Layout:
    """Never returns a layout: an op that only reads rows says nothing of the other axes.

    Raises:
        NotApplicable: always.
    """
    raise NotApplicable("a gather table has no input and output channels")


def table_layout(shape: tuple[int, ...]) -> Layout:
    """Returns the layout of a table that is gathered from alone: each row meets its own input."""
    return Layout(shape, shape, ((), tuple(range(1, len(shape))), (0,), ()))


def gather_inputs(
    xp: Namespace, arguments: Arguments, kernel: Callable[..., object], position: int
) -> Iterator[Array]:
    """Yields how often each row is read.

    Raises:
        NotApplicable: rows are not what is read.
    """
    yield row_counts(xp, arguments)


def row_counts(xp: Namespace, arguments: Arguments) -> Array:
    """Returns how often `gather` reads each row of its table: int64, (rows,).

    Negative indices count from the end; those out of range, which read nothing, do not count.

    Raises:
        NotApplicable: it does not gather along the table's first axis.
    """
    table, indices = arguments["x"], arguments["indices"]
    axis = axis_of(integer(arguments.get("axis", 0)), table.ndim)
    if axis:
        raise NotApplicable(
            f"gather reads along axis {axis} of its table, so it does not read rows"
        )
    size = table.shape[0]
    places = xp.reshape(xp.astype(indices, xp.int64), (-1,))
    places, inside = read_indices(xp, xp.where(places < 0, places + size, places), size, IGNORE)
    once = xp.ones_like(places) if inside is None else xp.astype(inside, xp.int64)
    none = xp.zeros((size, 1), dtype=xp.int64, device=places.device)
    return combine_rows(xp, none, places, once[:, None], "add")[:, 0]


register(WeightOp("gather", "x", gather_layout, gather_inputs, gathered=True, adds=True))
