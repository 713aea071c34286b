"""Which weights nobody trained: left as they are, with the reason."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from mlpass.plan.fixed import (
    is_filterbank,
    is_position_table,
    is_wave_basis,
    may_be_transform,
)
from mlpass.plan.fixed_bands import is_bumps, is_narrow_bands, is_tones
from mlpass.plan.fixed_bases import is_mirrored_basis, is_plane_waves, is_short_waves
from mlpass.plan.fixed_filters import (
    is_choice,
    is_means,
    is_repeated_filter,
    is_signs,
    is_turned,
    is_turned_whole,
    may_repeat,
)
from mlpass.plan.fixed_grids import (
    is_delays,
    is_mask,
    is_places,
    is_plane_of_positions,
    is_resizing,
    is_wheel,
)
from mlpass.plan.fixed_rows import is_levels, is_polynomials, is_shifted
from mlpass.plan.fixed_slopes import is_distances, is_slopes
from mlpass.weights.ops.record import is_gathered
from mlpass.weights.reading import weight_of
from mlpass.weights.sites import Site

_SIGNS = "it is signs at right angles: a Hadamard or Haar transform, not a trained weight"
_SLOPES = "it is distances times a slope for each head: a bias of ALiBi, not a trained weight"
_CHOICE = "it is one element a row, all equal: it chooses or adds up, and is not trained"
_WAVES = "it is waves under one window: a Fourier or cosine transform, not a trained weight"
_MEANS = "each row is a mean, of equal elements that add up to 1: a pooling, not a trained weight"
_BAND = "each row is of a narrow band: gammatones, constant-Q, not a trained weight"
_TURNED = "each filter turned by half is itself: an edge, a bell or a Gabor, not a trained weight"
_TABLE = "its columns are sinusoids of the row: a table of positions, not a trained one"
_SMALL = 1 << 10  # elements of a weight that is read whole in any case
_ON_THE_FLOOR = 0.3  # of a row of a filterbank
_SIDE_BY_SIDE = (1, 2, 3, 4)  # filterbanks, as of several channels
_LONGEST = 1 << 16  # elements of a row
_SHORT = 1 << 6  # elements that are looked at first, where rows are short
_HEAD = 1 << 15  # elements; more are read only where those look like a transform's


def reason_untrained(site: Site) -> str | None:
    """Returns why a weight is not a trained one, by its numbers; None where it may be.

    Most are told apart by their first elements: the others are not read.

    Raises:
        ModelFormatError: it is broken.
    """
    with np.errstate(invalid="ignore", over="ignore"):  # no rule takes NaN or inf for fixed
        gathered = all(is_gathered(use.op.type, use.parameter) for use in site.uses)
        if gathered and _is_table(weight_of(site)):
            return _TABLE
        sizes = [size for size in site.shape if size > 1]
        if site.constant is None or len(sizes) < 2:
            return None
        return _reason_filters(site) or _reason_rows(site) or _reason_turned(site)


def _reason_rows(site: Site) -> str | None:
    """Returns why a weight's rows are not trained ones; None where they may be."""
    assert site.constant is not None  # asked before
    sizes = [size for size in site.shape if size > 1]
    head = site.constant.first(min(max(2 * sizes[-1], _SHORT), _HEAD))
    if site.constant.size > _SMALL and not may_be_transform(head):
        return None
    matrix = np.asarray(weight_of(site)).reshape(-1, sizes[-1])
    ways = [way for way in (matrix, matrix.T)[: 1 + (len(sizes) == 2)] if way.shape[1] <= _LONGEST]
    for is_fixed, reason in _RULES:
        if any(is_fixed(way) for way in ways):
            return reason
    heads = matrix.reshape(sizes[0], -1)
    if is_choice(heads):
        return _CHOICE
    return _SLOPES if any(is_slopes(way) for way in (heads, matrix.T)) else None


def _is_table(table: NDArray[np.generic]) -> bool:
    return is_position_table(table) or is_plane_of_positions(table)


