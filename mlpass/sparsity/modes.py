"""The modes: each maps a score to a keep mask, and knows nothing of where the score came from.

A score is a non-negative float array (|w|, |w| times an input norm, ...) in the shape in which the
weight is stored; a keep mask is a bool array of that shape, True = kept. Structured modes also take
the weight's `Layout`, which says what its rows and channels are.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from mlpass.buffers import empty
from mlpass.errors import ConfigError, NotApplicable
from mlpass.options import option, percent, phrase_of
from mlpass.parallel import map_slabs
from mlpass.registries import mode
from mlpass.sparsity.layout import Layout, transposed_layout
from mlpass.sparsity.mode import Mode as Mode
from mlpass.sparsity.mode import Window as Window
from mlpass.sparsity.mode import needed
from mlpass.sparsity.norms import mean_squares, norm_dtype
from mlpass.sparsity.ranking import Mask as Mask
from mlpass.sparsity.ranking import Score as Score
from mlpass.sparsity.ranking import (
    channels_back,
    channels_first,
    keep_highest,
    keep_slices,
    largest_not_above,
    map_groups,
    outside_lowest,
    row_zeros,
)
from mlpass.sparsity.select import keys_of
from mlpass.sparsity.windows import RowZeros, column_windows, with_row_zeros, with_shares


@mode("threshold")
class Threshold(Mode):
    """Zeroes every element whose score is at most `threshold`.

    Args:
        threshold: 0 or more, in the weight's own unit.
        minimum_sparsity_percentile: 0 to 1; a weight that would have a smaller share of zeros than
            this is skipped, since its sparse form would not pay.
    """

    threshold: float = option(default=1e-12, low=0, help="every magnitude of at most this goes")
    minimum_sparsity_percentile: float = option(
        default=0.5,
        low=0,
        high=1,
        help="weights with a smaller share of zeros are skipped",
    )

    @property
    def phrase(self) -> str:
        """How people say it."""
        return phrase_of(self, f"magnitudes up to {self.threshold:g} zero", "threshold")

    def keep(self, score: Score, layout: Layout | None = None) -> Mask:
        """Returns True where the score is above the threshold."""
        keys = keys_of(score)
        limit = largest_not_above(self.threshold, score.dtype)
        keep = empty(score.shape, bool)

        def compare(start: int, stop: int) -> int:
            slab = keep.reshape(-1)[start:stop]
            np.greater(keys.reshape(-1)[start:stop], limit, out=slab)
            return int(np.count_nonzero(slab))

        self.check_pays(score.size - sum(map_slabs(compare, score.size)), score.size)
        return keep

    def check_pays(self, zeros: int, size: int) -> None:
        """Raises NotApplicable where so many zeros of `size` elements are too few."""
        if zeros < self.minimum_sparsity_percentile * size:
            raise NotApplicable(
                f"sparsity {zeros / size:.4f} would be below "
                f"minimum_sparsity_percentile {self.minimum_sparsity_percentile}"
            )


@mode("percentile", granularity="per_scalar")
class Percentile(Mode):
    """Zeroes exactly `floor(target_sparsity * size)` elements, lowest score first.

    Equal scores go in the order in which they are stored. Zeros that are there already count.

    Args:
        target_sparsity: 0 to 1.
        scope: "weight" ranks each weight by itself; "row" each output row, rows differing by at
            most one zero; "global" ranks all weights that share this mode together, so that each
            gets the sparsity that it can bear.
    """

    target_sparsity: float = option(low=0, high=1, help="share of elements that become zero")
    scope: str = option(
        default="weight",
        choices=("weight", "row", "global"),
        must='"weight", "row" or "global"',
        help="what is ranked together",
    )

    @property
    def phrase(self) -> str:
        """How people say it."""
        where = {"weight": "", "row": " in each row", "global": " over all weights"}[self.scope]
        return f"{percent(self.target_sparsity)} zeros{where}"

    @property
    def ranks_together(self) -> bool:
        """Whether all weights that share it are ranked together."""
        return self.scope == "global"

    def keep(self, score: Score, layout: Layout | None = None) -> Mask:
        """Returns the keep mask of one weight; a global ranking is cut by the pass instead."""
        if self.scope == "row":
            used = needed(self, layout)
            zeros = row_zeros(self.target_sparsity, used.all_rows, used.columns)
            return RowZeros(tuple(zeros.tolist())).keep(score, layout)
        return keep_highest(score, self.target_sparsity)

    def windows(self, layout: Layout, width: int) -> list[Window]:
        """Returns windows of `width` columns, each with its share of the zeros."""
        parts = column_windows(self, layout, width)
        if self.scope == "row":
            return with_row_zeros(self.target_sparsity, layout, parts)
        return with_shares(self, parts, [layout.all_rows * part.columns.size for part in parts])

    def exchanges(self, layout: Layout) -> list[NDArray[np.intp]]:
        """Returns all columns: any elements will do, as long as they are as many."""
        return [np.arange(layout.columns)]

    def per_row(self) -> Mode:
        """Returns this mode with each row ranked by itself; a global ranking stays global."""
        return replace(self, scope="row") if self.scope == "weight" else self


@mode("nm")
class NM(Mode):
    """Zeroes the n lowest of every m elements (n is the number of ZEROS, as in coremltools).

    Groups of m run along the input channels at one kernel position, or along the output channels.
    A last group of t < m elements loses `floor(t * n / m)`.

    Args:
        n: how many of every m become zero, 0 to m.
        m: group size, 1 or more.
        dim: 1 for groups along input channels, 0 for output channels.
    """

    n: int = option(join="n_m_ratio", help="n zeros in every m")
    m: int = option(low=1, join="n_m_ratio")
    dim: int = option(
        default=1,
        choices=(0, 1),
        must="0 (output channels) or 1 (input channels)",
        help="along output channels (0) or input channels (1)",
    )
    structured: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.n <= self.m:
            turned = f" Did you mean {self.m}:{self.n}?" if self.n > self.m else ""
            raise ConfigError(
                f"n_m_ratio: n (the number of zeros) must be an int in [0, m]. "
                f"Got n={self.n!r} with m={self.m}.{turned}"
            )

    @property
    def target(self) -> float:
        """The share of zeros in every m."""
        return self.n / self.m

    def at(self, sparsity: float) -> Mode:
        """Returns the mode with the whole zeros in every m that a sparsity comes to."""
        return replace(self, n=self.n if sparsity == self.target else int(sparsity * self.m))

    def __str__(self) -> str:
        return f"NM({self.n}:{self.m}{', dim=0' if self.dim == 0 else ''})"

    @property
    def phrase(self) -> str:
        """How people say it."""
        return phrase_of(self, f"{self.n}:{self.m} zeros", "n", "m")

    def keep(self, score: Score, layout: Layout | None = None) -> Mask:
        """Returns a mask with n zeros in every group of m."""
        keys = channels_first(keys_of(score), needed(self, layout), self.dim)
        check_fits(self, keys.shape[1], self.m)
        keep = empty(keys.shape, bool)

        def rank(part: tuple[slice, slice]) -> None:
            slab, kept = keys[part], keep[part]
            tail = slab.shape[1] % self.m
            whole = slab.shape[1] - tail
            if whole:
                kept[:, :whole] = outside_lowest(slab[:, :whole], self.n, self.m)
            if tail:
                zeros = tail * self.n // self.m
                kept[:, whole:] = outside_lowest(slab[:, whole:], zeros, tail)

        map_groups(rank, keys.shape, self.m)
        return channels_back(keep, needed(self, layout), self.dim)

    def windows(self, layout: Layout, width: int) -> list[Window]:
        """Returns windows of m channels at one kernel position, or of `width` whole columns."""
        groups, rows, channels, positions = layout.sizes
        if self.dim == 0:
            check_fits(self, groups * rows, self.m)
            return column_windows(self, layout, width)
        check_fits(self, channels, self.m)
        native = np.arange(channels * positions).reshape(channels, positions)
        whole, tail = transposed_layout(groups, rows, self.m, 1), channels % self.m
        last = NM(tail * self.n // self.m, tail) if tail else self
        windows = []
        for position in range(positions):
            for start in range(0, channels, self.m):
                part = native[start : start + self.m, position]
                if part.size == self.m:
                    windows.append(Window(part, whole, self))
                else:
                    windows.append(Window(part, transposed_layout(groups, rows, tail, 1), last))
        return windows

    def exchanges(self, layout: Layout) -> list[NDArray[np.intp]]:
        """Returns the groups, where they run along the columns."""
        return [each.columns for each in self.windows(layout, self.m)] if self.dim == 1 else []


@mode("block", granularity="per_scalar")
class Block(Mode):
    """Zeroes `floor(target_sparsity * blocks)` whole blocks, lowest root mean square first.

    A block is `block_size` neighbours along the output (dim=0) or input (dim=1) channels, at one
    index of all other axes. The last one may be smaller.

    Args:
        target_sparsity: 0 to 1, the share of blocks.
        block_size: 2 or more.
        dim: 0 for blocks along output channels, 1 for input channels.
    """

    target_sparsity: float = option(low=0, high=1, help="share of blocks that become zero")
    block_size: int = option(low=2, help="neighbouring channels that make a block")
    dim: int = option(
        default=0,
        choices=(0, 1),
        must="0 (output channels) or 1 (input channels)",
        help="along output channels (0) or input channels (1)",
    )
    structured: ClassVar[bool] = True

    @property
    def phrase(self) -> str:
        """How people say it."""
        blocks = f"{percent(self.target_sparsity)} zeros in blocks of {self.block_size}"
        return phrase_of(self, blocks, "target_sparsity", "block_size")

    def keep(self, score: Score, layout: Layout | None = None) -> Mask:
        """Returns a mask that is constant within each block."""
        grouped = channels_first(score, needed(self, layout), self.dim)
        outer, channels, inner = grouped.shape
        check_fits(self, channels, self.block_size)
        starts = np.arange(0, channels, self.block_size)
        lengths = np.diff(np.append(starts, channels))
        power = empty((outer, len(starts), inner), norm_dtype(score.dtype))

        def measure(part: tuple[slice, slice]) -> None:
            first = part[1].start // self.block_size
            blocks = slice(first, first - (part[1].start - part[1].stop) // self.block_size)
            mean_squares(grouped[part], self.block_size, out=power[part[0], blocks])

        map_groups(measure, grouped.shape, self.block_size)
        kept = keep_highest(power, self.target_sparsity)
        return channels_back(np.repeat(kept, lengths, axis=1), needed(self, layout), self.dim)

    def windows(self, layout: Layout, width: int) -> list[Window]:
        """Returns windows of whole blocks, about `width` columns each, with their shares."""
        groups, rows, channels, positions = layout.sizes
        if self.dim == 0:
            check_fits(self, groups * rows, self.block_size)
            parts = column_windows(self, layout, width)
            blocks = [-(-groups * rows // self.block_size) * part.columns.size for part in parts]
            return with_shares(self, parts, blocks)
        check_fits(self, channels, self.block_size)
        step = max(1, width // self.block_size) * self.block_size
        while 0 < channels % step < self.block_size:  # the last window must hold a full block
            step += self.block_size
        native = np.arange(channels * positions).reshape(channels, positions)
        columns = [
            native[start : start + step, position]
            for position in range(positions)
            for start in range(0, channels, step)
        ]
        parts = [
            Window(part, transposed_layout(groups, rows, part.size, 1), self) for part in columns
        ]
        blocks = [groups * rows * -(-part.size // self.block_size) for part in columns]
        return with_shares(self, parts, blocks)


@mode("kernel", granularity="per_kernel")
class Kernel(Mode):
    """Zeroes `floor(target_sparsity * kernels)` whole spatial kernels, lowest L2 norm first.

    A kernel is all positions of one (output, input) channel pair of a convolution: coremltools'
    `per_kernel` granularity.

    Args:
        target_sparsity: 0 to 1, the share of kernels.
    """

    target_sparsity: float = option(low=0, high=1, help="share of spatial kernels that become zero")
    structured: ClassVar[bool] = True

    @property
    def phrase(self) -> str:
        """How people say it."""
        return f"{percent(self.target_sparsity)} of kernels zero"

    def keep(self, score: Score, layout: Layout | None = None) -> Mask:
        """Returns a mask that is constant within each spatial kernel."""
        used = needed(self, layout)
        check_kernels(used)
        return keep_slices(score, used, self.target_sparsity, 3)

    def windows(self, layout: Layout, width: int) -> list[Window]:
        """Returns windows of whole kernels, about `width` columns each, with their shares."""
        check_kernels(layout)
        groups, rows, _, positions = layout.sizes
        whole = max(1, width // positions) * positions
        parts = column_windows(self, layout, whole, positions)
        return with_shares(self, parts, [groups * rows * part.layout.sizes[2] for part in parts])


@mode("channel", granularity="per_channel")
class Channel(Mode):
    """Zeroes `floor(target_sparsity * outputs)` whole output channels, lowest L2 norm first.

    coremltools' `per_channel` granularity.

    Args:
        target_sparsity: 0 to 1, the share of output channels.
    """

    target_sparsity: float = option(low=0, high=1, help="share of output channels that become zero")
    structured: ClassVar[bool] = True
    whole_outputs: ClassVar[bool] = True

    @property
    def phrase(self) -> str:
        """How people say it."""
        return f"{percent(self.target_sparsity)} of channels zero"

    def keep(self, score: Score, layout: Layout | None = None) -> Mask:
        """Returns a mask that is constant within each output channel."""
        return keep_slices(score, needed(self, layout), self.target_sparsity, 2)


def check_fits(mode: NM | Block, channels: int, size: int) -> None:
    """Raises NotApplicable where the channels do not fill one group or block."""
    if channels < size:
        name = "m" if isinstance(mode, NM) else "block_size"
        raise NotApplicable(
            f"its {_axis_name(mode.dim)} ({channels}) are fewer than {name} ({size})"
        )


def check_kernels(layout: Layout) -> None:
    """Raises NotApplicable where there are no kernel positions."""
    if not layout.axes[3]:
        raise NotApplicable("it has no spatial kernels")


def _axis_name(dim: int) -> str:
    return "input channels" if dim == 1 else "output channels"
