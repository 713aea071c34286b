"""How a weight that is compressed already is solved for: its zeros stay, and so does its coding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from mlpass.plan.steps import Step
from mlpass.solvers.problem import Method
from mlpass.sparsity.layout import Layout
from mlpass.sparsity.mode import Mode
from mlpass.sparsity.ranking import Mask, Score
from mlpass.storage.storage import Storage
from mlpass.weights.recoding import AsCoded


@dataclass(frozen=True)
class Further(Mode):
    """Zeroes what another mode does, and leaves what is zero already.

    The mask is decided before anything changes, while scores still say what is zero.
    """

    mode: Mode

    @property
    def target(self) -> float | None:
        """The sparsity that the other leads to."""
        return self.mode.target

    def keep(self, score: Score, layout: Layout | None = None) -> Mask:
        """Returns the other's keep mask, without what has no score."""
        keep: Mask = self.mode.keep(score, layout) & (score != 0)
        return keep

    def per_row(self) -> Mode:
        """Returns the same of the other where that ranks each row by itself."""
        return Further(self.mode.per_row())


class Approach(NamedTuple):
    """How a weight is solved for.

    Attributes:
        mode: by which it is pruned.
        method: that prunes it.
        storage: that it is rounded to; None where it is to none.
    """

    mode: Mode
    method: Method
    storage: Storage | None


def approach(step: Step, mode: Mode, method: Method) -> Approach:
    """Returns how the weight of a step is solved for.

    Args:
        step: what is to become of it.
        mode: the step's.
        method: that was asked for. Where zeros are to stay, it is one that does not move them.
    """
    site, storage = step.site, step.storage
    if site.is_masked:
        mode = Further(mode)
        method = method.still
    if site.has_codes and storage is None:
        storage = AsCoded(site)
    return Approach(mode, method, storage)
