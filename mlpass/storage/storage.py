"""What a storage is: how kept weights are rounded, and the named parts that stand for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from math import prod
from typing import ClassVar, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from mlpass.arrays import Array
from mlpass.errors import NotApplicable
from mlpass.options import phrase_of, text_of
from mlpass.registries import STORAGES
from mlpass.sparsity.layout import Layout
from mlpass.sparsity.ranking import Mask

Floats = NDArray[np.float32]
Parts = Mapping[str, NDArray[np.generic]]

# Given a column's index in the sweep and its values, (groups, rows), the values to store.
Rounding = Callable[[int, Array], Array]
# Given column indices in a sweep's order, the rounding of that sweep.
MakeRounding = Callable[[NDArray[np.intp]], Rounding]

_IOS18 = 18
NEEDS_IOS18 = (
    'needs iOS18: minimum_deployment_target="iOS18" (--minimum-deployment-target iOS18) raises '
    "the model"
)


class Grid(Protocol):
    """The values that a weight may take, while they are fitted to it."""

    def fit(self, weight: Array, keep: Array) -> MakeRounding:
        """Fixes the values to a pruned weight; returns what rounds columns, and notes their codes.

        Args:
            weight: (groups, rows, columns), zero where it is not kept.
            keep: the same shape.
        """
        ...

    def nearest(self, weight: Array) -> Floats:
        """Returns each element's nearest value, all columns at once, and notes their codes.

        Args:
            weight: (groups, rows, columns), once the values are fixed.
        """
        ...

    def rounding(self, order: NDArray[np.intp]) -> Rounding:
        """Returns what rounds columns in an order, once the values are fixed: see `fit`."""
        ...

    def parts(self, keep: Array) -> dict[str, NDArray[np.generic]]:
        """Returns the parts that stand for the weight that was rounded last.

        Args:
            keep: its mask, (groups, rows, columns).
        """
        ...


class Rows(Protocol):
    """A pruned weight of which some rows are read at a time, those of all groups in one order."""

    @property
    def layout(self) -> Layout:
        """Of the weight."""
        ...

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """In which it is stored."""
        ...

    @property
    def kept(self) -> int:
        """How many of its elements are kept."""
        ...

    def read(self, start: int, stop: int) -> Iterator[tuple[Floats, Mask]]:
        """Yields runs of the rows from one to another, (rows, columns), zero where not kept."""
        ...

    def stored(self) -> Iterator[NDArray[np.generic]]:
        """Yields runs of all rows as `read` does, in the type in which the weight is stored."""
        ...


class Bands(NamedTuple):
    """How a storage rounds bands of rows: each by a grid of its own, as one grid would all rows.

    Attributes:
        rows: that are fitted together: a band is some such runs, the last of a weight may be less.
        grid: returns the grid of the band that begins at a row, given its layout.
        joined: returns the parts of the weight but for its codes, given those of all bands, one
            after the other.
        fitted: whether the values are fixed already: then a band may be a part of one run, too.
    """

    rows: int
    grid: Callable[[int, Layout], Grid]
    joined: Callable[[Parts], Parts]
    fitted: bool = False

    def rounded(
        self, start: int, weight: Floats, keep: Mask, layout: Layout
    ) -> tuple[dict[str, NDArray[np.generic]], Floats]:
        """Returns the parts of a band, codes as (rows, columns), and its values.

        Args:
            start: its first row.
            weight: (rows, columns), zero where it is not kept.
            keep: the same shape.
            layout: of the whole weight.
        """
        grid = self.grid(start, self.layout_of(len(weight), layout))
        grid.fit(weight[None], keep[None])
        values = grid.nearest(weight[None])[0]
        parts = grid.parts(keep[None])
        parts["codes"] = parts["codes"].reshape(weight.shape)
        return parts, values

    @staticmethod
    def layout_of(rows: int, layout: Layout) -> Layout:
        """Returns the layout of a band of some rows of a weight."""
        shape = (rows, *layout.sizes[2:])
        return Layout(shape, shape, ((), (0,), (1,), (2,)))


@runtime_checkable
class Movable(Protocol):
    """A grid whose values can be fitted anew to the codes: sets of values, each of its own rows."""

    def fit(self, weight: Array, keep: Array, *, roughly: bool = False) -> MakeRounding:
        """Fixes the values as `Grid.fit` does; roughly where they are only a start to be moved."""
        ...

    def spread(self, values: Floats) -> Floats:
        """Returns what the elements change by where the grid's values do, codes as they are.

        Args:
            values: (sets, values), what they change by.
        """
        ...

    def gathered(self, weight: Floats, *, squared: bool = False) -> Floats:
        """Returns the transpose of `spread`: for each value the sum over the elements that take it.

        Args:
            weight: (groups, rows, columns).
            squared: whether to take the squares of what the elements change by.
        """
        ...

    def moved(self, values: Floats) -> Floats:
        """Returns the weight, (groups, rows, columns), with the grid's values changed.

        Args:
            values: (sets, values), what they change by.
        """
        ...


def begin_fit(grid: Grid, weight: Array, keep: Array) -> MakeRounding:
    """Fixes the values as `Grid.fit` does, as a start where they can be moved."""
    if isinstance(grid, Movable):
        return grid.fit(weight, keep, roughly=True)
    return grid.fit(weight, keep)


class Stored(NamedTuple):
    """How parts are stored in one opset.

    Attributes:
        form: the op type of the form that is not sparse.
        codes: the parameter of that op that the codes are.
        element: the MIL type of a code.
        others: the op's other parameters.
        packed: whether the op takes codes as the bytes that they are packed in.
    """

    form: str
    codes: str
    element: str
    others: dict[str, NDArray[np.generic]]
    packed: bool = False


class Form(Protocol):
    """How parts are stored: as a `Storage` does it, or as only exact forms do."""

    def stored(self, parts: Parts, layout: Layout, opset: int) -> Stored:
        """Returns how the parts are stored in one opset."""
        ...


class Storage:
    """How a weight's values are kept.

    A mask is written beside codes where both together are smaller than codes for all elements;
    where not, zeros are codes as well. So what is stored is known before it is solved for.

    Attributes:
        exact: whether values stay as they are, and each weight takes the smallest form of them.
    """

    exact: ClassVar[bool] = False

    @property
    def code_bits(self) -> int:
        """The bits of a code."""
        raise NotImplementedError

    @property
    def apart(self) -> float:
        """The share of elements that are kept as they are, beside the codes of all."""
        return 0.0

    @property
    def needs_mask(self) -> bool:
        """Whether codes have no room for a zero, so that zeros always take a mask."""
        return False

    @property
    def needs_ios18(self) -> str | None:
        """Which of its options no form before iOS18 has; None where there is one."""
        return "this storage"

    @property
    def in_ios16(self) -> str:
        """What of it iOS16 has instead, for a message."""
        return "no storage"

    def __str__(self) -> str:
        """How reports show it."""
        name = STORAGES.name_of(self)
        return text_of(self, "" if name is None else STORAGES[name].words["lead"])

    @property
    def phrase(self) -> str:
        """How people say it: "int4 in blocks of 32"."""
        return phrase_of(self)

    def grid(self, layout: Layout, power: Floats, dtype: np.dtype[np.generic]) -> Grid:
        """Returns the grid of one weight.

        Args:
            layout: of the weight as it is stored, whose shape `codes` has.
            power: (groups, columns), how much an error in each column counts.
            dtype: in which it is stored.
        """
        raise NotImplementedError

    def bands(self, weight: Rows) -> Bands | None:
        """Returns how it rounds a weight some rows at a time, as its grid would all at once.

        None where it has to hold the whole weight. Where some elements are kept apart, this is of
        the others alone, and the grids are `Trimmed`.
        """
        return None

    def note(self, layout: Layout) -> str | None:
        """Returns what of it becomes another thing for a weight of this layout; None if nothing."""
        return None

    def stored(self, parts: Parts, layout: Layout, opset: int) -> Stored:
        """Returns how the parts of a grid are stored.

        Raises:
            NotApplicable: the opset's form cannot say it; the text says what can.
        """
        raise NotImplementedError

    def others_nbytes(self, layout: Layout, itemsize: int, opset: int) -> int:
        """Returns the bytes of all that is stored beside codes and mask."""
        raise NotImplementedError

    def masked(self, size: int, kept: int) -> bool:
        """Returns whether a mask is written where `kept` of `size` elements are not zero."""
        if kept == size:
            return False
        return self.needs_mask or self._masked_nbytes(size, kept) < self._codes_nbytes(size)

    def nbytes(
        self,
        layout: Layout,
        dtype: np.dtype[np.generic] | type,
        kept: int | None = None,
        opset: int = 18,
    ) -> int:
        """Returns the bytes that a weight is stored in: codes, mask, tables and scales.

        Args:
            layout: of the weight.
            dtype: of the weight, fp16 or fp32.
            kept: how many of its elements are stored as other than zero; None for no zeros asked
                for, whatever the weight is.
            opset: of the function it is in.
        """
        size = prod(layout.shape)
        kept = size if kept is None else kept
        masked = self.masked(size, kept)
        codes = self._masked_nbytes(size, kept) if masked else self._codes_nbytes(size)
        itemsize = np.dtype(dtype).itemsize
        count = outlier_count(self.apart, size, kept)
        apart = packed_nbytes(size, 1) + count * itemsize if count else 0
        return codes + self.others_nbytes(layout, itemsize, opset) + apart

    def bits_per_weight(
        self,
        layout: Layout,
        dtype: np.dtype[np.generic] | type,
        kept: int | None = None,
        opset: int = 18,
    ) -> float:
        """Returns `nbytes` as bits for each element."""
        return 8 * self.nbytes(layout, dtype, kept, opset) / max(1, prod(layout.shape))

    def _codes_nbytes(self, count: int) -> int:
        return packed_nbytes(count, self.code_bits)

    def _masked_nbytes(self, size: int, kept: int) -> int:
        return packed_nbytes(size, 1) + self._codes_nbytes(kept)


def packed_nbytes(count: int, bits: int) -> int:
    """Returns how many bytes some elements take, packed."""
    return -(-count * bits // 8)


def outlier_count(share: float, size: int, kept: int) -> int:
    """Returns how many elements of a weight are kept apart, of those that are kept at all."""
    return min(int(share * size), kept)


def dividing(size: int, wanted: int) -> int:
    """Returns the largest divisor of `size` up to `wanted`, all of it where that is under half.

    So a run that is to share something becomes a little shorter, or is all there is.
    """
    if wanted >= size:
        return size
    found = next(each for each in range(wanted, 0, -1) if size % each == 0)
    return found if 2 * found >= wanted else size


def is_old(opset: int) -> bool:
    """Returns whether an opset has only the first compressed forms, of iOS16."""
    return opset < _IOS18


def not_before_ios18(what: str) -> NotApplicable:
    """Returns the error that says what an older form cannot say, and the cure."""
    return NotApplicable(f"{what} {NEEDS_IOS18}")
