"""Swaps of a kept and a pruned weight, each by the exact change of the output error.

With D = V - W' what a row lacks and r = D G, to leave out w_j costs `w_j (2 r_j + w_j G_jj)`, and
to take in k, at its best value, then gains `(r_k + w_j G_jk)^2 / G_kk`. A swap is made where it
gains more than it costs, as exactly as that: others stay as they are, and are solved for again
once a round is done. Rows do not meet, so they swap side by side.

It pays after methods that decide the mask by scores or column by column. ADMM's masks hardly have
a swap left in them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mlpass.arrays import host, placed, ratio
from mlpass.parallel import map_items
from mlpass.solvers.gram import output_power
from mlpass.solvers.problem import Problem, Pruned
from mlpass.solvers.products import Part, jobs, product
from mlpass.solvers.refit import refit
from mlpass.storage.storage import Floats

_SMALL = 16  # columns of a set, of which all pairs are looked at
_TRIED, _TIMES = 2, 16  # of a larger set: the cheapest to leave out, and how often in a round
_LEAST = 1e-5  # of what leaving one out costs: what a swap has to gain, or it may be rounding


def swapped(problem: Problem, found: Pruned, rounds: int, dampening: float) -> Pruned:
    """Returns a result with elements swapped and refitted, with as many zeros in each row.

    It is the result itself where the mode ties elements to each other, or where nothing is gained.

    Args:
        problem: one weight.
        found: refitted on its mask.
        rounds: at most, each with a refit.
        dampening: as for `refit`.
    """
    sets = problem.mode.exchanges(problem.layout)
    if problem.gram.is_diagonal or not sets or not rounds:
        return found
    hosted = problem.hosted
    weight, keep = host(found.weight), host(found.keep)
    power = output_power(weight - hosted.target, hosted.gram)
    best = found._replace(power=power)
    square: Floats = np.array(host(hosted.gram.matrix))
    np.einsum("gcc->gc", square)[:] += np.float32(dampening) * host(hosted.gram.means)[:, None]
    for _ in range(rounds):
        weight, keep, count = _round(host(hosted.target), weight, keep, sets, square)
        if count == 0:
            break
        weight = host(refit(hosted, keep, weight, dampening=dampening))
        power = output_power(weight - hosted.target, hosted.gram)
        if power < (best.power or 0.0):
            kept = placed(keep, problem.weight)
            best = best._replace(weight=placed(weight, problem.weight), keep=kept, power=power)
    return best


def _round(
    target: Floats,
    weight: Floats,
    keep: NDArray[np.bool_],
    sets: list[NDArray[np.intp]],
    square: Floats,
) -> tuple[Floats, NDArray[np.bool_], int]:
    """Returns a weight and its mask after swaps in each set, and how many there were."""
    pull = product(target - weight, square)
    weight, keep = weight.copy(), keep.copy()

    def swap_rows(part: Part) -> int:
        shape = weight[part].shape
        rows = _Rows(weight[part], pull[part], keep[part], square[part[0]])
        count = sum(rows.swap(columns) for columns in sets)
        weight[part], keep[part] = rows.weight.reshape(shape), rows.keep.reshape(shape)
        return count

    return weight, keep, sum(map_items(swap_rows, jobs(weight, weight.shape[2] * _TIMES)))


class _Rows:
    """Rows that swap side by side: their weight, mask, and pull, all (rows, columns)."""

    def __init__(
        self, weight: Floats, pull: Floats, keep: NDArray[np.bool_], square: Floats
    ) -> None:
        groups, rows, columns = weight.shape
        self.weight, self.pull = weight.reshape(-1, columns).copy(), pull.reshape(-1, columns)
        self.keep = keep.reshape(-1, columns).copy()
        self.square, self.group = square, np.repeat(np.arange(groups), rows)

    def swap(self, columns: NDArray[np.intp]) -> int:
        """Swaps elements within some columns, in place; returns how many."""
        small = columns.size <= _SMALL
        square = self.square[:, columns[:, None], columns]
        count = 0
        for _ in range(1 if small else _TIMES):
            made = self._swap_once(columns, square, columns.size if small else _TRIED)
            count += made
            if made == 0:
                break
        return count

    def _swap_once(self, columns: NDArray[np.intp], square: Floats, tried: int) -> int:
        """Makes the best swap of each row, in place; returns how many rows had one."""
        values, pull, keep = (each[:, columns] for each in (self.weight, self.pull, self.keep))
        power = np.einsum("gcc->gc", square)[self.group]
        cost = np.where(keep, values * (2 * pull + values * power), np.inf)
        every = np.arange(len(values))
        best, leaving, coming = (np.zeros(len(values), kind) for kind in (values.dtype, int, int))
        for _ in range(tried):
            one = cost.argmin(axis=1)
            least = cost[every, one]
            without = pull + values[every, one][:, None] * square[self.group, one]
            gain = np.where(keep, -np.inf, host(ratio(without * without, power)))
            other = gain.argmax(axis=1)
            change = least - gain[every, other]
            better = change < np.minimum(best, -_LEAST * np.abs(least))
            best[better], leaving[better], coming[better] = (
                each[better] for each in (change, one, other)
            )
            cost[every, one] = np.inf
        at = np.flatnonzero(best < 0)
        group, out, into = self.group[at], columns[leaving[at]], columns[coming[at]]
        self.pull[at] += self.weight[at, out][:, None] * self.square[group, out]
        value = self.pull[at, into] / self.square[group, into, into]
        self.pull[at] -= value[:, None] * self.square[group, into]
        self.weight[at, out], self.weight[at, into] = 0, value
        self.keep[at, out], self.keep[at, into] = False, True
        return at.size
