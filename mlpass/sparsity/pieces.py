"""The modes' rules piece by piece, for weights that are too large to be ranked in memory.

Counts, order of ties and refusals are those of the mode's own `keep`. A piece is a run of elements
as they are stored, small enough for a core's cache: it is read, ranked and marked by one thread.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from mlpass.buffers import empty
from mlpass.parallel import SLAB, map_items
from mlpass.sparsity.layout import Layout
from mlpass.sparsity.mode import Mode
from mlpass.sparsity.modes import (
    NM,
    Block,
    Channel,
    Kernel,
    Percentile,
    Threshold,
    check_fits,
    check_kernels,
)
from mlpass.sparsity.norms import mean_squares, norm_dtype, widened
from mlpass.sparsity.ranking import (
    Mask,
    Score,
    around_axis,
    around_channels,
    keep_highest,
    keep_rows,
    row_zeros,
)
from mlpass.sparsity.select import (
    Cut,
    Keys,
    KeySource,
    count_keys,
    keys_of,
    keys_type,
    lowest_of_many,
)

_SMALL = 2  # elements of a block whose powers are not held
WHOLE = 1 << 21  # elements: what has no more is ranked whole, which takes about 20 MB

Element = TypeVar("Element", bound=np.generic)


@dataclass(frozen=True)
class Scores:
    """The scores of a weight, of which a part is read at a time, from any thread.

    Attributes:
        size: how many there are.
        dtype: their type.
        read: returns those from one place to another, 1-D.
        parted: whether a part costs less to read than all of them.
    """

    size: int
    dtype: np.dtype[np.generic]
    read: Callable[[int, int], Score]
    parted: bool = True

    def bounds(self, unit: int = 1) -> list[tuple[int, int]]:
        """Returns the ends of pieces that cut no `unit`, and begin at a byte of a mask."""
        unit = math.lcm(unit, 8)
        step = max(1, SLAB // unit) * unit if self.parted else max(1, self.size)
        return [(start, min(start + step, self.size)) for start in range(0, self.size, step)]

    def sources(self, dtype: np.dtype[np.generic]) -> list[KeySource]:
        """Returns its pieces as key sources of scores of a type, read anew at each call."""
        return [_Piece(self, *ends, dtype) for ends in self.bounds()]

    def lowest(self, share: float) -> Cut:
        """Returns the cut that zeroes exactly the floor(share * size) lowest."""
        count = math.floor(share * self.size)
        return lowest_of_many(self.sources(self.dtype), count, keys_type(self.dtype))

    def check(self) -> None:
        """Reads all of them once.

        Raises:
            NotApplicable: they cannot be ranked; the text says why.
        """
        map_items(lambda ends: self.read(*ends).size, self.bounds())


@dataclass(frozen=True)
class _Piece:
    """A piece of the scores as a key source."""

    scores: Scores
    start: int
    stop: int
    dtype: np.dtype[np.generic]

    @property
    def size(self) -> int:
        return self.stop - self.start

    def __call__(self) -> Keys:
        score = self.scores.read(self.start, self.stop)
        return keys_of(score.astype(self.dtype, copy=False))


class Rule(NamedTuple):
    """How a mode decides on pieces, whichever comes first.

    Attributes:
        unit: neighbouring elements that no piece may cut.
        keep: given where a piece begins and its scores, returns its keep mask, 1-D.
        check: given how many elements are zero in the end, raises NotApplicable where they are too
            few; None where any will do.
        ties: how many elements are still to be zeroed, of those that `keep` keeps.
        tied: given scores, returns which those are: the first of them.
    """

    unit: int
    keep: Callable[[int, Score], Mask]
    check: Callable[[int], None] | None = None
    ties: int = 0
    tied: Callable[[Score], Mask] | None = None


def rule_of(mode: Mode, scores: Scores, layout: Layout | None) -> Rule | None:
    """Returns a mode's rule for the pieces of a weight; None where it is to be ranked whole.

    Args:
        mode: any.
        scores: of the weight, as it is stored.
        layout: of the weight; None where it has none.

    Raises:
        NotApplicable: the mode does not fit this weight; the text says why.
    """
    if isinstance(mode, Threshold):
        return _threshold(mode, scores)
    if isinstance(mode, Percentile) and mode.scope == "weight":
        return cut_rule(scores.lowest(mode.target_sparsity), scores.dtype)
    if layout is None:
        return None
    if isinstance(mode, NM | Block):
        around = _around(layout, mode.dim)
        if around is not None:
            return _n_of_m(mode, around) if isinstance(mode, NM) else _block(mode, scores, around)
    if list(layout.order) != sorted(layout.order):
        return None
    if isinstance(mode, Percentile) and mode.scope == "row":
        return _rows(mode, layout.all_rows, layout.columns)
    if isinstance(mode, Kernel):
        check_kernels(layout)
        return _slices(mode.target_sparsity, scores, layout.sizes[3])
    if isinstance(mode, Channel):
        return _slices(mode.target_sparsity, scores, layout.columns)
    return None


def cut_rule(cut: Cut, dtype: np.dtype[np.generic]) -> Rule:
    """Returns the rule that carries out a cut through all elements.

    Args:
        cut: to carry out.
        dtype: the float type whose keys it is stated in.
    """

    def keys(score: Score) -> Keys:
        return keys_of(score.astype(dtype, copy=False))

    def keep(start: int, score: Score) -> Mask:
        return keys(score) >= cut.key

    return Rule(1, keep, ties=cut.ties, tied=lambda score: keys(score) == cut.key)


def _rows(mode: Percentile, rows: int, columns: int) -> Rule:
    zeros = row_zeros(mode.target_sparsity, rows, columns)

    def keep(start: int, score: Score) -> Mask:
        first = start // columns
        matrix = score.reshape(-1, columns)
        return keep_rows(matrix, zeros[first : first + len(matrix)]).reshape(-1)

    return Rule(columns, keep)


def _slices(target_sparsity: float, scores: Scores, length: int) -> Rule:
    """Returns the rule of whole slices of neighbours. Their powers are held: 2 / length of it."""
    power = empty((scores.size // length,), norm_dtype(scores.dtype))

    def measure(ends: tuple[int, int]) -> None:
        start, stop = ends
        slab = widened(scores.read(start, stop).reshape(-1, length))
        np.einsum("ij,ij->i", slab, slab, out=power[start // length : stop // length])

    map_items(measure, scores.bounds(length))
    kept = keep_highest(power, target_sparsity)

    def keep(start: int, score: Score) -> Mask:
        return np.repeat(kept[start // length : (start + score.size) // length], length)

    return Rule(length, keep)


def _threshold(mode: Threshold, scores: Scores) -> Rule:
    each = Threshold(mode.threshold, 0.0)  # whether it pays is asked of the whole

    def keep(start: int, score: Score) -> Mask:
        return each.keep(score)

    def check(zeros: int) -> None:
        mode.check_pays(zeros, scores.size)

    return Rule(1, keep, check)


def _n_of_m(mode: NM, around: tuple[int, int, int]) -> Rule:
    outer, channels, inner = around
    check_fits(mode, channels, mode.m)

    def keep(start: int, score: Score) -> Mask:
        grouped = _grouped(score, around)
        each, left = NM(mode.n, mode.m), grouped.shape[1]
        if left < mode.m:  # the last piece is but a tail
            each = NM(left * mode.n // mode.m, left)
        layout = Layout(grouped.shape, grouped.shape, ((), (0,), (1,), (2,)))
        return each.keep(grouped, layout).reshape(-1)

    return Rule((channels if outer > 1 else mode.m) * inner, keep)


def _block(mode: Block, scores: Scores, around: tuple[int, int, int]) -> Rule:
    """Returns the rule of whole blocks. Their powers are held: 2 / block_size of the weight."""
    outer, channels, inner = around
    size = mode.block_size
    check_fits(mode, channels, size)
    blocks = -(-channels // size)
    unit = (channels if outer > 1 else size) * inner
    if size <= _SMALL:
        return _small_blocks(mode, scores, around, unit)
    unit_blocks = (blocks if outer > 1 else 1) * inner

    def within(array: NDArray[Element], start: int, shape: tuple[int, ...]) -> NDArray[Element]:
        """Returns the part of an array of all blocks that belongs to a piece."""
        many, first = -(-shape[1] // size), start // unit * unit_blocks
        return array[first : first + shape[0] * many * inner].reshape(-1, many, inner)

    def powers() -> NDArray[np.floating]:
        power = empty((outer * blocks * inner,), norm_dtype(scores.dtype))

        def measure(ends: tuple[int, int]) -> None:
            grouped = _grouped(scores.read(*ends), around)
            mean_squares(grouped, size, out=within(power, ends[0], grouped.shape))

        map_items(measure, scores.bounds(unit))
        return power

    kept = keep_highest(powers(), mode.target_sparsity)

    def keep(start: int, score: Score) -> Mask:
        shape = _grouped(score, around).shape
        return np.repeat(within(kept, start, shape), size, axis=1)[:, : shape[1]].reshape(-1)

    return Rule(unit, keep)


def _small_blocks(mode: Block, scores: Scores, around: tuple[int, int, int], unit: int) -> Rule:
    """Returns the rule of blocks whose powers would take as much as the weight.

    They are worked out anew at each reading of a piece: two to find the cut, one to tell how many
    of those that are equal to it each piece zeroes, and one to mark.
    """
    outer, channels, inner = around
    size, dtype = mode.block_size, np.dtype(norm_dtype(scores.dtype))

    def powers(score: Score) -> NDArray[np.floating]:
        grouped = _grouped(score, around)
        power = np.empty((len(grouped), -(-grouped.shape[1] // size), inner), dtype)
        mean_squares(grouped, size, out=power)
        return power

    def read(start: int, stop: int) -> Score:
        return powers(scores.read(start, stop)).reshape(-1)

    bounds, norms = scores.bounds(unit), Scores(scores.size, dtype, read, scores.parted)
    sources = [_Piece(norms, *ends, dtype) for ends in bounds]
    count = math.floor(mode.target_sparsity * (outer * -(-channels // size) * inner))
    cut = lowest_of_many(sources, count, keys_type(dtype))
    ties = map_items(lambda source: count_keys([source], cut.key), sources) if cut.ties else []
    before = np.cumsum([0, *ties])
    left = {start: cut.ties - int(each) for (start, _), each in zip(bounds, before, strict=False)}

    def keep(start: int, score: Score) -> Mask:
        power = powers(score)
        keys = keys_of(power)
        kept = keys >= cut.key
        if left.get(start, 0) > 0:
            kept.reshape(-1)[np.flatnonzero(keys == cut.key)[: left[start]]] = False
        return np.repeat(kept, size, axis=1)[:, : _grouped(score, around).shape[1]].reshape(-1)

    return Rule(unit, keep)


def _grouped(score: Score, around: tuple[int, int, int]) -> Score:
    """Returns a piece as (outer, channels, inner): whole channels where there are several outer."""
    outer, channels, inner = around
    return score.reshape(-1, channels, inner) if outer > 1 else score.reshape(1, -1, inner)


def _around(layout: Layout, dim: int) -> tuple[int, int, int] | None:
    """Returns the stored shape as (outer, channels, inner), around the channels of `dim`.

    None where they do not lie so.
    """
    if dim == 1 and len(layout.axes[2]) == 1:
        return around_channels(layout)
    return around_axis(layout, dim) if list(layout.order) == sorted(layout.order) else None
