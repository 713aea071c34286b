"""The front of a study: the trials that are worth a look, as nothing else is as small and as good.

Two trials that differ by less than noise are not told apart by it, and a model whose outputs are as
far off as zeros would be is never on it, however small it is. Of those that noise does not tell
apart, the one that its processor takes best is on it.
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
    Where noise does not tell a trial from it that has fewer cautions, that one takes its place.
    """
    by_value = any(trial.value is not None for trial in trials)
    noise = 0.0 if by_value else SNR_NOISE
    shown = [
        trial
        for trial in trials
        if trial.quality is not None and (by_value or not trial.no_better_than_zeros)
    ]
    better: list[Trial] = []
    for trial in sorted(shown, key=lambda one: (_size(one), -one.worth)):
        if not better or trial.worth > better[-1].worth + noise:
            better.append(trial)
    front: list[Trial] = []
    for trial in reversed(better):
        if not front or _size(trial) < _size(front[-1]) * (1 - SIZE_NOISE):
            front.append(trial)
    points = {_point(_best_taken(trial, shown, noise)) for trial in front}
    return tuple(replace(trial, front=_point(trial) in points) for trial in trials)


def _best_taken(trial: Trial, others: Sequence[Trial], noise: float) -> Trial:
    """Returns a trial, or what noise does not tell from it, where that has fewer cautions."""
    near = [
        one
        for one in others
        if len(one.cautions) < len(trial.cautions)
        and _size(one) <= _size(trial) * (1 + SIZE_NOISE)
        and one.worth >= trial.worth - noise
    ]
    return min(near, key=lambda one: (len(one.cautions), -one.worth), default=trial)


def _point(trial: Trial) -> tuple[int, float, int]:
    return _size(trial), trial.worth, len(trial.cautions)


def _size(trial: Trial) -> int:
    return trial.nbytes or 0
