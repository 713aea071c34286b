"""Matrix products on all cores, the same in every bit on any number of them.

BLAS is held to one thread meanwhile (`blas.one_blas_thread`): each job is one product of its
own, and what the jobs are follows from the sizes alone.
"""

from __future__ import annotations

from itertools import pairwise
from types import EllipsisType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlpass.arrays import Array, on_host
from mlpass.parallel import map_items

Float = NDArray[np.float32] | NDArray[np.float64]
# Some groups, some rows or columns of them, and all that follows.
Part = tuple[slice, slice, EllipsisType]

LIMIT = 1e38  # below the largest fp32: no sum of products can be above the largest sum of squares
FAINT = 1e-26  # of which a millionth is still a normal fp32

_JOBS = 16  # at most, along one axis: a power of two, as cores are
_ROWS = 144  # at least in a job: with fewer, a product is spent on packing its other side
_WORK = 1 << 19  # multiplications at least in a job, which then outweigh starting it
_BLOCK = 384  # columns at most, of a block of a symmetric product


def slabs(length: int, most: int) -> list[slice]:
    """Returns neighbouring slices of about one size over `range(length)`; a power of two of them.

    Args:
        length: how many items there are.
        most: how many slices at most.
    """
    count = 1 << (max(1, min(_JOBS, length, most)).bit_length() - 1)
    edges = [length * index // count for index in range(count + 1)]
    return [slice(*edge) for edge in pairwise(edges)]


def jobs(values: Array, work_each: int) -> list[Part]:
    """Returns jobs over (groups, rows, ...): slabs of groups, and of rows where groups are few.

    A device divides its work itself: there it is one job.
    """
    groups, rows = values.shape[:2]
    count = groups * rows * work_each // _WORK if on_host(values) else 1
    over_groups = slabs(groups, count)
    most = min(count, _JOBS) // len(over_groups)
    over_rows = slabs(rows, min(most, rows // _ROWS))
    return [(part, rest, ...) for part in over_groups for rest in over_rows]


def product(first: Any, second: Any, out: Any = None) -> Any:
    """Returns `first @ second`.

    Args:
        first: (groups, rows, inner).
        second: (groups, inner, columns).
        out: (groups, rows, columns), where to put it.
    """
    groups, rows, inner = first.shape
    if out is None:
        out = np.empty((groups, rows, second.shape[2]), first.dtype)

    def multiply(part: Part) -> None:
        np.matmul(first[part], second[part[0]], out=out[part])

    map_items(multiply, jobs(first, inner * second.shape[2]))
    return out


def pairs(
    groups: int, columns: int, work_each: int, block: int = _BLOCK
) -> list[tuple[slice, slice, slice]]:
    """Returns jobs over the upper half of symmetric matrices: (groups, rows, columns) of blocks.

    Blocks on the diagonal come last, since they take half as long.
    """
    count = -(-columns // block)
    edges = [columns * index // count for index in range(count + 1)]
    blocks = [slice(*edge) for edge in pairwise(edges)]
    upper = [(left, right) for at, left in enumerate(blocks) for right in blocks[at + 1 :]]
    upper += [(block, block) for block in blocks]
    over_groups = slabs(groups, groups * columns * columns * work_each // _WORK)
    return [(part, *pair) for pair in upper for part in over_groups]


def mirror(square: Any) -> None:
    """Copies the upper half of (groups, columns, columns) to the lower, in place.

    Args:
        square: right in the blocks of `pairs`.
    """

    def copy(pair: tuple[slice, slice, slice]) -> None:
        part, left, right = pair
        if left != right:
            square[part, right, left] = square[part, left, right].swapaxes(1, 2)
            return
        blocks = square[part, left, left]
        np.copyto(blocks, blocks.swapaxes(1, 2).copy(), where=np.tri(blocks.shape[1], k=-1) > 0)

    map_items(copy, pairs(len(square), square.shape[2], 1))
