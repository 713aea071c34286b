"""The modes: each maps a score to a keep mask, and knows nothing of where the score came from.

A score is a non-negative float array (|w|, |w| times an input norm, ...) in the shape in which the
weight is stored; a keep mask is a bool array of that shape, True = kept. Structured modes also take
the weight's `Layout`, which says what its rows and channels are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from mlpass.buffers import empty
from mlpass.errors import ConfigError, NotApplicable
from mlpass.parallel import map_slabs
from mlpass.sparsity.layout import Layout
from mlpass.sparsity.norms import mean_squares, norm_dtype, widened
from mlpass.sparsity.select import keep_above, keys_of, lowest

Score = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Mode:
    """A rule that says which elements of a weight stay."""

    structured: ClassVar[bool] = False

    def keep(self, score: Score, layout: Layout | None = None) -> Mask:
        """Returns the keep mask of `score`, in its shape.

        Raises:
            NotApplicable: the mode does not fit this weight; the text says why.
        """
        raise NotImplementedError

    def __str__(self) -> str:
        shown = [
            f"{field.name}={getattr(self, field.name)}" if index else f"{getattr(self, field.name)}"
            for index, field in enumerate(fields(self))
            if index == 0 or getattr(self, field.name) != field.default
        ]
        return f"{type(self).__name__}({', '.join(shown)})"


@dataclass(frozen=True)
class Threshold(Mode):
    """Zeroes every element whose score is at most `threshold`.

    Args:
        threshold: 0 or more, in the weight's own unit.
        minimum_sparsity_percentile: 0 to 1; a weight that would have a smaller share of zeros than
            this is skipped, since its sparse form would not pay.
    """

    threshold: float = 1e-12
    minimum_sparsity_percentile: float = 0.5

    def __post_init__(self) -> None:
        _check_number("threshold", self.threshold, 0.0, math.inf)
        _check_number("minimum_sparsity_percentile", self.minimum_sparsity_percentile, 0.0, 1.0)

    def keep(self, score: Score, layout: Layout | None = None) -> Mask:
        """Returns True where the score is above the threshold."""
        keys = keys_of(score)
        limit = _largest_not_above(self.threshold, score.dtype)
        keep = empty(score.shape, bool)

        def compare(start: int, stop: int) -> int:
            slab = keep.reshape(-1)[start:stop]
            np.greater(keys.reshape(-1)[start:stop], limit, out=slab)
            return int(np.count_nonzero(slab))

        zeros = score.size - sum(map_slabs(compare, score.size))
        if zeros < self.minimum_sparsity_percentile * score.size:
            raise NotApplicable(
                f"sparsity {zeros / score.size:.4f} would be below "
                f"minimum_sparsity_percentile {self.minimum_sparsity_percentile}"
            )
        return keep


@dataclass(frozen=True)
class Percentile(Mode):
    """Zeroes exactly `floor(target_sparsity * size)` elements, lowest score first.

    Equal scores go in the order in which they are stored. Zeros that are there already count.

    Args:
        target_sparsity: 0 to 1.
        scope: "weight" ranks each weight by itself; "global" ranks all weights that share this
            mode together, so that each gets the sparsity that it can bear.
    """

    target_sparsity: float
    scope: str = "weight"

    def __post_init__(self) -> None:
        _check_number("target_sparsity", self.target_sparsity, 0.0, 1.0)
        if self.scope not in ("weight", "global"):
            raise ConfigError(f'scope: must be "weight" or "global". Got {self.scope!r}.')

    def zeros_of(self, size: int) -> int:
        """Returns how many of `size` elements are to be zero."""
        return math.floor(self.target_sparsity * size)

    def keep(self, score: Score, layout: Layout | None = None) -> Mask:
        """Returns the keep mask of one weight; a global ranking is cut by the pass instead."""
        return _keep_highest(score, self.target_sparsity)


@dataclass(frozen=True)
class NM(Mode):
    """Zeroes the n lowest of every m elements (n is the number of ZEROS, as in coremltools).

    Groups of m run along the input channels at one kernel position, or along the output channels.
    A last group of t < m elements loses `floor(t * n / m)`.

    Args:
        n: how many of every m become zero, 0 to m.
        m: group size, 1 or more.
        dim: 1 for groups along input channels, 0 for output channels.
    """

    n: int
    m: int
    dim: int = 1
    structured: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_int("n_m_ratio", "m", self.m, 1)
        if not _is_int(self.n) or not 0 <= self.n <= self.m:
            raise ConfigError(
                f"n_m_ratio: n (the number of zeros) must be an int in [0, m]. "
                f"Got n={self.n!r} with m={self.m}."
            )
        _check_dim(self.dim)

    def __str__(self) -> str:
        return f"NM({self.n}:{self.m}{', dim=0' if self.dim == 0 else ''})"

    def keep(self, score: Score, layout: Layout | None = None) -> Mask:
        """Returns a mask with n zeros in every group of m."""
        keys = _channels_first(keys_of(score), _needed(self, layout), self.dim)
        channels = keys.shape[1]
        if channels < self.m:
            raise NotApplicable(
                f"its {_axis_name(self.dim)} ({channels}) are fewer than m ({self.m})"
            )
        keep = empty(keys.shape, bool)

        def rank(part: tuple[slice, slice]) -> None:
            slab, kept = keys[part], keep[part]
            tail = slab.shape[1] % self.m
            whole = slab.shape[1] - tail
            if whole:
                kept[:, :whole] = _outside_lowest(slab[:, :whole], self.n, self.m)
            if tail:
                zeros = tail * self.n // self.m
                kept[:, whole:] = _outside_lowest(slab[:, whole:], zeros, tail)

        _map_groups(rank, keys.shape, self.m)
        return _channels_back(keep, _needed(self, layout), self.dim)


@dataclass(frozen=True)
class Block(Mode):
    """Zeroes `floor(target_sparsity * blocks)` whole blocks, lowest root mean square first.

    A block is `block_size` neighbours along the output (dim=0) or input (dim=1) channels, at one
    index of all other axes. The last one may be smaller.

    Args:
        target_sparsity: 0 to 1, the share of blocks.
        block_size: 2 or more.
        dim: 0 for blocks along output channels, 1 for input channels.
    """

    target_sparsity: float
    block_size: int
    dim: int = 0
    structured: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_number("target_sparsity", self.target_sparsity, 0.0, 1.0)
        _check_int("block_size", "block_size", self.block_size, 2)
        _check_dim(self.dim)

    def keep(self, score: Score, layout: Layout | None = None) -> Mask:
        """Returns a mask that is constant within each block."""
        grouped = _channels_first(score, _needed(self, layout), self.dim)
        outer, channels, inner = grouped.shape
        if channels < self.block_size:
            raise NotApplicable(
                f"its {_axis_name(self.dim)} ({channels}) are fewer than "
                f"block_size ({self.block_size})"
            )
        starts = np.arange(0, channels, self.block_size)
        lengths = np.diff(np.append(starts, channels))
        power = empty((outer, len(starts), inner), norm_dtype(score.dtype))

        def measure(part: tuple[slice, slice]) -> None:
            first = part[1].start // self.block_size
            blocks = slice(first, first - (part[1].start - part[1].stop) // self.block_size)
            mean_squares(grouped[part], self.block_size, out=power[part[0], blocks])

        _map_groups(measure, grouped.shape, self.block_size)
        kept = _keep_highest(power, self.target_sparsity)
        return _channels_back(np.repeat(kept, lengths, axis=1), _needed(self, layout), self.dim)


@dataclass(frozen=True)
class Kernel(Mode):
    """Zeroes `floor(target_sparsity * kernels)` whole spatial kernels, lowest L2 norm first.

    A kernel is all positions of one (output, input) channel pair of a convolution: coremltools'
    `per_kernel` granularity.

    Args:
        target_sparsity: 0 to 1, the share of kernels.
    """

    target_sparsity: float
    structured: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_number("target_sparsity", self.target_sparsity, 0.0, 1.0)

    def keep(self, score: Score, layout: Layout | None = None) -> Mask:
        """Returns a mask that is constant within each spatial kernel."""
        needed = _needed(self, layout)
        if not needed.axes[3]:
            raise NotApplicable("it has no spatial kernels")
        return _keep_slices(score, needed, self.target_sparsity, 3)


@dataclass(frozen=True)
class Channel(Mode):
    """Zeroes `floor(target_sparsity * outputs)` whole output channels, lowest L2 norm first.

    coremltools' `per_channel` granularity.

    Args:
        target_sparsity: 0 to 1, the share of output channels.
    """

    target_sparsity: float
    structured: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_number("target_sparsity", self.target_sparsity, 0.0, 1.0)

    def keep(self, score: Score, layout: Layout | None = None) -> Mask:
        """Returns a mask that is constant within each output channel."""
        return _keep_slices(score, _needed(self, layout), self.target_sparsity, 2)


MODES: dict[str, type[Mode]] = {
    mode.__name__: mode for mode in (Threshold, Percentile, NM, Block, Kernel, Channel)
}


def _keep_highest(score: Score, target_sparsity: float) -> Mask:
    """Returns the mask that zeroes exactly the floor(target * size) lowest scores."""
    keys = keys_of(np.ascontiguousarray(score)).reshape(-1)
    cut = lowest(keys, math.floor(target_sparsity * keys.size))
    return keep_above(keys, cut)[0].reshape(score.shape)


def _keep_slices(score: Score, layout: Layout, target_sparsity: float, leading: int) -> Mask:
    """Returns the mask that zeroes whole slices, one for each index of the `leading` axes."""
    split = layout.split(score)
    flat = split.reshape(math.prod(split.shape[:leading]), -1)
    power = np.empty(len(flat), norm_dtype(score.dtype))

    def measure(start: int, stop: int) -> None:
        slab = widened(flat[start:stop])
        np.einsum("ij,ij->i", slab, slab, out=power[start:stop])

    map_slabs(measure, len(flat), elements_each=flat.shape[1])
    kept = _keep_highest(power, target_sparsity)
    return layout.join(np.repeat(kept, flat.shape[1]).reshape(split.shape))


def _outside_lowest(keys: NDArray[Any], n: int, m: int) -> Mask:
    """Returns True for all but the n lowest in every m along axis 1, whose length m divides.

    An element's rank is how many of its group come before it; of equals, the first does.
    """
    planes = [np.ascontiguousarray(keys[:, position::m]) for position in range(m)]
    ranks = [np.zeros(planes[0].shape, np.uint16 if m > 255 else np.uint8) for _ in planes]
    for later in range(m):
        for earlier in range(later):
            before = planes[earlier] <= planes[later]
            ranks[later] += before
            np.logical_not(before, out=before)
            ranks[earlier] += before
    kept = np.empty(keys.shape, bool)
    for position, rank in enumerate(ranks):
        np.greater_equal(rank, n, out=kept[:, position::m])
    return kept


def _map_groups(
    work: Callable[[tuple[slice, slice]], None], shape: tuple[int, ...], size: int
) -> None:
    """Calls `work` with slabs of (outer, channels, inner) that cut no group of `size` channels."""
    outer, channels, inner = shape
    if outer > 1:
        every = slice(0, channels)
        map_slabs(lambda start, stop: work((slice(start, stop), every)), outer, channels * inner)
        return

    def work_on(start: int, stop: int) -> None:
        work((slice(0, 1), slice(start * size, min(stop * size, channels))))

    map_slabs(work_on, -(-channels // size), size * inner)


def _channels_first(array: NDArray[Any], layout: Layout, dim: int) -> NDArray[Any]:
    """Returns `array` as (outer, channels, inner), with the channels of `dim` in the middle."""
    groups, rows, channels, positions = layout.sizes
    split = layout.split(array)
    if dim == 1:
        return split.reshape(groups * rows, channels, positions)
    return split.reshape(1, groups * rows, channels * positions)


def _channels_back(array: NDArray[Any], layout: Layout, dim: int) -> NDArray[Any]:
    """Returns the inverse of `_channels_first`."""
    return layout.join(array.reshape(layout.sizes))


def _needed(mode: Mode, layout: Layout | None) -> Layout:
    if layout is None:
        raise NotApplicable(f"{type(mode).__name__} needs input and output channels")
    return layout


def _axis_name(dim: int) -> str:
    return "input channels" if dim == 1 else "output channels"


def _largest_not_above(limit: float, dtype: np.dtype[Any]) -> int:
    """Returns the key of the largest value of `dtype` that is no larger than `limit`."""
    with np.errstate(over="ignore"):
        rounded = np.asarray(limit, dtype)
    if float(rounded) > limit:
        rounded = np.nextafter(rounded, dtype.type(0))
    return int(keys_of(rounded))


def _is_int(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _check_int(option: str, name: str, value: object, low: int) -> None:
    if not _is_int(value) or value < low:  # type: ignore[operator]
        raise ConfigError(f"{option}: {name} must be an int of {low} or more. Got {value!r}.")


def _check_dim(dim: object) -> None:
    if not _is_int(dim) or dim not in (0, 1):
        raise ConfigError(f"dim: must be 0 (output channels) or 1 (input channels). Got {dim!r}.")


def _check_number(option: str, value: object, low: float, high: float) -> None:
    valid = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not valid or not low <= value <= high:  # type: ignore[operator]
        interval = f"in [{low:g}, {high:g}]" if high < math.inf else f"of {low:g} or more"
        raise ConfigError(f"{option}: must be a number {interval}. Got {value!r}.")
