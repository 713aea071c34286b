"""The exact k-th smallest score, and the keep mask that follows from it.

Scores are non-negative floats. The bits of such floats, read as unsigned integers, are in the same
order as the floats: so every comparison here is one of integers, which is many times faster than
one of float16, and a histogram over them is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from mlpass.buffers import empty
from mlpass.parallel import map_slabs, slab_number

Keys = NDArray[np.unsignedinteger[Any]]
Mask = NDArray[np.bool_]

_FEW = 1 << 13  # keys that are parted as they are
_SAMPLE = 1 << 16  # keys at most that set the first bracket
_GATHERED = 1 << 20  # keys at most that are copied out of a bracket, to be parted there
_NARROW = 1 << 10  # keys between the ends of a bracket below which a histogram is faster
_BINS = 1 << 16


class KeySource(Protocol):
    """One of several arrays that are ranked together: its size, and its keys when called."""

    size: int

    def __call__(self) -> Keys:
        """Returns its keys, 1-D."""
        ...

    def sample(self, step: int) -> Keys:
        """Returns about one key of `step`, from all over, as an array of its own."""
        ...


class Cut(NamedTuple):
    """What to zero: every score below `key`, and the first `ties` of those equal to it."""

    key: int
    ties: int


def keys_of(score: NDArray[np.generic]) -> Keys:
    """Returns the bits of non-negative float scores as unsigned integers of the same order."""
    unsigned = {2: np.uint16, 4: np.uint32, 8: np.uint64}[score.dtype.itemsize]
    return score.view(unsigned)


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
    return lowest_of_many([_Held(keys)], count)


def lowest_of_many(sources: Sequence[KeySource], count: int) -> Cut:
    """Returns the cut that zeroes exactly the `count` lowest keys of all sources together.

    A sample sets a bracket that the wanted key should be in. Few keys are copied out of it; where
    they are many, it is narrowed by histograms until one key is left, with one reading of the
    sources for each step. Memory is that of one source, whatever their number.
    """
    if count == 0:
        return Cut(0, 0)
    total = sum(source.size for source in sources)
    low, high, share = _first_bracket(sources, count, total)
    if share * total <= _GATHERED and high - low >= _NARROW:
        below, gathered = _gather_within(sources, low, high)
        if below < count <= below + gathered.size:
            cut = _parted(gathered, count - below)
            return cut._replace(key=low + cut.key)
    while True:
        below, histogram, shift = _count_within(sources, low, high)
        inside = int(histogram.sum())
        if not below < count <= below + inside:  # the sample misled: start from all keys
            low, high = 0, _largest(sources)
            continue
        cumulative = below + np.cumsum(histogram)
        bin_index = int(np.searchsorted(cumulative, count))
        before = below if bin_index == 0 else int(cumulative[bin_index - 1])
        low += bin_index << shift
        high = min(high, low + (1 << shift) - 1)
        if shift == 0:
            return Cut(low, count - before)


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

    def sample(self, step: int) -> Keys:
        return self.keys[::step].copy()


def _largest(sources: Sequence[KeySource]) -> int:
    return max(int(source().max()) for source in sources if source.size)


def _parted(keys: Keys, count: int) -> Cut:
    """Returns the cut of keys that it may put in another order."""
    keys.partition(count - 1)
    key = int(keys[count - 1])
    return Cut(key, count - int(np.count_nonzero(keys[:count] < key)))


def _first_bracket(sources: Sequence[KeySource], count: int, total: int) -> tuple[int, int, float]:
    """Returns keys that the wanted one lies between in all but freak cases.

    The third value is the share of all keys that is expected there.
    """
    wanted = min(_SAMPLE, (3 * total) ** (2 / 3))  # a larger one would cost more than it saves
    step = max(1, int(total / wanted)) | 1  # odd: in step with no power-of-two row length
    sample = np.concatenate([source.sample(step) for source in sources])
    share = count / total
    margin = 6 * (share * (1 - share) / sample.size) ** 0.5 + 2 / sample.size
    first = int(max(0.0, share - margin) * (sample.size - 1))
    last = int(np.ceil(min(1.0, share + margin) * (sample.size - 1)))
    sample.partition((first, last))
    low, high = (0 if first == 0 else int(sample[first])), int(sample[last])
    return low, high, np.count_nonzero((sample >= low) & (sample <= high)) / sample.size


def _gather_within(sources: Sequence[KeySource], low: int, high: int) -> tuple[int, Keys]:
    """Returns how many keys are below `low`, and those in [low, high], less `low`."""
    below, inside = 0, []
    for source in sources:
        keys = source()

        def gather(start: int, stop: int, keys: Keys = keys) -> tuple[int, Keys]:
            return _within(keys[start:stop], low, high)

        for slab_below, slab_inside in map_slabs(gather, keys.size):
            below += slab_below
            inside.append(slab_inside)
    return below, np.concatenate(inside)


def _within(keys: Keys, low: int, high: int) -> tuple[int, Keys]:
    """Returns how many keys are below `low`, and those in [low, high], less `low`."""
    above = keys - keys.dtype.type(low)  # wraps for keys below low: then it is large
    width = keys.dtype.type(min(high - low, np.iinfo(keys.dtype).max))
    return int(np.count_nonzero(keys < low)), np.compress(above <= width, above)


def _count_within(
    sources: Sequence[KeySource], low: int, high: int
) -> tuple[int, NDArray[np.int64], int]:
    """Returns how many keys are below `low`, and a histogram of those in [low, high].

    The third value is the log2 of a bin's width in keys.
    """
    shift = max(0, (high - low).bit_length() - (_BINS.bit_length() - 1))
    bins = ((high - low) >> shift) + 1
    below = 0
    histogram = np.zeros(bins, np.int64)
    for source in sources:
        keys = source()

        def count(start: int, stop: int, keys: Keys = keys) -> tuple[int, NDArray[np.int64]]:
            slab_below, inside = _within(keys[start:stop], low, high)
            return slab_below, np.bincount((inside >> shift).astype(np.intp), minlength=bins)

        for slab_below, slab_counts in map_slabs(count, keys.size):
            below += slab_below
            histogram += slab_counts
    return below, histogram, shift
