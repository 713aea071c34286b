"""The front of a study: the trials that are worth a look, as nothing else is as small and as good.

Two trials that differ by less than noise are not told apart by it, and a model whose outputs are as
far off as zeros would be is never on it, however small it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mlpass.report.study import Trial

SNR_NOISE = 0.1
"""Decibels by which an SNR changes with other samples, or by rounding, and tells nothing."""
SIZE_NOISE = 0.005
"""Share of a size by which names and padding make files differ."""


def with_front(trials: Sequence[Trial]) -> tuple[Trial, ...]:
    """Returns the trials with their `front` set: that of size against quality.

    Whatever is not on it, and is better than zeros, is beaten by one that is: no larger and no
    worse by more than noise. A user's own measure has its own scale: every difference in it counts.
    """
    by_value = any(trial.value is not None for trial in trials)
    noise = 0.0 if by_value else SNR_NOISE
    known = {
        (trial.nbytes or 0, trial.worth)
        for trial in trials
        if trial.quality is not None and (by_value or not trial.no_better_than_zeros)
    }
    better: list[tuple[int, float]] = []
    for size, worth in sorted(known, key=lambda point: (point[0], -point[1])):
        if not better or worth > better[-1][1] + noise:
            better.append((size, worth))
    front: list[tuple[int, float]] = []
    for size, worth in reversed(better):
        if not front or size < front[-1][0] * (1 - SIZE_NOISE):
            front.append((size, worth))
    return tuple(
        replace(trial, front=(trial.nbytes or 0, trial.worth) in front) for trial in trials
    )
