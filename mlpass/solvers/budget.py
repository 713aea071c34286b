"""How many bytes each weight gets of a total: the division with the least summed error."""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd

import numpy as np

from mlpass.errors import ConfigError

_FINENESS = 400  # units of bytes a weight: a share is rounded up by at most one of them


def divide(
    nbytes: Sequence[Sequence[int]], errors: Sequence[Sequence[float]], budget: int
) -> list[int]:
    """Returns the form of each weight, by its place in that weight's menu.

    It is the exact optimum of menus whose bytes are rounded up to a unit, by dynamic programming
    over the units: `least[b]` is the least error of the weights so far in `b` units. The unit is
    what all sizes are multiples of, where that makes few enough. Where not, what rounding leaves of
    the budget is spent where it pays most.

    Args:
        nbytes: of each form of each weight.
        errors: likewise, in one unit for all weights.
        budget: bytes that all of them may take; their sum is never above it.

    Raises:
        ConfigError: the smallest forms take more.
    """
    floor = sum(map(min, nbytes))
    if floor > budget:
        raise ConfigError(
            f"budget: these weights take {floor} bytes in their smallest forms. Got {budget}."
        )
    # Every weight takes its smallest form at least: only what is above is divided.
    more = [[size - min(sizes) for size in sizes] for sizes in nbytes]
    most = sum(map(max, more))
    spare = min(budget - floor, most)
    grain = gcd(*(size for sizes in more for size in sizes))
    unit = max(1, grain, -(-spare // max(1, _FINENESS * len(nbytes))))
    units = [[-(-size // unit) for size in sizes] for sizes in more]
    chosen = _cheapest(units, errors, spare // unit)
    spent = sum(sizes[form] for sizes, form in zip(more, chosen, strict=True))
    return _filled(more, errors, chosen, spare - spent)


def _cheapest(
    units: Sequence[Sequence[int]], errors: Sequence[Sequence[float]], count: int
) -> list[int]:
    """Returns the forms with the least summed error that take no more than `count` units.

    One of each menu takes none.
    """
    least = np.zeros(count + 1)
    taken = []
    for sizes, costs in zip(units, errors, strict=True):
        best = np.full(count + 1, np.inf)
        form = np.full(count + 1, sizes.index(0), np.intp)
        for index, (more, cost) in enumerate(zip(sizes, costs, strict=True)):
            if more > count:
                continue
            total = least[: count + 1 - more] + cost
            better = total < best[more:]
            best[more:][better] = total[better]
            form[more:][better] = index
        least = best
        taken.append(form)
    left, chosen = count, []
    for sizes, form in zip(reversed(units), reversed(taken), strict=True):
        chosen.append(int(form[left]))
        left -= sizes[chosen[-1]]
    return chosen[::-1]


def _filled(
    nbytes: Sequence[Sequence[int]],
    errors: Sequence[Sequence[float]],
    chosen: Sequence[int],
    left: int,
) -> list[int]:
    """Returns better forms of some weights, in what a division left of the bytes."""
    found = [*chosen]
    while True:
        gains = [
            (costs[now] - costs[other], weight, other)
            for weight, (sizes, costs, now) in enumerate(zip(nbytes, errors, found, strict=True))
            for other in range(len(sizes))
            if sizes[other] - sizes[now] <= left and costs[other] < costs[now]
        ]
        if not gains:
            return found
        _, weight, form = max(gains)
        left -= nbytes[weight][form] - nbytes[weight][found[weight]]
        found[weight] = form
