"""How a compressed model is tuned region by region: the options of that training, checked."""

from __future__ import annotations

from dataclasses import dataclass

from mlpass.options import check_options, option

LEARNING_RATE = 2e-4


@dataclass(frozen=True)
class Regions:
    """Training of one stretch of a program after another, towards the dense model.

    Attributes:
        epochs: how often all samples are trained on, in each region.
        batch_size: samples a step of training; those that differ in shape run apart.
        learning_rate: the highest one, of Adam.
        seed: of the order of the samples, and of the choice of those that are held out.
        held_out: share of the samples that are not trained on: they say which values to keep.
        weights_only: whether biases and gains stay as they are.
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
    batch_size: int = option(default=8, low=1, high=65_536, help="samples a batch")
    learning_rate: float = option(default=LEARNING_RATE, above=0, help="of Adam")
    seed: int = option(
        default=0, low=0, high=18_446_744_073_709_551_615, help="of the order of the samples"
    )
    held_out: float = option(
        default=0.125,
        above=0,
        high=0.9,
        must="a number above 0, at most 0.9",
        help="share of the samples that only choose the values to keep",
    )
    weights_only: bool = option(default=False, help="biases and gains stay as they are")

    target: str = option(
        default="dense",
        choices=("dense", "own", "mix", "best"),
        help="what a region aims at: the dense model's values, what its own dense weights make of "
        "its inputs, half way, or whichever of these is best on samples held out",
    )
    window: int = option(
        default=1, low=1, high=64, help="neighbouring regions that train together, sliding by one"
    )

    def __post_init__(self) -> None:
        check_options(self)
