"""Blocks of a weight that share a table or a scale."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from mlpass.errors import NotApplicable
from mlpass.sparsity.layout import Layout

_LEAST = 8  # input channels of a block
Element = TypeVar("Element", bound=np.generic)


class Blocking(NamedTuple):
    """Equal blocks of a weight.

    Attributes:
        layout: of the weight.
        small: of one value for each block.
    """

    layout: Layout
    small: Layout

    @property
    def number(self) -> int:
        """How many blocks there are."""
        return prod(self.small.sizes)

    @property
    def runs(self) -> tuple[int, int]:
        """How many rows and how many input channels a block has."""
        groups, rows, channels, _ = self.layout.sizes
        each = self.small.sizes
        return groups * rows // (each[0] * each[1]), channels // each[2]

    @property
    def text(self) -> str:
        """What a block is, in a few words."""
        rows, channels = self.runs
        if self.number == 1:
            return "the whole weight"
        if channels < self.layout.sizes[2]:
            return f"{channels} input channels of a row"
        return "a row" if rows == 1 else f"{rows} rows"

    @property
    def numbers(self) -> NDArray[np.generic]:
        """The number of each block, as they lie along the axes of the weight."""
        numbers: NDArray[np.generic] = self.small.join(
            np.arange(self.number).reshape(self.small.sizes)
        )
        return numbers

    def split(self, weight: NDArray[Element]) -> NDArray[Element]:
        """Returns a stored-shape array as (blocks, elements of a block)."""
        halves = self._halves
        split = self.layout.split(weight).reshape([size for half in halves for size in half])
        return split.transpose(0, 2, 4, 6, 1, 3, 5, 7).reshape(self.number, -1)

    def join(self, blocks: NDArray[Element]) -> NDArray[Element]:
        """Returns (blocks, elements of a block) in the stored shape."""
        outer, inner = zip(*self._halves, strict=True)
        split = blocks.reshape(*outer, *inner).transpose(0, 4, 1, 5, 2, 6, 3, 7)
        joined: NDArray[Element] = self.layout.join(split.reshape(self.layout.sizes))
        return joined

    @property
    def _halves(self) -> list[tuple[int, int]]:
        """How many blocks there are along each of the four sizes, and of how many elements."""
        pairs = zip(self.small.sizes, self.layout.sizes, strict=True)
        return [(count, size // count) for count, size in pairs]


def row_blockings(layout: Layout) -> Iterator[Blocking]:
    """Yields the runs of whole rows that a weight divides into, the shortest first."""
    rows = layout.all_rows
    for size in divisors(rows):
        try:
            yield Blocking(layout, layout.tabled(rows // size))
        except NotApplicable:  # its axes do not divide so
            continue


def channel_blockings(layout: Layout) -> Iterator[Blocking]:
    """Yields the blocks of input channels that a row divides into, the longest first."""
    channels = layout.sizes[2]
    for size in reversed(divisors(channels)):
        if _LEAST <= size < channels:
            try:
                yield Blocking(layout, layout.reduced(channels // size))
            except NotApplicable:  # they are several axes
                return


def divisors(number: int) -> list[int]:
    """Returns all divisors of a number, ascending."""
    low = [each for each in range(1, int(number**0.5) + 1) if number % each == 0]
    return sorted({*low, *(number // each for each in low)})


def some_of(blocks: NDArray[Element], count: int) -> NDArray[Element]:
    """Returns up to `count` of the rows of an array, from all over it."""
    return blocks[:: max(1, len(blocks) // count)][:count]
