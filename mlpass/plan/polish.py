"""How a compressed model is polished: the options of that training."""

from __future__ import annotations

from dataclasses import dataclass

from mlpass.options import option
from mlpass.plan.training import Training


@dataclass(frozen=True)
class Polish(Training):
    """Training of the whole model at once.

    Attributes:
        steps: batches to train on; the best of the steps is kept.
    """

    steps: int = option(low=1, high=1_000_000_000, help="how many batches to train on")
