"""How a compressed model is tuned region by region: the options of that training."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

from mlpass.options import option
from mlpass.plan.training import Training

LEARNING_RATE = 2e-4


@dataclass(frozen=True)
class Regions(Training):
    """Training of one stretch of a program after another.

    Attributes:
        epochs: how often all samples are trained on, in each region; the best epoch is kept.
        target: what a region is to give: "dense", what the dense model has at its end, so that it
            makes up for the regions before it; "own", what its dense weights make of its inputs;
            "mix", half way between the two; or "best", whichever of the three leaves it nearest to
            the dense model on the samples that are held out, for three times the training.
        window: how many neighbouring regions train together: each window begins a region after the
            one before it, so that a region trains in as many.
    """

    epochs: int = option(
        default=4, low=1, high=1_000_000, help="how often a region is trained on all samples"
    )
    target: str = option(
        default="dense",
        choices=("dense", "own", "mix", "best"),
        help="what a region aims at: the dense model's values, what its own dense weights make of "
        "its inputs, half way, or whichever of these is best on samples held out",
    )
    window: int = option(
        default=1, low=1, high=64, help="neighbouring regions that train together, sliding by one"
    )
    _: KW_ONLY
    learning_rate: float = option(
        default=LEARNING_RATE,
        above=0,
        high=1000,
        must="a number above 0, at most 1000",
        help="of Adam",
    )
