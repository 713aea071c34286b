"""How a compressed model is polished: the options of that training."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

from mlpass.options import option
from mlpass.plan.training import Training

LEARNING_RATE = 1e-4


@dataclass(frozen=True)
class Polish(Training):
    """Training of the whole model at once.

    Attributes:
        steps: batches to train on; the best of the steps is kept.
    """

    steps: int = option(low=1, high=1_000_000_000, help="how many batches to train on")
    _: KW_ONLY
    learning_rate: float = option(default=LEARNING_RATE, above=0, help="of Adam")
