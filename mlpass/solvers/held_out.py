"""What a solve comes to on rows that it did not see, and how far few rows are to be trusted.

A solver fits kept weights to the rows that it is given. Of few rows, fewer than columns say, most
of what seems to correlate is chance, and what was fitted to it does harm on others: magnitude alone
may do better. So some rows are kept back, the method is tried on the others with more and more of
the Gram's off-diagonal taken away, up to nothing but magnitude, and what loses least on those kept
back is what all rows are then solved with. Inputs that do correlate are told from few rows, and so
keep the method as it is.

A method that only ranks has little to gain by a sample, and may lose by it: rows of one sample are
much alike, so that even those kept back do not tell of other samples. Where they are fewer than
columns, it is magnitude. So is any method where one sample of few rows leaves many inputs silent:
other samples will need what it would prune there first, and no row of this one says so. Places of
one picture are so much alike that what those kept back promise says nothing of other pictures, with
however many rows: there a method that makes up for what it prunes gives way to one that only ranks.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from math import inf, sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlpass.arrays import Array, host, placed
from mlpass.errors import NotApplicable
from mlpass.solvers.estimate import Excerpt, excerpt
from mlpass.solvers.gram import Gram
from mlpass.solvers.problem import Method
from mlpass.solvers.settle import ROUNDS
from mlpass.solvers.solve import solve
from mlpass.solvers.wanda import Magnitude, Ranking, Wanda
from mlpass.sparsity.layout import Layout
from mlpass.sparsity.mode import Mode
from mlpass.storage.storage import Storage

SHARES: tuple[float, ...] = (0.0, 0.1, 0.3, 0.6, 1.0)
# With as many rows as columns: more would do harm, less does little.
_ENOUGH_SHARES = (0.0, 0.3)
PLENTY = 16  # rows for each column, from which on there is nothing to choose
ENOUGH = 4  # for each column: so many usually do
_NOISE = 0.05  # of an error, which is neither here nor there
_DOUBT = 0.4  # over the root of the rows kept back: by that share errors on them may be off
_PICTURE = "places of a single picture are much alike"
_SAFER = "it loses no more on rows kept back"
_SILENT = 1e-3  # of the mean power: an input below that is silent
_MANY = 0.05  # of the inputs
_RUNS, _ENOUGH = 12, 1 << 13  # of 8 output rows, and elements: of a large weight, what is tried


@dataclass(frozen=True, eq=False)
class HeldOut:
    """What the rows of a weight's inputs tell, but for some, and what those that are kept back do.

    Attributes:
        learnt: Gram of most rows; None without any.
        held: of those kept back; None without any.
        rows: how many both have.
        held_rows: how many were kept back.
        alone: whether those are of the one sample that the others are of as well.
        neighbours: whether all are places of one picture.
    """

    learnt: Gram | None
    held: Gram | None
    rows: int
    held_rows: int
    alone: bool = False
    neighbours: bool = False


class Choice(NamedTuple):
    """How to solve for a weight.

    Attributes:
        method: with which.
        shrinkage: as of `solve`.
        reason: why that is not the method that was asked for; None where it is.
        error: on the rows kept back, relative, of a solve on the others; None where none are.
        before: the same of `Magnitude()`.
    """

    method: Method
    shrinkage: float = 0.0
    reason: str | None = None
    error: float | None = None
    before: float | None = None


def tried_rows(
    weight: NDArray[np.generic], layout: Layout, gram: Gram, runs: int = _RUNS
) -> Excerpt:
    """Returns the rows of a weight that tell `choose` of all.

    Args:
        weight: in the shape of `layout`.
        layout: of the weight.
        gram: of inputs.
        runs: at the least, of 8 rows each.
    """
    return excerpt(weight, None, layout, gram, runs, _ENOUGH)


def choose(
    weight: NDArray[np.generic],
    parts: HeldOut,
    mode: Mode,
    *,
    method: Method,
    storage: Storage | None,
    target: NDArray[np.generic] | None,
    layout: Layout,
    rounds: int = ROUNDS,
) -> Choice:
    """Returns how to solve for a weight so that it does well on inputs that no solve saw.

    Where rows are plentiful that is as asked, and what it comes to is all that is worked out. Of a
    large weight some output rows tell for all.

    Args:
        weight: in the shape of `layout`, in numpy's array.
        parts: what its inputs tell.
        mode: which elements may stay.
        method: that was asked for.
        storage: as for `solve`.
        target: likewise.
        layout: of the weight.
        rounds: as for `solve`.

    Raises:
        CalibrationError: a Gram is not positive semidefinite.
    """
    columns, learnt, held = layout.columns, parts.learnt, parts.held
    ranks = isinstance(method, Ranking) and not method.refit
    if parts.neighbours and mode.target is not None and not ranks:
        found = choose(
            weight,
            parts,
            mode,
            method=Wanda(),
            storage=storage,
            target=target,
            layout=layout,
            rounds=rounds,
        )
        return found._replace(reason=f"not {method}: {_PICTURE}")
    refits = storage is not None or not ranks
    plenty = parts.rows >= PLENTY * columns
    # A mode without a target leaves each another number of zeros: nothing to compare.
    compared = mode.target is not None
    shares = SHARES[:1]
    if refits and compared and not plenty:
        shares = SHARES if parts.rows < columns else _ENOUGH_SHARES
    most = SHARES[-1] if len(shares) > 1 else shares[0]
    safe = Magnitude() if compared else method
    if learnt is None or held is None:
        if plenty:
            return Choice(method)
        few = f"none of its {parts.rows} input rows could be kept back, for {columns} columns"
        return Choice(safe, most, None if safe == method else f"not {method}: {few}")

    def losses(runs: int) -> tuple[list[tuple[float, float]], float, float]:
        """Returns what is lost with each share, by magnitude, and by the safe method."""
        some = tried_rows(weight if target is None else target, layout, held, runs)
        part: Array = placed(some.like(weight, layout), held.diagonal)
        aim = None if target is None else some.weight

        def lost(method: Method, shrinkage: float, storage: Storage | None) -> float:
            found = solve(
                part,
                learnt,
                mode,
                method=method,
                storage=storage,
                target=aim,
                layout=some.layout,
                shrinkage=shrinkage,
                rounds=rounds,
            )
            return some.error(found.weight, held)

        tried: list[tuple[float, float]] = []
        for share in shares:
            tried.append((lost(method, share, storage), share))
            if len(tried) > 1 and tried[-1][0] > tried[-2][0]:  # more does more harm
                break
        before = lost(Magnitude(), 0.0, None)
        if storage is None or safe == method:
            return tried, before, before
        return tried, before, inf if plenty else lost(safe, most, storage)

    for runs in (_RUNS, layout.sizes[1]):  # a storage may have tables for more rows than some
        with suppress(NotApplicable):
            tried, before, least = losses(runs)
            break
    else:
        return Choice(method)  # the solve itself says what does not fit, if it does not
    best, first = min(tried), tried[0]
    known = parts.rows >= (PLENTY if refits else 1) * columns and not parts.alone
    apart = 1 if parts.alone else parts.held_rows  # rows of one sample are much alike
    doubt = 0.0 if known else max(0.0, _DOUBT / sqrt(apart) - _NOISE)
    bound = least * (1 - doubt)
    why = _alone(parts, learnt, columns, ranks=ranks) if parts.alone else None
    if safe != method and (why or best[0] > bound):
        return Choice(safe, most, f"not {method}: {why or _SAFER}", least, before)
    if parts.rows >= columns and first[0] <= min((1 + _NOISE) * best[0], bound):
        best = first
    return Choice(method, best[1], None, best[0], before)


def _alone(parts: HeldOut, learnt: Gram, columns: int, *, ranks: bool) -> str | None:
    """Returns why a sample alone is not to be trusted; None where it may be."""
    if ranks and parts.rows < columns:
        return f"one sample gives {parts.rows} rows for {columns} columns"
    powers = host(learnt.diagonal)
    silent = float(np.mean(powers < _SILENT * powers.mean()))
    if parts.rows < ENOUGH * columns and silent > _MANY:
        return f"{silent:.0%} of its inputs are silent in the only sample"
    return None
