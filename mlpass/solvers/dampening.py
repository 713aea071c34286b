"""Factors of dampened Grams: on the host in fp64, on a device in fp32 where that will do."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from mlpass.arrays import (
    Array,
    cholesky,
    diagonals,
    host,
    namespace,
    on_host,
    placed,
    triangular_inverse,
    with_diagonals,
)
from mlpass.errors import CalibrationError
from mlpass.solvers.factor import factor_in_place, inverse


def dampened_factors(grams: Array, dampening: float | Sequence[float]) -> tuple[Array, list[float]]:
    """Returns U of each group as `dampened_factor` does, and the dampening that each took.

    What fp32 cannot factor on a device is left to that function, which knows what to do.

    Args:
        grams: (groups, columns, columns).
        dampening: fraction of a group's mean live diagonal, of all groups or of each.

    Raises:
        CalibrationError: a group is not positive semidefinite.
    """
    shares = [dampening] * grams.shape[0] if isinstance(dampening, float | int) else [*dampening]
    if on_host(grams):
        parts = [dampened_factor(*each) for each in zip(host(grams), shares, strict=True)]
        uppers = [upper for upper, _ in parts]
        upper: Array = uppers[0][None] if len(uppers) == 1 else np.stack(uppers)
        return upper, [used for _, used in parts]
    xp = namespace(grams)
    lower, failed = cholesky(xp.flip(_dampened(grams, shares), axis=(1, 2)))
    upper, taking = xp.flip(lower, axis=(1, 2)), shares.copy()
    wrong = host(failed | ~xp.all(xp.isfinite(upper), axis=(1, 2)))
    for group in np.flatnonzero(wrong).tolist():
        factor, taking[group] = dampened_factor(host(grams[group, ...]), shares[group])
        upper[group, ...] = placed(factor, upper)
    return upper, taking


def inverses(uppers: Array) -> Array:
    """Returns `(U U^T)^-1` of each upper triangular U, (groups, columns, columns)."""
    if on_host(uppers):
        return np.stack([inverse(upper) for upper in host(uppers)])
    spread = triangular_inverse(uppers)
    return spread.mT @ spread


def dampened_factor(
    gram: NDArray[np.floating], dampening: float
) -> tuple[NDArray[np.float32], float]:
    """Returns U of `U U^T = gram + dampening * mean * I`, and the dampening that it took.

    It is worked out in fp64. Where that fails ten times the dampening is tried, up to 1. A column
    that no sample reaches gets the mean on the diagonal: it is then tied to no other.

    Args:
        gram: (columns, columns).
        dampening: fraction of its mean live diagonal, 0 or more.

    Raises:
        CalibrationError: it is not positive semidefinite.
    """
    diagonal = np.einsum("ii->i", gram)
    mean = diagonal.sum(dtype=np.float64) / max(1, np.count_nonzero(diagonal)) or 1.0
    raised = np.where(diagonal == 0, mean, diagonal)
    while True:
        factor = gram.astype(np.float64)
        np.einsum("ii->i", factor)[:] = raised + dampening * mean
        with suppress(np.linalg.LinAlgError):
            factor_in_place(factor)
            if np.isfinite(np.einsum("ii", factor)):  # a row's NaN or inf is in its pivot too
                return factor.astype(np.float32), dampening
        if dampening >= 1:
            raise CalibrationError("gram: is not positive semidefinite, so it is not X^T X.")
        dampening = min(1.0, max(10 * dampening, 1e-6))


def _dampened(grams: Array, shares: Sequence[float]) -> Array:
    """Returns the Gram of each group with what `dampened_factor` adds to its diagonal."""
    xp, diagonal = namespace(grams), diagonals(grams)
    live = xp.not_equal(diagonal, 0)
    count = xp.sum(xp.astype(live, xp.float32), axis=1)
    mean = xp.sum(diagonal, axis=1) / xp.where(count > 0, count, 1.0)
    mean = xp.where(mean > 0, mean, 1.0)[:, None]
    fractions = placed(np.array(shares, np.float32), grams)[:, None]
    raised = xp.where(live, diagonal, mean) + fractions * mean
    return with_diagonals(grams, raised)