def _is_transform(way: NDArray[np.generic]) -> bool:
    """Returns whether rows are waves, or real and imaginary parts of such side by side."""
    return is_wave_basis(way) or (way.shape[1] % 2 == 0 and is_wave_basis(way, 2))


def _is_bank(way: NDArray[np.generic]) -> bool:
    """Returns whether rows are a filterbank, or the same one several times over."""
    for axis, parts in itertools.product((0, 1), _SIDE_BY_SIDE):
        if way.shape[axis] % parts == 0:
            first, *others = np.split(way, parts, axis=axis)
            alike = all(
                np.array_equal(first[:rows], one[:rows]) for rows in (1, None) for one in others
            )
            if alike and _is_one_bank(first):
                return True
    return False


def _is_one_bank(matrix: NDArray[np.floating]) -> bool:
    floor = matrix.min() if matrix.size else 0
    if floor > 0 and np.mean(matrix[:1] <= 1.001 * floor) > _ON_THE_FLOOR:
        matrix = matrix - floor  # what keeps a logarithm finite
    return is_filterbank(matrix) or is_bumps(matrix)


# In the order in which they are told: some are several of these.
_RULES: tuple[tuple[Callable[[NDArray[np.floating]], bool], str], ...] = (
    (_is_transform, _WAVES),
    (is_signs, _SIGNS),
    (is_plane_waves, _WAVES),
    (is_short_waves, _WAVES),
    (is_mirrored_basis, _WAVES),
    (is_choice, _CHOICE),
    (is_means, _MEANS),
    (_is_bank, "it is filters side by side: a filterbank, as mel's is, not a trained weight"),
    (is_narrow_bands, _BAND),
    (is_tones, _BAND),
    (is_position_table, _TABLE),
    (is_plane_of_positions, _TABLE),
    (is_places, "its columns count in equal steps: a grid of places, not a trained weight"),
    (is_mask, "it is zeros and one number that bans: a mask of attention, not a trained weight"),
    (is_wheel, "each row is a peak on a wheel: notes of all octaves, not a trained weight"),
    (is_resizing, "its rows are means whose centres move on evenly: a resizing, not trained"),
    (is_delays, "its rows are one pulse at other times: a resampling, not a trained weight"),
    (is_distances, _SLOPES),
    (
        is_shifted,
        "each row is one before it, shifted: a filter or a resizing, not a trained weight",
    ),
    (is_levels, "each row is one before it, turned: wavelets, not a trained weight"),
    (is_polynomials, "its rows are orthogonal polynomials, not a trained weight"),
    (
        is_turned_whole,
        "turned by half it is itself: a derivative or a filter, not a trained weight",
    ),
)


def _reason_filters(site: Site) -> str | None:
    """Returns why a convolution's filters are not trained ones; None where they may be."""
    assert site.constant is not None  # asked before
    head = _first_filters(site)
    if head is None or not (may_repeat(head) or is_signs(head) or is_means(head)):
        return None
    filters = _filters(site)
    if is_repeated_filter(filters):
        return "its channels have one filter in common: a blur, an upsampling, not a trained weight"
    if is_means(filters):
        return _MEANS
    return _SIGNS if is_signs(filters) else None


def _reason_turned(site: Site) -> str | None:
    """Returns why filters that are symmetric are not trained ones; None where they may be."""
    head = _first_filters(site)
    return _TURNED if head is not None and is_turned(head) and is_turned(_filters(site)) else None


def _first_filters(site: Site) -> NDArray[np.generic] | None:
    """Returns the first filters of a convolution, (channels, positions); None of other weights."""
    assert site.constant is not None  # asked before
    positions = math.prod(site.shape[2:])
    if positions < 2 or any(not use.op.type.startswith("conv") for use in site.uses):
        return None
    return site.constant.first(max(_HEAD // positions, 1) * positions).reshape(-1, positions)


def _filters(site: Site) -> NDArray[np.generic]:
    return np.asarray(weight_of(site)).reshape(-1, math.prod(site.shape[2:]))
