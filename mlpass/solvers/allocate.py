"""How a total sparsity, or a total of bytes, is divided among layers."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from mlpass.arrays import Array, host, namespace, placed, total
from mlpass.errors import ConfigError
from mlpass.solvers.gram import Gram
from mlpass.solvers.problem import Method
from mlpass.solvers.solve import solve
from mlpass.sparsity.layout import Layout
from mlpass.sparsity.modes import Percentile

_SPREAD = 0.08  # how far a layer's sparsity may be from that of all, either way


@dataclass(frozen=True)
class Curve:
    """What each sparsity costs a layer.

    Attributes:
        size: how many weights the layer has.
        sparsities: ascending, 0 to 1.
        errors: summed output error at each, in one unit for all layers.
        nbytes: stored bytes at each; None where only the sparsity counts.
    """

    size: int
    sparsities: Sequence[float]
    errors: Sequence[float]
    nbytes: Sequence[int] | None = None


def error_curve(
    weight: Array,
    gram: Array | Gram,
    sparsities: Sequence[float],
    *,
    method: Method,
    layout: Layout | None = None,
) -> Curve:
    """Returns a layer's relative output error at each sparsity, by solving at each.

    Args:
        weight: as for `solve`, like all but the next.
        gram: X^T X, as for `solve`.
        sparsities: ascending, 0 to 1; none may be given twice.
        method: the same for all layers, or their curves cannot be compared.
        layout: what the axes of `weight` are; None for a plain matrix.

    Raises:
        CalibrationError: as `solve`.
        ConfigError: a sparsity is not in [0, 1].
    """
    shared = gram if isinstance(gram, Gram) else Gram(gram)
    errors = [
        solve(weight, shared, Percentile(sparsity), method=method, layout=layout).error
        for sparsity in sparsities
    ]
    return Curve(prod(weight.shape), list(sparsities), errors)


def outlier_share(weight: Array, gram: Array | Gram, times: float = 5.0) -> float:
    """Returns the share of a layer's scores, |w| times input norm, above `times` their mean.

    Args:
        weight: (groups, rows, columns) or (rows, columns).
        gram: X^T X, as for `solve`.
        times: what makes an outlier.
    """
    shared = gram if isinstance(gram, Gram) else Gram(gram)
    lengths = np.sqrt(host(shared.diagonal))
    score = namespace(weight).abs(weight) * placed(lengths, weight)[:, None, :]
    size = prod(weight.shape)
    outliers = int((score > times * total(score) / size).sum())
    return outliers / size


def owl(sizes: Sequence[int], outliers: Sequence[float], sparsity: float) -> list[float]:
    """Returns sparsities that spare layers with many outliers, and average to the wanted one.

    Source: Yin et al. 2024, "Outlier Weighed Layerwise Sparsity (OWL)", arXiv 2310.05175.

    Args:
        sizes: weights of each layer.
        outliers: from `outlier_share`, one a layer.
        sparsity: of all layers together, 0 to 1.

    Raises:
        ConfigError: the sparsity is not in [0, 1].
    """
    _check(sparsity)
    shares = np.asarray(outliers, np.float64)
    room = min(_SPREAD, sparsity, 1 - sparsity)
    extent = shares.max() - shares.min() if shares.size else 0.0
    if extent == 0:
        return [sparsity] * len(sizes)
    offset = (shares - shares.min()) / extent * 2 * room
    offset -= np.average(offset, weights=np.asarray(sizes, np.float64))
    # Sizes may pull the mean to one side: then less of the spread is used.
    largest = float(np.abs(offset).max())
    return [float(sparsity - each * min(1.0, room / largest)) for each in offset]


def least_error(
    curves: Sequence[Curve], *, sparsity: float | None = None, nbytes: int | None = None
) -> list[float]:
    """Returns each layer's sparsity for which the summed error is least within a budget.

    Each curve's lower convex hull is walked in steps; the step that costs the least error for what
    it saves goes first, until the budget holds. On the hulls that is the optimum. A sparsity budget
    is met exactly: the last step is taken in part, on the line between two measured points.

    Args:
        curves: one a layer.
        sparsity: of all layers together; or
        nbytes: that all layers together may take.

    Raises:
        ConfigError: neither or both budgets are given, or the curves do not reach it.
    """
    if (sparsity is None) == (nbytes is None):
        raise ConfigError("allocate: give a sparsity or a number of bytes, not both.")
    if sparsity is not None:
        _check(sparsity)
    savings = [_saved(curve, sparsity is None) for curve in curves]
    if sparsity is not None:
        needed = sparsity * sum(curve.size for curve in curves)
    else:
        needed = sum((curve.nbytes or [0])[0] for curve in curves) - float(nbytes or 0)
    needed -= sum(saved[0] for saved in savings)
    hulls = [
        lower_hull(saved, np.asarray(curve.errors, np.float64))
        for saved, curve in zip(savings, curves, strict=True)
    ]
    at = [0] * len(curves)
    chosen = [float(curve.sparsities[hull[0]]) for curve, hull in zip(curves, hulls, strict=True)]
    queue: list[tuple[float, int]] = []

    def offer(layer: int) -> None:
        hull, saved, errors = hulls[layer], savings[layer], curves[layer].errors
        if at[layer] + 1 < len(hull):
            here, there = hull[at[layer]], hull[at[layer] + 1]
            price = (errors[there] - errors[here]) / (saved[there] - saved[here])
            heapq.heappush(queue, (float(price), layer))

    for layer in range(len(curves)):
        offer(layer)
    while needed > 1e-9 * max(1.0, abs(needed)):
        if not queue:
            raise ConfigError(
                "allocate: the layers' curves do not reach the budget; ask for less sparsity, or "
                "allow more bytes"
            )
        _, layer = heapq.heappop(queue)
        here, there = hulls[layer][at[layer]], hulls[layer][at[layer] + 1]
        gain = float(savings[layer][there] - savings[layer][here])
        part = min(1.0, needed / gain) if sparsity is not None else 1.0
        first, last = curves[layer].sparsities[here], curves[layer].sparsities[there]
        chosen[layer] = float(first + part * (last - first))
        needed -= part * gain
        at[layer] += 1
        offer(layer)
    return chosen


def _saved(curve: Curve, in_bytes: bool) -> NDArray[np.float64]:
    """Returns what each point of a curve saves: zeros, or bytes from the first point on."""
    lengths = {len(curve.sparsities), len(curve.errors), len(curve.nbytes or curve.errors)}
    if len(lengths) > 1 or not curve.sparsities:
        raise ConfigError("allocate: a curve needs as many errors and bytes as sparsities.")
    if not in_bytes:
        return np.asarray(curve.sparsities, np.float64) * curve.size
    if curve.nbytes is None:
        raise ConfigError("allocate: a budget of bytes needs the bytes of every curve.")
    return curve.nbytes[0] - np.asarray(curve.nbytes, np.float64)


def lower_hull(saved: NDArray[np.float64], errors: NDArray[np.float64]) -> list[int]:
    """Returns the points of the lower convex hull of errors over savings, from the first on."""
    hull: list[int] = []
    for point in np.lexsort((errors, saved)).tolist():
        if saved[point] < saved[0] or (hull and saved[point] <= saved[hull[-1]]):
            continue
        while len(hull) > 1:
            before, last = hull[-2], hull[-1]
            straight = (errors[point] - errors[before]) * (saved[last] - saved[before])
            if (errors[last] - errors[before]) * (saved[point] - saved[before]) < straight:
                break
            hull.pop()
        hull.append(point)
    return hull


def _check(sparsity: float) -> None:
    if not 0 <= sparsity <= 1:
        raise ConfigError(f"sparsity: must be a number in [0, 1]. Got {sparsity!r}.")
