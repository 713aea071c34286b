"""How many bytes each weight gets of a total: the division with the least summed error."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mlpass.errors import ConfigError

_FINENESS = 400  # units of bytes a weight: a share is rounded up by at most one of them


def divide(
    nbytes: Sequence[Sequence[int]], errors: Sequence[Sequence[float]], budget: int
) -> list[int]:
    """Returns the form of each weight, by its place in that weight's menu.

    It is the exact optimum of menus whose bytes are rounded up to a unit, by dynamic programming
    over the units: `least[b]` is the least error of the weights so far in `b` units.

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
    # Every weight takes its smallest form at least: only what is above is divided, and exactly 0
    # where no more is left.
    count = _FINENESS * len(nbytes)
    unit = max((budget - floor) / count, 1e-9)
    least = np.zeros(count + 1)
    taken = []
    for sizes, costs in zip(nbytes, errors, strict=True):
        best = np.full(count + 1, np.inf)
        form = np.zeros(count + 1, np.intp)
        smallest = min(sizes)
        for index, (size, cost) in enumerate(zip(sizes, costs, strict=True)):
            more = int(np.ceil((size - smallest) / unit))
            if more > count:
                continue
            total = least[: count + 1 - more] + cost
            better = total < best[more:]
            best[more:][better] = total[better]
            form[more:][better] = index
        least = best
        taken.append(form)
    left, chosen = count, []
    for sizes, form in zip(reversed(nbytes), reversed(taken), strict=True):
        chosen.append(int(form[left]))
        left -= int(np.ceil((sizes[chosen[-1]] - min(sizes)) / unit))
    return chosen[::-1]
