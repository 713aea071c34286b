"""The modes' rules piece by piece, for weights that are too large to be ranked in memory.

Counts, order of ties and refusals are those of the mode's own `keep`. A piece is a run of elements
as they are stored; rules are asked for one after the other, first to last.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlpass.buffers import empty
from mlpass.sparsity.layout import Layout
from mlpass.sparsity.mode import Mode
from mlpass.sparsity.modes import (
    NM,
    Block,
    Percentile,
    Threshold,
    check_fits,
)
from mlpass.sparsity.norms import mean_squares, norm_dtype
from mlpass.sparsity.ranking import Mask, Score, around_channels, map_groups
from mlpass.sparsity.select import (
    Cut,
    Keys,
    KeySource,
    keep_above,
    keys_of,
    lowest,
    lowest_of_many,
)

PIECE = 1 << 22  # elements: with all that is made of them, about 40 MB
_RUNS = 8  # of a piece that a sample is taken of
_READ = 8  # of so many elements one lies within those


@dataclass(frozen=True)
class Scores:
    """The scores of a weight, of which a part is read at a time.

    Attributes:
        size: how many there are.
        dtype: their type.
        read: returns those from one place to another, 1-D.
    """

    size: int
    dtype: np.dtype[np.generic]
    read: Callable[[int, int], Score]

    def bounds(self, unit: int) -> list[tuple[int, int]]:
        """Returns the ends of pieces that cut no `unit`, and begin at a byte of a mask."""
        unit = math.lcm(unit, 8)
        step = max(1, PIECE // unit) * unit
        return [(start, min(start + step, self.size)) for start in range(0, self.size, step)]

    def sources(self) -> list[KeySource]:
        """Returns the keys of all pieces, to be ranked with others."""
        return [_Piece(self, *ends) for ends in self.bounds(1)]

    def lowest(self, count: int) -> Cut:
        """Returns the cut that zeroes exactly the `count` lowest."""
        sources = self.sources()
        return lowest(sources[0](), count) if len(sources) == 1 else lowest_of_many(sources, count)


class _Piece:
    """A piece of the scores as a key source: read anew at each call."""

    def __init__(self, scores: Scores, start: int, stop: int) -> None:
        self._scores, self._start, self._stop = scores, start, stop
        self.size = stop - start

    def __call__(self) -> Keys:
        return self._keys(self._start, self._stop)

    def sample(self, step: int) -> Keys:
        """Returns some keys of runs that lie all over the piece: the rest is not read."""
        apart = -(-self.size // (8 * _RUNS)) * 8  # runs begin at a byte, whatever the elements
        runs = [
            self._keys(start, min(start + -(-apart // _READ), self._stop))
            for start in range(self._start, self._stop, apart)
        ]
        return np.concatenate(runs)[:: max(1, step // _READ) | 1].copy()

    def _keys(self, start: int, stop: int) -> Keys:
        return keys_of(self._scores.read(start, stop))


class Rule(NamedTuple):
    """How a mode decides on pieces.

    Attributes:
        unit: neighbouring elements that no piece may cut.
        keep: given where a piece begins and its scores, returns its keep mask, 1-D.
        check: given how many elements it zeroes in all, raises NotApplicable where they are too
            few; None where any will do.
    """

    unit: int
    keep: Callable[[int, Score], Mask]
    check: Callable[[int], None] | None = None


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
        return cut_rule(scores.lowest(math.floor(mode.target_sparsity * scores.size)))
    if isinstance(mode, NM | Block) and layout is not None:
        around = _around(layout, mode.dim)
        if around is not None:
            return _n_of_m(mode, around) if isinstance(mode, NM) else _block(mode, scores, around)
    return None


def cut_rule(cut: Cut) -> Rule:
    """Returns the rule that carries out a cut through all elements."""
    left = cut

    def keep(start: int, score: Score) -> Mask:
        nonlocal left
        kept, ties = keep_above(keys_of(score), left)
        left = left._replace(ties=ties)
        return kept

    return Rule(1, keep)


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
    unit_blocks = (blocks if outer > 1 else 1) * inner
    power = empty((outer * blocks * inner,), norm_dtype(scores.dtype))

    def powers(start: int, shape: tuple[int, ...]) -> NDArray[Any]:
        many, first = -(-shape[1] // size), start // unit * unit_blocks
        return power[first : first + shape[0] * many * inner].reshape(-1, many, inner)

    for start, stop in scores.bounds(unit):
        grouped = _grouped(scores.read(start, stop), around)
        out = powers(start, grouped.shape)

        def measure(part: tuple[slice, slice], grouped: Score = grouped, out: Score = out) -> None:
            begin = part[1].start // size
            end = begin - (part[1].start - part[1].stop) // size
            mean_squares(grouped[part], size, out=out[part[0], begin:end])

        map_groups(measure, grouped.shape, size)
    held = Scores(power.size, power.dtype, lambda start, stop: power[start:stop])
    ranked = cut_rule(held.lowest(math.floor(mode.target_sparsity * power.size)))

    def keep(start: int, score: Score) -> Mask:
        shape = _grouped(score, around).shape
        power = powers(start, shape)
        kept = ranked.keep(start, power.reshape(-1)).reshape(power.shape)
        return np.repeat(kept, size, axis=1)[:, : shape[1]].reshape(-1)

    return Rule(unit, keep)


def _grouped(score: Score, around: tuple[int, int, int]) -> Score:
    """Returns a piece as (outer, channels, inner): whole channels where there are several outer."""
    outer, channels, inner = around
    return score.reshape(-1, channels, inner) if outer > 1 else score.reshape(1, -1, inner)


def _around(layout: Layout, dim: int) -> tuple[int, int, int] | None:
    """Returns the stored shape as (outer, channels, inner), around the channels of `dim`.

    None where they do not lie so.
    """
    groups, rows, channels, positions = layout.sizes
    if dim == 1 and len(layout.axes[2]) == 1:
        return around_channels(layout)
    if list(layout.order) != sorted(layout.order):
        return None
    return (
        (1, groups * rows, channels * positions)
        if dim == 0
        else (groups * rows, channels, positions)
    )
