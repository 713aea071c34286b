"""Tables that stand for a weight exactly: which blocks of it have few values, and their codes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from mlpass.parallel import map_items
from mlpass.sparsity.layout import Layout
from mlpass.storage.blocking import Blocking, channel_blockings, row_blockings, some_of

_MOST = 256  # entries of a table
_SAMPLE = 512  # blocks that are counted first
_AT_ONCE = 1 << 20  # elements whose codes are found together
_WIDE = 256  # elements of a block that is looked up by itself
Numbers = NDArray[np.unsignedinteger]


def few_valued(weight: Numbers, layout: Layout, masked: bool) -> Iterator[tuple[Blocking, int]]:
    """Yields the blocks that have no more values than a table has entries, and the most of one.

    Args:
        weight: its values as `numbered`.
        layout: of it.
        masked: whether zeros need no entry.
    """
    rows = list(row_blockings(layout))
    lists = _distinct(_blocks(weight, rows[0], masked))
    for blocking in rows if lists.shape[1] <= _MOST else ():
        most = int(_counts(lists.reshape(blocking.number, -1)).max())
        if most > _MOST:
            break
        yield blocking, most
    for blocking in channel_blockings(layout):
        blocks = _blocks(weight, blocking, masked)
        if int(_counts(some_of(blocks, _SAMPLE)).max()) <= min(_MOST, blocks.shape[1] // 2):
            most = int(_counts(blocks).max())
            if most <= _MOST:
                yield blocking, most


def tables_of(
    weight: Numbers, blocking: Blocking, entries: int, masked: bool
) -> tuple[NDArray[np.uint8], Numbers]:
    """Returns the codes of a weight, in its shape, and the (blocks, entries) of its tables.

    Args:
        weight: its values as `numbered`.
        blocking: what shares a table, of no more values than `entries`.
        entries: of a table.
        masked: whether zeros need no entry: then their codes stand for any value.
    """
    blocks = _blocks(weight, blocking, masked)
    tables = _distinct(blocks)
    tables = np.pad(tables, ((0, 0), (0, entries - tables.shape[1])), mode="edge")
    codes = np.zeros(blocks.shape, np.uint8)

    def look_up(start: int) -> None:
        if blocks.shape[1] >= _WIDE:
            codes[start] = np.searchsorted(tables[start], blocks[start])
            return
        part = slice(start, start + step)
        for entry in range(1, entries):  # of equal entries at the end the last
            np.copyto(codes[part], entry, where=blocks[part] >= tables[part, entry, None])

    step = 1 if blocks.shape[1] >= _WIDE else max(1, _AT_ONCE // blocks.shape[1])
    map_items(look_up, range(0, len(blocks), step))
    return blocking.join(codes), tables


def _blocks(weight: Numbers, blocking: Blocking, masked: bool) -> Numbers:
    """Returns a weight as blocks, its zeros another value of their block where they need none."""
    blocks = blocking.split(weight)
    if not masked:
        return blocks
    zero = numbered(np.zeros(1, f"f{weight.dtype.itemsize}"))[0]
    other = np.argmax(blocks != zero, axis=1)[:, None]
    return np.where(blocks == zero, np.take_along_axis(blocks, other, axis=1), blocks)


def numbered(weight: NDArray[np.generic]) -> Numbers:
    """Returns a weight's values as unsigned integers of the same order; -0 is 0."""
    size = 8 * weight.dtype.itemsize
    bits: Numbers = np.add(weight, weight.dtype.type(0)).view(f"u{size // 8}")
    top = bits.dtype.type(1 << (size - 1))
    return np.where(bits & top, ~bits, bits | top)


def valued(numbers: Numbers, dtype: np.dtype[np.generic]) -> NDArray[np.generic]:
    """Returns what `numbered` made integers of."""
    top = numbers.dtype.type(1 << (8 * numbers.dtype.itemsize - 1))
    return np.where(numbers & top, numbers ^ top, ~numbers).view(dtype)


def _counts(blocks: Numbers) -> NDArray[np.intp]:
    """Returns how many values each block has."""
    ordered = np.sort(blocks, axis=1)
    counts: NDArray[np.intp] = 1 + np.count_nonzero(ordered[:, 1:] != ordered[:, :-1], axis=1)
    return counts


def _distinct(blocks: Numbers) -> Numbers:
    """Returns the values of each block in order, the last again where others have more.

    They are as many as the block of the most values has, or all elements where that is too many.
    """
    ordered = np.sort(blocks, axis=1)
    new = np.ones(ordered.shape, bool)
    np.not_equal(ordered[:, 1:], ordered[:, :-1], out=new[:, 1:])
    counts = np.count_nonzero(new, axis=1)
    most = int(counts.max())
    if most > _MOST:
        return ordered
    found = np.repeat(ordered[:, -1:], most, axis=1)
    found[np.arange(most) < counts[:, None]] = ordered[new]
    return found
