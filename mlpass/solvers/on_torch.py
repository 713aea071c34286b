"""Grams, factors and their products on torch tensors: importing this module imports torch.

What fp32 cannot do goes to the processor, in fp64: a Mac's GPU has none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch

from mlpass.errors import CalibrationError
from mlpass.solvers.accumulate import FAINT, LIMIT
from mlpass.solvers.gram import dampened_factor
from mlpass.sparsity.tensors import has_double, host, placed

Tensor = torch.Tensor


class TensorSum:
    """X^T X on a device while samples come in."""

    def __init__(self, gram: Tensor) -> None:
        """Starts from a Gram, (groups, columns, columns)."""
        with torch.inference_mode(False):  # it may be added to outside as well
            self._sum = gram.clone()
        self._peak, self._count = 0.0, 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the Gram."""
        return tuple(self._sum.shape)

    def add_all(self, portions: Iterable[tuple[Tensor, str]]) -> None:
        """Takes in (groups, samples, columns) each, with what an error is to say of it.

        Raises:
            CalibrationError: an input is NaN or infinite.
        """
        for rows, whose in portions:
            self._add(rows, whose)

    def _add(self, rows: Tensor, whose: str) -> None:
        if rows.numel() == 0:
            return
        rows = rows.float() if rows.itemsize < 4 else rows
        finite = rows.isfinite().all()
        valid, peak = host(torch.stack([finite.to(rows.dtype), rows.abs().amax()])).tolist()
        if not valid:
            raise CalibrationError(f"sample_data: a layer's inputs hold NaN or inf.{whose}")
        self._widen(peak, rows.shape[1])
        rows = rows.to(self._sum.device, self._sum.dtype)
        self._sum.baddbmm_(rows.mT, rows)

    def total(self) -> Tensor:
        """Returns the Gram so far, symmetric in every bit."""
        return self._sum.triu() + self._sum.triu(1).mT

    def _widen(self, peak: float, samples: int) -> None:
        """Goes over to fp64 where squares may overflow fp32, or lose their digits at its end."""
        self._peak, self._count = max(self._peak, peak), self._count + samples
        square = self._peak * self._peak
        overflows = square * self._count > LIMIT or 0 < square < FAINT
        if overflows and self._sum.dtype == torch.float32:
            with torch.inference_mode(False):
                self._sum = double(self._sum)


def double(tensor: Tensor) -> Tensor:
    """Returns a tensor in fp64: on the processor where the device has no such type."""
    return tensor.double() if has_double(tensor) else tensor.cpu().double()


def added(grams: Sequence[Tensor]) -> Tensor:
    """Returns the sum of Grams, some of which may have gone to the processor."""
    first, *others = sorted(grams, key=lambda gram: gram.dtype != torch.float64)
    for other in others:
        first = first + other.to(first.device)
    return first


def scaled(gram: Tensor) -> Tensor:
    """Returns a Gram in fp32, divided by the mean of its live diagonal over all groups.

    Args:
        gram: (groups, columns, columns), or (groups, columns) where it is diagonal.

    Raises:
        CalibrationError: it holds NaN or inf, or a negative diagonal.
    """
    diagonal = torch.einsum("gii->gi", gram) if gram.ndim == 3 else gram
    if not bool(gram.isfinite().all()):
        raise CalibrationError("gram: holds NaN or inf.")
    exact = host(diagonal).astype(np.float64)
    if exact.min(initial=0.0) < 0:
        raise CalibrationError("gram: has a negative diagonal, so it is no X^T X.")
    mean = exact.sum() / max(1, np.count_nonzero(exact)) or 1.0
    narrow = gram.dtype == torch.float32 and 1e-30 < mean < 1e30
    wide = gram if narrow else double(gram)
    return (wide * (1 / mean)).to(gram.device, torch.float32)


def dampened_factors(
    grams: Tensor, dampening: float | Sequence[float]
) -> tuple[Tensor, list[float]]:
    """Returns U of each group as `dampened_factor` does, and the dampening that each took.

    What fp32 cannot factor is left to that function, which knows what to do.

    Args:
        grams: (groups, columns, columns).
        dampening: fraction of a group's mean live diagonal, of all groups or of each.

    Raises:
        CalibrationError: a group is not positive semidefinite.
    """
    diagonal = torch.einsum("gii->gi", grams)
    live = diagonal != 0
    mean = diagonal.sum(dim=1) / live.sum(dim=1).clamp(min=1)
    mean = torch.where(mean > 0, mean, 1.0)[:, None]
    shares = [dampening] * len(grams) if isinstance(dampening, float | int) else [*dampening]
    damped = grams.clone()
    fractions = placed(np.array(shares, np.float32), grams)[:, None]
    raised = torch.where(live, diagonal, mean) + fractions * mean
    torch.diagonal(damped, dim1=1, dim2=2).copy_(raised)
    lower, failed = _possible(torch.linalg.cholesky_ex, damped.flip(1, 2))
    upper, used = lower.flip(1, 2), shares.copy()
    wrong = (failed != 0) | ~upper.isfinite().flatten(1).all(dim=1)
    for group in np.flatnonzero(host(wrong)).tolist():
        factor, used[group] = dampened_factor(host(grams[group]), shares[group])
        upper[group] = placed(factor, upper)
    return upper, used


def triangular_inverse(upper: Tensor) -> Tensor:
    """Returns U^-1 of each upper triangular U, (groups, columns, columns)."""
    unit = torch.eye(upper.shape[1], dtype=upper.dtype, device=upper.device).expand_as(upper)

    def solve(upper: Tensor, unit: Tensor) -> tuple[Tensor]:
        return (torch.linalg.solve_triangular(upper, unit, upper=True),)

    inverse: Tensor = _possible(solve, upper, unit)[0]
    return inverse


def inverses(uppers: Tensor) -> Tensor:
    """Returns `(U U^T)^-1` of each upper triangular U, (groups, columns, columns)."""
    spread = triangular_inverse(uppers)
    return spread.mT @ spread


def _possible(function: Callable[..., tuple[Any, ...]], *tensors: Tensor) -> tuple[Any, ...]:
    """Returns what a function makes of tensors; on the processor where their device has it not."""
    try:
        return function(*tensors)
    except NotImplementedError:
        results = function(*(tensor.cpu() for tensor in tensors))
        return tuple(result.to(tensors[0].device) for result in results)
