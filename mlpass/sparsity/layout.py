"""How a weight, as stored, becomes the matrix of its dot products.

A weight matrix has rows (outputs) and columns (the inputs of one dot product). The columns of a
convolution are input channels times kernel positions, so they are kept as two axes here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np

from mlpass.arrays import Kind, permuted, reshaped
from mlpass.errors import NotApplicable


@dataclass(frozen=True)
class Layout:
    """Which axes of a stored weight are groups, rows, channels and kernel positions.

    Attributes:
        shape: as stored.
        split_shape: `shape` with its grouped axis, if any, split in (groups, rest).
        axes: axes of `split_shape` that make up each of (groups, rows, channels, positions).
    """

    shape: tuple[int, ...]
    split_shape: tuple[int, ...]
    axes: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...]]

    @cached_property
    def order(self) -> tuple[int, ...]:
        """All axes of `split_shape`, groups first."""
        return tuple(axis for part in self.axes for axis in part)

    @property
    def consistent(self) -> bool:
        """Whether it covers every axis once, and as many elements as there are."""
        axes = range(len(self.split_shape))
        return sorted(self.order) == list(axes) and prod(self.split_shape) == prod(self.shape)

    @cached_property
    def sizes(self) -> tuple[int, int, int, int]:
        """How many groups, rows, channels and positions there are."""
        groups, rows, channels, positions = (
            prod(self.split_shape[axis] for axis in part) for part in self.axes
        )
        return groups, rows, channels, positions

    @property
    def columns(self) -> int:
        """How many columns the weight matrix has: channels times positions."""
        return self.sizes[2] * self.sizes[3]

    @property
    def all_rows(self) -> int:
        """How many rows all groups have together."""
        return self.sizes[0] * self.sizes[1]

    def reduced(self, blocks: int) -> Layout:
        """Returns the layout of one value for each row and block of input channels.

        Args:
            blocks: how many blocks the input channels make.

        Raises:
            NotApplicable: there are blocks, and the input channels are several axes.
        """
        channels = self.axes[2]
        if blocks > 1 and len(channels) > 1:
            raise NotApplicable("its input channels are several axes")
        sizes = list(self.split_shape)
        for axis in (*channels, *self.axes[3]):
            sizes[axis] = 1
        if blocks > 1:
            sizes[channels[0]] = blocks
        return self._resized(sizes)

    def tabled(self, tables: int) -> Layout:
        """Returns the layout of one value for each of `tables` equal runs of rows.

        Args:
            tables: how many; they follow each other through the rows of all groups.

        Raises:
            NotApplicable: the rows of one table are not a block of the stored axes.
        """
        sizes = [1] * len(self.split_shape)
        rows = self.all_rows // tables
        for axis in reversed((*self.axes[0], *self.axes[1])):  # the last one counts the fastest
            size = self.split_shape[axis]
            if rows % size == 0:
                rows //= size
            elif size % rows == 0:
                sizes[axis], rows = size // rows, 1
            else:
                raise NotApplicable(f"{tables} tables do not split its axes into whole blocks")
        return self._resized(sizes)

    def _resized(self, sizes: Sequence[int]) -> Layout:
        """Returns the layout of an array of other sizes, `split_shape`'s axis by axis."""
        merged = len(sizes) > len(self.shape)
        shape = (sizes[0] * sizes[1], *sizes[2:]) if merged else tuple(sizes)
        return Layout(shape, tuple(sizes), self.axes)

    def split(self, array: Kind) -> Kind:
        """Returns a stored-shape array as (groups, rows, channels, positions)."""
        return reshaped(permuted(reshaped(array, self.split_shape), self.order), self.sizes)

    def matrix(self, array: Kind) -> Kind:
        """Returns a stored-shape array as the weight matrix, (groups, rows, columns)."""
        return reshaped(self.split(array), (*self.sizes[:2], self.columns))

    def join(self, array: Kind) -> Kind:
        """Returns an array of (groups, rows, channels, positions) in the stored shape."""
        split = reshaped(array, [self.split_shape[axis] for axis in self.order])
        return reshaped(permuted(split, np.argsort(self.order).tolist()), self.shape)


def matrix_layout(rows: int, columns: int) -> Layout:
    """Returns the layout of a plain (rows, columns) matrix."""
    return Layout((rows, columns), (rows, columns), ((), (0,), (1,), ()))


def grouped_layout(layout: Layout) -> Layout:
    """Returns the layout of the same weight as (groups, rows, columns), positions last."""
    shape = (*layout.sizes[:2], layout.columns)
    if not layout.axes[3]:
        return Layout(shape, shape, ((0,), (1,), (2,), ()))
    return Layout(shape, layout.sizes, ((0,), (1,), (2,), (3,)))


def transposed_layout(groups: int, rows: int, channels: int, positions: int) -> Layout:
    """Returns the layout of a (groups, columns, rows) array of transposed weight matrices."""
    shape = (groups, channels * positions, rows)
    return Layout(shape, (groups, channels, positions, rows), ((0,), (3,), (1,), (2,)))
