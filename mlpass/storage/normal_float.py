"""Tables of normal floats: quantiles of the normal distribution, zero among them."""

from __future__ import annotations

from functools import cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray


@cache
def normal_float(entries: int) -> NDArray[np.float32]:
    """Returns a table of ascending entries from -1 to 1, one of them 0 exactly.

    Half of the entries are above zero and one fewer below. For 16 it is the published one.

    Args:
        entries: 2 or more; two are 0 and 1.

    Source: Dettmers et al. 2023, "QLoRA", arXiv 2305.14314, appendix E.
    """
    outmost = round((1 - 1 / (2 * (entries - 1)) + 1 - 1 / (2 * entries)) / 2, 7)  # as published
    half = entries // 2
    above, below = _quantiles(outmost, half), _quantiles(outmost, half - 1)
    table = np.concatenate([-below, np.zeros(1, np.float32), above[::-1]])
    scaled: NDArray[np.float32] = table / above[0]
    return scaled


def _quantiles(outmost: float, count: int) -> NDArray[np.float32]:
    """Returns quantiles from `outmost` towards a half, which is left out, counted in fp32."""
    first, last = np.float32(outmost), np.float32(0.5)
    step = (last - first) / np.float32(max(1, count))
    number = np.arange(count, dtype=np.float32)
    near = number < (count + 1) // 2  # counted from the nearer end
    places = np.where(near, first + step * number, last - step * (np.float32(count) - number))
    return np.array([NormalDist().inv_cdf(float(place)) for place in places], np.float32)
