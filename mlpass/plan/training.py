"""What every training of a compressed model is told: its options, checked."""

from __future__ import annotations

from dataclasses import dataclass

from mlpass.options import check_options, option

LEARNING_RATE = 1e-4


@dataclass(frozen=True, kw_only=True)
class Training:
    """Training of what is stored as floats towards the dense model, while masks and codes stay.

    Attributes:
        batch_size: samples a step of training; those that differ in shape run apart.
        learning_rate: the highest one, of Adam.
        seed: of the order of the samples, and of the choice of those that are held out.
        held_out: share of the samples that are not trained on: they say which values to keep.
        logits: names of outputs that are logits, where that does not show in the program.
        weights_only: whether biases and gains stay as they are.
    """

    batch_size: int = option(default=8, low=1, high=65_536, help="samples a batch")
    learning_rate: float = option(
        default=LEARNING_RATE,
        above=0,
        high=1000,
        must="a number above 0, at most 1000",
        help="of Adam",
    )
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
    logits: str | None = option(
        default=None, help="outputs that are logits, with commas between them"
    )
    weights_only: bool = option(default=False, help="biases and gains stay as they are")

    def __post_init__(self) -> None:
        check_options(self)
