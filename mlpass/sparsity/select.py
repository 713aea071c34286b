"""The exact k-th smallest score, and the keep mask that follows from it.

Scores are non-negative floats. The bits of such floats, read as unsigned integers, are in the same
order as the floats: so every comparison here is one of integers, which is many times faster than
one of float16, and a histogram over them is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from mlpass.buffers import empty
from mlpass.parallel import SLAB, map_items, map_slabs, slab_number, thread_count

Keys = NDArray[np.unsignedinteger]
Mask = NDArray[np.bool_]

_FEW = 1 << 13  # keys that are parted as they are
_DIGIT = 16  # bits of a key that one reading of all keys settles


class KeySource(Protocol):
    """One of several arrays that are ranked together: its size, and its keys when called."""

    @property
    def size(self) -> int:
        """The number of its keys."""
        ...

    def __call__(self) -> Keys:
        """Returns its keys, 1-D, of the type that all sources share."""
        ...


class Cut(NamedTuple):
    """What to zero: every score below `key`, and the first `ties` of those equal to it."""

    key: int
    ties: int


def keys_type(dtype: np.dtype[np.generic]) -> np.dtype[np.unsignedinteger]:
    """Returns the type of the keys of scores of a float type."""
    kinds: dict[int, type[np.unsignedinteger]] = {2: np.uint16, 4: np.uint32, 8: np.uint64}
    return np.dtype(kinds[dtype.itemsize])


def keys_of(score: NDArray[np.generic]) -> Keys:
    """Returns the bits of non-negative float scores as unsigned integers of the same order."""
    return score.view(keys_type(score.dtype))


def lowest(keys: Keys, count: int) -> Cut:
    """Returns the cut that zeroes exactly the `count` lowest of `keys` (1-D, contiguous).

    Args:
        keys: from `keys_of`, flattened.
        count: 0 to `keys.size`.
    """
    if count == 0:
        return Cut(0, 0)
    if keys.size <= _FEW:
        return _parted(keys.copy(), count)
    if keys.itemsize > 2:  # a sample saves the first of two readings, in all but freak cases
        low, high = _bracket(keys, count)
        parts = map_slabs(lambda start, stop: _within(keys[start:stop], low, high), keys.size)
        below, inside = sum(part[0] for part in parts), np.concatenate([part[1] for part in parts])
        if below < count <= below + inside.size <= below + keys.size // 8:
            return _parted(inside, count - below)
    slabs = [_Held(keys[start : start + SLAB]) for start in range(0, keys.size, SLAB)]
    return lowest_of_many(slabs, count, keys.dtype)


def lowest_of_many(
    sources: Sequence[KeySource], count: int, dtype: np.dtype[np.unsignedinteger]
) -> Cut:
    """Returns the cut that zeroes exactly the `count` lowest keys of all sources together.

    The wanted key is found digit by digit, 16 bits each and the highest first, by a histogram of
    the keys that have the digits before it: keys of 2 bytes are read once, those of 4 twice. As
    many sources are held at a time as there are threads.

    Args:
        sources: that are ranked; the smaller, the less memory.
        count: 0 to the number of all keys.
        dtype: of the keys.
    """
    return lowest_by(partial(_histogram, sources), count, dtype)


def lowest_by(
    histogram: Callable[[int, int], NDArray[np.int64]],
    count: int,
    dtype: np.dtype[np.unsignedinteger],
) -> Cut:
    """Returns the cut that zeroes exactly the `count` lowest keys, by histograms of their digits.

    Args:
        histogram: returns what `digits_of` does of all keys, given a prefix and a shift.
        count: 0 to the number of all keys.
        dtype: of the keys.
    """
    if count == 0:
        return Cut(0, 0)
    key, left = 0, count
    for shift in range(8 * dtype.itemsize - _DIGIT, -1, -_DIGIT):
        ends = np.cumsum(histogram(key, shift))
        digit = int(np.searchsorted(ends, left))
        left -= int(ends[digit - 1]) if digit else 0
        key = key << _DIGIT | digit
    return Cut(key, left)


def count_keys(sources: Sequence[KeySource], key: int) -> int:
    """Returns how many keys of all sources together are equal to `key`."""
    return sum(map_items(lambda source: int(np.count_nonzero(source() == key)), sources))


def _histogram(sources: Sequence[KeySource], prefix: int, shift: int) -> NDArray[np.int64]:
    """Returns how often each value of the digit above `shift` bits follows the digits `prefix`."""
    threads = thread_count()

    def count(mine: Sequence[KeySource]) -> NDArray[np.int64]:
        counts = np.zeros(1 << _DIGIT, np.int64)
        for source in mine:
            counts += digits_of(source(), prefix, shift)
        return counts

    total = np.zeros(1 << _DIGIT, np.int64)
    for counts in map_items(count, [sources[each::threads] for each in range(threads)]):
        total += counts
    return total


def digits_of(keys: Keys, prefix: int, shift: int) -> NDArray[np.int64]:
    """Returns how often each value of the digit above `shift` bits follows the digits `prefix`."""
    above = shift + _DIGIT
    if above < 8 * keys.dtype.itemsize:
        keys = np.compress(keys >> keys.dtype.type(above) == prefix, keys)
        keys = keys & keys.dtype.type((1 << above) - 1)
    return np.bincount(keys >> keys.dtype.type(shift) if shift else keys, minlength=1 << _DIGIT)


def keep_above(keys: Keys, cut: Cut) -> tuple[Mask, int]:
    """Returns the keep mask of 1-D `keys` under `cut`, and how many of its ties are left over."""
    keep: Mask = empty((keys.size,), bool)

    def count_ties(start: int, stop: int) -> int:
        return int(np.count_nonzero(keys[start:stop] == cut.key))

    ties = map_slabs(count_ties, keys.size)
    before = np.cumsum([0, *ties])

    def compare(start: int, stop: int) -> None:
        slab, kept = keys[start:stop], keep[start:stop]
        number = slab_number(start)
        to_zero = cut.ties - int(before[number])
        if to_zero >= ties[number]:
            np.greater(slab, cut.key, out=kept)
            return
        np.greater_equal(slab, cut.key, out=kept)
        if to_zero > 0:
            kept[np.flatnonzero(slab == cut.key)[:to_zero]] = False

    map_slabs(compare, keys.size)
    return keep, max(0, cut.ties - int(before[-1]))


class _Held:
    """A key source that is in memory."""

    def __init__(self, keys: Keys) -> None:
        self.keys = keys
        self.size = keys.size

    def __call__(self) -> Keys:
        return self.keys


def _bracket(keys: Keys, count: int) -> tuple[int, int]:
    """Returns two keys that the wanted one most probably lies between, as a sample has them."""
    sample = keys[:: max(1, keys.size >> 15) | 1].copy()  # odd: in no step with the length of rows
    share = count / keys.size
    margin = 6 * (share * (1 - share) / sample.size) ** 0.5 + 2 / sample.size
    first = int(max(0.0, share - margin) * (sample.size - 1))
    last = int(np.ceil(min(1.0, share + margin) * (sample.size - 1)))
    sample.partition((first, last))
    return (0 if first == 0 else int(sample[first])), int(sample[last])


def _within(keys: Keys, low: int, high: int) -> tuple[int, Keys]:
    """Returns how many keys are below `low`, and those in [low, high]."""
    above = keys - keys.dtype.type(low)  # wraps for keys below low: then it is large
    width = keys.dtype.type(high - low)
    return int(np.count_nonzero(keys < low)), np.compress(above <= width, keys)


def _parted(keys: Keys, count: int) -> Cut:
    """Returns the cut of keys that it may put in another order."""
    keys.partition(count - 1)
    key = int(keys[count - 1])
    return Cut(key, count - int(np.count_nonzero(keys[:count] < key)))
