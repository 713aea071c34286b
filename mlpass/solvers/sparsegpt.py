"""SparseGPT: columns are pruned from first to last, and those to come make up for it.

Source: Frantar and Alistarh 2023, "SparseGPT: Massive Language Models Can Be Accurately Pruned in
One-Shot", arXiv 2301.00774. Written here in a form of its own: with `gram = U U^T`, U upper
triangular, the output error of a change D is the square sum of `D U`, and column j of that is
`sum_(k<=j) D_k U_kj`. So column j is set to what makes this zero for it, if it is kept. That equals
the paper's update with the factor of the inverse, U^-1. Blocks of columns are set half by half:
the left half, what it leaves of the right one, then that. So nearly all of the work is in a few
large products.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, NamedTuple

import numpy as np

from mlpass.arrays import Array, diagonals, empty_like, namespace, row_dots, total
from mlpass.options import option
from mlpass.parallel import map_items
from mlpass.registries import method
from mlpass.solvers.columns import places, put_back, room, take_away, turned
from mlpass.solvers.factored import Factored, factor
from mlpass.solvers.problem import Method, Problem, Pruned
from mlpass.solvers.products import Part, jobs
from mlpass.solvers.refit import refit
from mlpass.solvers.swaps import swapped
from mlpass.sparsity.masks import keep_mask
from mlpass.sparsity.mode import Window
from mlpass.storage.storage import Rounding

_CHUNK = 16  # columns that are brought up to date one by one


@method("sparsegpt")
class SparseGPT(Method):
    """Prunes columns in turn, each on what the columns before it left, and updates the rest.

    Args:
        dampening: fraction of the Gram's mean diagonal to add to it, 0 to 1; raised where the Gram
            cannot be factored.
        block_size: columns whose mask is decided at once where the mode leaves a choice.
        refit: whether kept weights are solved for again, exactly, once the mask is known. Where
            samples are fewer than columns they always are: the sweep makes up for a column in those
            after it alone, which then leaves several times the error that its mask has to.
        swaps: rounds in which kept and pruned weights are swapped where that lowers the error, and
            then refitted. 2 find most of what there is.
    """

    dampening: float = option(
        default=0.01, low=0, high=1, help="fraction of a Gram's mean diagonal that is added to it"
    )
    block_size: int = option(
        default=128, low=1, help="columns whose mask is decided at once, where the mode lets it"
    )
    refit: bool = option(default=False, help="solve for the kept weights once the mask is known")
    swaps: int = option(
        default=0, low=0, high=10_000, help="rounds of swaps of kept and pruned weights, refitted"
    )
    tensors: ClassVar[bool] = True

    @property
    def updates(self) -> bool:
        """Always."""
        return True

    def prune(self, problem: Problem) -> Pruned:
        """Returns the pruned and updated weight."""
        found, factored = self.swept(problem)
        if not self.refits(problem, factored):
            return found
        weight = refit(problem, found.keep, found.weight, dampening=found.dampening)
        refitted = found._replace(weight=weight, power=None)
        return swapped(problem, refitted, self.swaps, found.dampening)

    def swept(self, problem: Problem) -> tuple[Pruned, Factored]:
        """Returns what one sweep over the columns gives, and the factor that it took."""
        windows = problem.mode.windows(problem.layout, self.block_size)
        factored = factor(problem, windows, self.dampening)
        weight, keep, power = sweep(problem.target, factored, windows, self.block_size)
        return Pruned(weight, keep, factored.dampening, power), factored

    def refits(self, problem: Problem, factored: Factored) -> bool:
        """Returns whether kept weights are solved for again: where asked for, or samples are few.

        Args:
            problem: one weight.
            factored: its Gram, which spares most problems a closer look.
        """
        return self.refit or self.swaps > 0 or (factored.hides and problem.gram.is_short)


def sweep(
    weight: Array,
    factored: Factored,
    windows: list[Window],
    block_size: int,
    rounding: Rounding | None = None,
    fixed: Array | None = None,
) -> tuple[Array, Array, float]:
    """Returns the updated weight, its mask, and the square sum of the change in outputs.

    That sum needs no product with the Gram: what the columns lose adds up to it, once what the
    dampening stands for is taken off.

    Args:
        weight: (groups, rows, columns).
        factored: from `factor`, for the same windows.
        windows: which columns are decided together, in order.
        block_size: columns that are gathered by one product.
        rounding: what becomes of a column's kept values, where they are also quantized.
        fixed: (groups, rows, columns), the mask where it is known; the windows then decide nothing.
    """
    xp, order, upper, scale = namespace(weight), factored.order, factored.upper, factored.scale
    # What is to come as the changes so far leave it, and what is done: by how much it has changed.
    change = turned(weight, order)
    if fixed is None and windows[0].columns.size == order.size:  # decided before anything changes
        keep = keep_mask(windows[0].mode, xp.abs(change) * scale[..., None], windows[0].layout)
        fixed = empty_like(weight, weight.shape, mask=True)
        put_back(keep, fixed, places(order, weight))
    spans = _spans(windows) if fixed is None else _steps(order.size, block_size)
    blocks = list(_blocks(spans, block_size))
    edges = (0, *(parts[-1].right for parts in blocks))
    reach, spreads = factored.reach(edges)
    result, mask = empty_like(weight, weight.shape), empty_like(weight, weight.shape, mask=True)

    def set_block(number: int) -> float:
        """Sets the columns of a block, and returns the square sum of what its outputs lose."""
        block = slice(edges[number], edges[number + 1])
        native, current = places(order[block], weight), change[:, block]
        keep = room(weight, current.shape, mask=True)
        if fixed is not None:
            keep[:] = fixed[:, :, native].mT
        lost = _set_columns(
            blocks[number], current, spreads[number], scale[:, block], keep, rounding
        )
        put_back(current, result, native)
        put_back(keep, mask, native)
        take_away(weight, current, native)  # in place: it is a part of `change`
        weights = xp.square(diagonals(upper[:, block, block]))
        squares = weights * row_dots(lost, lost)
        squares -= factored.added[:, None] * row_dots(current, current)
        return total(squares[factored.live[:, block]])

    def set_blocks(first: int, last: int, power: float) -> float:
        """Sets blocks half by half, and returns `power` with what they add to it."""
        if last - first == 1:
            return power + set_block(first)
        middle = first + (1 << (last - first - 1).bit_length() - 1)  # the left: a power of two
        power = set_blocks(first, middle, power)
        _bring_up(change, reach, edges[first], edges[middle], edges[last])
        return set_blocks(middle, last, power)

    power = set_blocks(0, len(blocks), 0.0)
    return result, mask, max(0.0, power)


def _bring_up(change: Array, reach: Array, left: int, middle: int, right: int) -> None:
    """Takes from the columns up to `right` what those before `middle` make them lose, in place.

    Args:
        change: (groups, columns, rows).
        reach: (groups, columns, columns).
        left: the first of the columns that are done.
        middle: the first of those to come.
        right: the end of those.
    """

    def take(part: Part) -> None:
        group, row, _ = part
        spread = reach[group, left:middle, middle:right].mT
        change[group, middle:right, row] -= spread @ change[group, left:middle, row]

    map_items(take, jobs(change.mT, (middle - left) * (right - middle)))


class Span(NamedTuple):
    """Neighbouring columns of a sweep, and what decides them; None where that is done."""

    left: int
    right: int
    window: Window | None


def _spans(windows: list[Window]) -> list[Span]:
    ends = np.cumsum([window.columns.size for window in windows]).tolist()
    starts = [0, *ends[:-1]]
    return [Span(*bounds) for bounds in zip(starts, ends, windows, strict=True)]


def _steps(columns: int, size: int) -> list[Span]:
    """Returns spans that nothing decides: their mask is known."""
    return [Span(left, min(left + size, columns), None) for left in range(0, columns, size)]


def _blocks(spans: list[Span], size: int) -> Iterator[list[Span]]:
    """Yields whole spans that fill `size` columns together, or one that is wider by itself."""
    parts: list[Span] = []
    for span in spans:
        if parts and span.right - parts[0].left > size:
            yield parts
            parts = []
        parts.append(span)
    yield parts


def _set_columns(
    spans: list[Span],
    current: Array,
    spread: Array,
    scale: Array,
    keep: Array,
    rounding: Rounding | None,
) -> Array:
    """Returns what each column of one block loses; sets them in turn.

    `current` becomes their values, `keep` their mask.

    Within the block this is the paper's own update: what a column loses is spread over those after
    it by its row of the inverse's factor.

    Args:
        spans: of the block.
        current: (groups, columns of the block, rows), what the columns before it left.
        spread: (groups, columns, columns), the block's own U^-1.
        scale: (groups, columns).
        keep: (groups, columns, rows).
        rounding: as for `sweep`.
    """
    first = spans[0].left
    xp = namespace(current)
    lost: Array = xp.empty_like(current)
    drop: Array = xp.empty_like(current)  # 1 for what goes
    unit = spread / diagonals(spread)[:, :, None]
    for span in spans:
        start, stop = span.left - first, span.right - first
        if start:
            current[:, start:stop] -= unit[:, :start, start:stop].mT @ lost[:, :start]
        if span.window is not None:
            score = xp.abs(current[:, start:stop])
            score *= scale[:, start:stop, None]
            keep[:, start:stop] = keep_mask(span.window.mode, score, span.window.layout)
        drop[:, start:stop] = ~keep[:, start:stop]
        for left in range(start, stop, _CHUNK):
            right = min(stop, left + _CHUNK)
            if left > start:
                weights = unit[:, start:left, left:right].mT
                current[:, left:right] -= weights @ lost[:, start:left]
            for column in range(left, right):
                values = current[:, column]
                if column > left:
                    values -= (unit[:, None, left:column, column] @ lost[:, left:column])[:, 0]
                if rounding is None:
                    xp.multiply(values, drop[:, column], out=lost[:, column])
                else:
                    stored = rounding(first + column, values * keep[:, column]) * keep[:, column]
                    xp.subtract(values, stored, out=lost[:, column])
                    current[:, column] = stored
    if rounding is None:
        current -= lost
    return lost
