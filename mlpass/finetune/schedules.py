"""Schedules: which sparsity holds after which training step, as coremltools defines them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

from mlpass.errors import ConfigError


class Schedule(Protocol):
    """A course of sparsity over training steps, counted from 1."""

    def sparsity(self, step: int, initial: float, target: float) -> float:
        """Returns the sparsity that holds after `step`."""


@dataclass(frozen=True)
class ConstantSparsity:
    """The initial sparsity before `begin_step`, the target from then on.

    Args:
        begin_step: 0 or more.
    """

    begin_step: int = 0

    def __post_init__(self) -> None:
        if not _is_step(self.begin_step):
            raise ConfigError(f"begin_step: must be an int of 0 or more. Got {self.begin_step!r}.")

    def sparsity(self, step: int, initial: float, target: float) -> float:
        """Returns the sparsity that holds after `step`."""
        return target if step >= self.begin_step else initial


@dataclass(frozen=True)
class PolynomialDecay:
    """From the initial sparsity to the target at given steps, ever more slowly.

    At the i-th of k update steps it is target + (initial - target) (1 - i / (k - 1))^power; in
    between it stays. With one update step it is the target from there on.

    Args:
        update_steps: ints of 0 or more, ascending.
        power: above 0.

    Source: Zhu and Gupta, "To prune, or not to prune", 2017, equation 1, at any steps.
    """

    update_steps: Iterable[int]
    power: float = 3

    def __post_init__(self) -> None:
        steps = tuple(self.update_steps)
        ascending = all(first < second for first, second in pairwise(steps))
        if not steps or not all(map(_is_step, steps)) or not ascending:
            shown = str(list(steps))[:60]
            raise ConfigError(f"update_steps: must be ascending ints of 0 or more. Got {shown}.")
        number = isinstance(self.power, int | float) and not isinstance(self.power, bool)
        if not number or not self.power > 0:
            raise ConfigError(f"power: must be a number above 0. Got {self.power!r}.")
        object.__setattr__(self, "update_steps", steps)

    def sparsity(self, step: int, initial: float, target: float) -> float:
        """Returns the sparsity that holds after `step`."""
        steps = tuple(self.update_steps)
        number = bisect_right(steps, step) - 1
        if (
            number < 0 or steps[number] == 0 < len(steps) - 1
        ):  # training begins with the initial one
            return initial
        left = 1.0 - number / (len(steps) - 1) if len(steps) > 1 else 0.0
        # In this order of operations it is coremltools' to the last bit.
        return float(target + (initial - target) * left**self.power)


def _is_step(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
