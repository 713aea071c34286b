"""Which weights nobody trained: left as they are, with the reason."""

from __future__ import annotations

import math

import numpy as np

from mlpass.plan.fixed import (
    is_filterbank,
    is_position_table,
    is_wave_basis,
    may_be_transform,
)
from mlpass.plan.fixed_filters import is_choice, is_repeated_filter, is_signs, may_repeat
from mlpass.weights.ops.record import is_gathered
from mlpass.weights.reading import weight_of
from mlpass.weights.sites import Site

_SIGNS = "it is signs at right angles: a Hadamard or Haar transform, not a trained weight"
_HEAD = 1 << 15  # elements; more are read only where those look like a transform's


def reason_untrained(site: Site) -> str | None:
    """Returns why a weight is not a trained one, by its numbers; None where it may be.

    Most are told apart by their first elements: the others are not read.

    Raises:
        ModelFormatError: it is broken.
    """
    gathered = all(is_gathered(use.op.type, use.parameter) for use in site.uses)
    if gathered and is_position_table(weight_of(site)):
        return "its columns are sinusoids of the row: a table of positions, not a trained one"
    sizes = [size for size in site.shape if size > 1]
    if site.constant is None or len(sizes) < 2:
        return None
    if reason := _reason_filters(site):
        return reason
    if not may_be_transform(site.constant.first(min(2 * sizes[-1], _HEAD))):
        return None
    matrix = np.asarray(weight_of(site)).reshape(-1, sizes[-1])
    ways = (matrix, matrix.T) if len(sizes) == 2 else (matrix,)
    halves = [way.reshape(-1, way.shape[1] // 2) for way in ways if way.shape[1] % 2 == 0]
    if any(is_wave_basis(way) for way in (*ways, *halves)):
        return "it is waves under one window: a Fourier or cosine transform, not a trained weight"
    if any(is_signs(way) for way in ways):
        return _SIGNS
    if any(is_choice(way) for way in ways):
        return "it is one element a row, all equal: it chooses or adds up, and is not trained"
    if any(is_filterbank(way) for way in ways):
        return "it is triangles side by side: a filterbank, as mel's is, not a trained weight"
    return None


def _reason_filters(site: Site) -> str | None:
    """Returns why a convolution's filters are not trained ones; None where they may be."""
    assert site.constant is not None  # asked before
    positions = math.prod(site.shape[2:])
    if positions < 2 or any(not use.op.type.startswith("conv") for use in site.uses):
        return None
    head = site.constant.first(max(_HEAD // positions, 1) * positions).reshape(-1, positions)
    if not (may_repeat(head) or is_signs(head)):
        return None
    filters = np.asarray(weight_of(site)).reshape(-1, positions)
    if is_repeated_filter(filters):
        return "its channels have one filter in common: a blur, an upsampling, not a trained weight"
    if is_signs(filters):
        return _SIGNS
    return None
