"""The outputs of a classifier."""

from __future__ import annotations

from math import prod
from typing import Any

from mlpass.arrays import Array, Namespace
from mlpass.runtime.kernels.registry import kernel


@kernel("classify")
def classify(
    xp: Namespace, *, probabilities: Array, classes: Any
) -> tuple[str | int, dict[str | int, float]]:
    """probabilities of any shape, one for each of classes -> the likeliest class, all of them."""
    listed = classes.tolist() if hasattr(classes, "tolist") else classes
    # A program states a list of numbers as an array each.
    labels = [label.item() if hasattr(label, "item") else label for label in listed]
    if len(labels) != prod(probabilities.shape):
        raise ValueError(
            f"classes: must be {prod(probabilities.shape)}, one for each probability. "
            f"Got {len(labels)}."
        )
    flat = xp.reshape(probabilities, (-1,))
    # One transfer from the device, without torch's warnings about gradients.
    values = (
        flat.tolist() if hasattr(flat, "tolist") else [float(flat[i]) for i in range(len(labels))]
    )
    return labels[int(xp.argmax(flat))], dict(zip(labels, values, strict=True))
