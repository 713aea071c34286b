"""Tables that stand for a weight exactly: which blocks of it have few values, and their codes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from mlpass.storage.blocking import Blocking, channel_blockings, row_blockings
from mlpass.storage.storage import Rows

_MOST = 256  # entries of a table
_SAMPLE = 512  # blocks that have few values for their size, too
_WIDE = 256  # elements of a block that is looked up by itself
Numbers = NDArray[np.unsignedinteger]


def few_valued(weight: Rows, masked: bool) -> Iterator[tuple[Blocking, int]]:
    """Yields the blocks that have no more values than a table has entries, and the most of one.

    Args:
        weight: finite.
        masked: whether zeros need no entry.
    """
    yield from _few_in_rows(weight, masked)
    for blocking in channel_blockings(weight.layout):
        most = _most_in_parts(weight, blocking, masked)
        if most is not None:
            yield blocking, most


class _Counter:
    """The most values that a run of so many rows has, from what each row has."""

    def __init__(self, blocking: Blocking) -> None:
        self.blocking, (self.rows, _) = blocking, blocking.runs
        self.most, self.begun = 0, np.zeros(0, np.uint32)

    def add(self, start: int, lists: Numbers, values: Numbers) -> None:
        """Counts some rows.

        Args:
            start: the first of them.
            lists: (rows, values) that each has.
            values: that all of them have.
        """
        for at, end, whole in _cut(start, start + len(lists), self.rows):
            here = lists[at - start : end - start]
            if whole:
                self.most = max(self.most, int(_counts(here.reshape(whole, -1)).max()))
            else:
                self.begun = _joined(self.begun, values if end - at == len(lists) else here)
                self.most = max(self.most, len(self.begun))
            if end % self.rows == 0:
                self.begun = self.begun[:0]


def _few_in_rows(weight: Rows, masked: bool) -> Iterator[tuple[Blocking, int]]:
    """Yields what `few_valued` does of runs of whole rows, the shortest first."""
    counters = [_Counter(blocking) for blocking in row_blockings(weight.layout)]
    start = 0
    for numbers in map(numbered, weight.stored()):
        lists = _distinct(_without_zeros(numbers) if masked else numbers)
        values = np.unique(lists)
        for place, counter in enumerate(counters):
            counter.add(start, lists, values)
            if counter.most > _MOST:  # longer runs have more
                del counters[place:]
                break
        if not counters:
            return
        start += len(numbers)
    yield from ((counter.blocking, counter.most) for counter in counters)


def _most_in_parts(weight: Rows, blocking: Blocking, masked: bool) -> int | None:
    """Returns the most values that a block of input channels has; None where one has too many."""
    step, most, number = max(1, blocking.number // _SAMPLE), 0, 0
    for numbers in map(numbered, weight.stored()):
        blocks = _parts(numbers, blocking)
        counts = _counts(_without_zeros(blocks) if masked else blocks)
        most = max(most, int(counts.max()))
        sample = counts[-number % step :: step][: max(0, _SAMPLE - -(-number // step))]
        if most > _MOST or sample.max(initial=0) > blocks.shape[1] // 2:
            return None
        number += len(blocks)
    return most


def tables_of(weight: Rows, blocking: Blocking, entries: int, masked: bool) -> Numbers:
    """Returns the values of all blocks in order, (blocks, entries), the last again at the end.

    Args:
        weight: finite.
        blocking: what shares a table, of no more values than `entries`.
        entries: of a table.
        masked: whether zeros need no entry.
    """
    tables = np.zeros((blocking.number, entries), f"u{weight.dtype.itemsize}")
    (size, _), start, number = blocking.runs, 0, 0
    begun = np.zeros(0, tables.dtype)
    for numbers in map(numbered, weight.stored()):
        for at, end, whole in _cut(start, start + len(numbers), size):
            here = numbers[at - start : end - start]
            if whole:
                found = _parts(here, blocking) if size == 1 else here.reshape(whole, -1)
            else:
                begun = _joined(begun, here)
                if end % size:
                    continue
                found, begun = begun[None], begun[:0]
            found = _distinct(_without_zeros(found) if masked else found)
            tables[number : number + len(found), : found.shape[1]] = found
            tables[number : number + len(found), found.shape[1] :] = found[:, -1:]
            number += len(found)
        start += len(numbers)
    return tables


def _cut(start: int, stop: int, size: int) -> Iterator[tuple[int, int, int]]:
    """Yields the ends of whole runs of `size` rows, with their number, and of parts of one, 0."""
    while start < stop:
        whole = 0 if start % size else (stop - start) // size
        end = start + whole * size if whole else min((start // size + 1) * size, stop)
        yield start, end, whole
        start = end


def _joined(values: Numbers, others: Numbers) -> Numbers:
    """Returns all values of two arrays in order."""
    return np.unique(np.concatenate([values.astype(others.dtype), others.reshape(-1)]))


def codes_of(
    numbers: Numbers, start: int, blocking: Blocking, tables: Numbers
) -> NDArray[np.uint8]:
    """Returns the codes of some rows; what no table has stands for any value.

    Args:
        numbers: (rows, columns), as `numbered`.
        start: the first of the rows.
        blocking: what shares a table.
        tables: of all blocks, (blocks, entries).
    """
    (size, _), columns = blocking.runs, numbers.shape[1]
    codes = np.zeros(numbers.shape, np.uint8)
    if size * columns >= _WIDE and size > 1:
        stop = start + len(numbers)
        for block in range(start // size, -(-stop // size)):
            here = slice(max(block * size, start) - start, min((block + 1) * size, stop) - start)
            codes[here] = np.searchsorted(tables[block], numbers[here])
        return codes
    blocks, found = _parts(numbers, blocking), _parts(codes, blocking)
    if size > 1:
        chosen = tables[(start + np.arange(len(numbers))) // size]
    else:
        first = start * (len(blocks) // len(numbers))
        chosen = tables[first : first + len(blocks)]
    if blocks.shape[1] >= _WIDE:
        for block, table in enumerate(chosen):
            found[block] = np.searchsorted(table, blocks[block])
        return codes
    for entry in range(1, tables.shape[1]):  # of equal entries at the end the last
        np.copyto(found, np.uint8(entry), where=blocks >= chosen[:, entry, None])
    return codes


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


def _parts(rows: NDArray[np.unsignedinteger], blocking: Blocking) -> Numbers:
    """Returns (rows, columns) as (blocks, elements), where blocks lie within rows."""
    channels = blocking.layout.sizes[2]
    return rows.reshape(len(rows) * (channels // max(1, blocking.runs[1])), -1)


def _without_zeros(blocks: Numbers) -> Numbers:
    """Returns blocks, their zeros another value of their block where they have one."""
    zero = numbered(np.zeros(1, f"f{blocks.dtype.itemsize}"))[0]
    other = np.argmax(blocks != zero, axis=1)[:, None]
    return np.where(blocks == zero, np.take_along_axis(blocks, other, axis=1), blocks)


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
