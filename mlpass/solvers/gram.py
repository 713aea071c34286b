"""The Gram of a layer's inputs: summed over samples, checked, dampened, factored."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlpass.errors import CalibrationError
from mlpass.solvers.factor import Float, upper_factor
from mlpass.solvers.problem import Array


def accumulate(gram: Float | None, inputs: NDArray[Any]) -> Float:
    """Returns the Gram with some more input rows in it.

    Args:
        gram: (groups, columns, columns) of the samples so far; None before the first.
        inputs: (groups, samples, columns) or (samples, columns), any float dtype.

    Raises:
        CalibrationError: an input is NaN or infinite, or the columns are not those of `gram`.
    """
    rows = inputs.reshape(1, *inputs.shape) if inputs.ndim == 2 else inputs
    groups, _, columns = rows.shape
    if gram is not None and gram.shape != (groups, columns, columns):
        raise CalibrationError(
            f"sample_data: a layer's inputs are (groups, columns) {(groups, columns)}, "
            f"before they were {(gram.shape[0], gram.shape[1])}."
        )
    if not np.isfinite(rows).all():
        raise CalibrationError("sample_data: a layer's inputs hold NaN or inf.")
    with np.errstate(over="ignore", invalid="ignore"):
        single = rows.astype(np.float32, copy=False)
        added: Float = np.matmul(single.swapaxes(1, 2), single)
        if gram is not None and gram.dtype == np.float32:
            added += gram
        elif gram is not None:
            added = gram + added
    if np.isfinite(added).all():
        return added
    # Squares of large activations overflow fp32. The sum is then kept in fp64 from here on.
    double = rows.astype(np.float64)
    added = np.matmul(double.swapaxes(1, 2), double)
    return added if gram is None else gram.astype(np.float64) + added


def scaled(gram: NDArray[Any]) -> Array:
    """Returns the Gram in fp32, divided by the mean of its live diagonal over all groups.

    Args:
        gram: (groups, columns, columns).

    Raises:
        CalibrationError: it holds NaN or inf, or a negative diagonal.
    """
    diagonal = np.diagonal(gram, axis1=1, axis2=2)
    if not np.isfinite(gram).all():
        raise CalibrationError("gram: holds NaN or inf.")
    if diagonal.min(initial=0.0) < 0:
        raise CalibrationError("gram: has a negative diagonal, so it is no X^T X.")
    total = float(np.sum(diagonal, dtype=np.float64))
    if total == 0:
        return gram.astype(np.float32)
    mean = total / np.count_nonzero(diagonal)
    if gram.dtype == np.float32 and 1e-30 < mean < 1e30:
        return gram * np.float32(1 / mean)
    return np.asarray(gram / mean, np.float32)


def dampened_factor(gram: Array, dampening: float) -> tuple[Array, float]:
    """Returns U of `U U^T = gram + dampening * mean * I`, and the dampening that it took.

    Where fp32 fails, fp64 is tried; where that fails, ten times the dampening, up to 1. A column
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
        for dtype in (np.float32, np.float64):
            damped: Any = gram.astype(dtype)
            np.einsum("ii->i", damped)[:] = raised + dtype(dampening * mean)
            try:
                factor = upper_factor(damped)
            except np.linalg.LinAlgError:
                continue
            if np.isfinite(factor).all():
                return factor.astype(np.float32, copy=False), dampening
        if dampening >= 1:
            raise CalibrationError("gram: is not positive semidefinite, so it is no X^T X.")
        dampening = min(1.0, max(10 * dampening, 1e-6))
