"""A pipeline's part that keeps one of several boxes around the same thing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mlpass.errors import InputError
from mlpass.runtime.description import Description, Feature, describe_part

if TYPE_CHECKING:
    from mlpass.program.proto import Message

SUPPRESSION = "nonMaximumSuppression"  # as the message calls it


@dataclass(frozen=True, eq=False)
class Suppression:
    """A part of that kind.

    Attributes:
        description: its inputs and outputs, the thresholds among the inputs.
        message: what it is stored as.
    """

    description: Description
    message: Message

    @classmethod
    def of(cls, model: Message) -> Suppression:
        """Returns the part that a model message holds."""
        described, message = describe_part(model), model.nonMaximumSuppression
        names = (message.iouThresholdInputFeatureName, message.confidenceThresholdInputFeatureName)
        inputs = [each for each in described.inputs if each.name not in names]
        inputs += [Feature(name, "number", optional=True) for name in names if name]
        return cls(replace(described, inputs=tuple(inputs)), message)

    def run(self, given: Mapping[str, object]) -> dict[str, NDArray[np.generic]]:
        """Returns the confidences and coordinates of the boxes that are kept, the surest first.

        Args:
            given: by name, confidences (boxes, classes) and coordinates (boxes, 4): x and y of the
                centre, width and height; and thresholds in the place of the part's own.

        Raises:
            InputError: they do not fit.
        """
        message = self.message
        names = (message.confidenceInputFeatureName, message.coordinatesInputFeatureName)
        confidence, boxes = (_rows(given, name) for name in names)
        if len(confidence) != len(boxes) or boxes.shape[1] != 4:
            raise InputError(
                f"{SUPPRESSION}: {names[0]!r} and {names[1]!r} must be (boxes, classes) and "
                f"(boxes, 4). Got {confidence.shape} and {boxes.shape}."
            )
        radius = _number(given, message.iouThresholdInputFeatureName, message.iouThreshold)
        least = _number(
            given, message.confidenceThresholdInputFeatureName, message.confidenceThreshold
        )
        kept = pick_top(confidence, boxes, radius, least, per_class=message.pickTop.perClass)
        low, high = self._rows()
        results = {
            message.confidenceOutputFeatureName: confidence[kept[:high]],
            message.coordinatesOutputFeatureName: boxes[kept[:high]],
        }
        missing = max(0, low - len(kept))
        return {name: np.pad(rows, ((0, missing), (0, 0))) for name, rows in results.items()}

    def _rows(self) -> tuple[int, int | None]:
        """Returns how many boxes come out at least, and at most."""
        low, high = 0, None
        for feature in self.description.outputs:
            sizes = feature.shapes.ranges[:1]
            if feature.shapes.listed:
                rows = [shape[0] for shape in feature.shapes.listed]
                sizes = ((min(rows), max(rows)),)
            for least, most in sizes:
                low = max(low, least)
                high = most if high is None else min(high, most or high)
        return low, high


def pick_top(
    confidence: NDArray[np.floating],
    boxes: NDArray[np.floating],
    radius: float,
    least: float,
    *,
    per_class: bool,
) -> list[int]:
    """Returns the numbers of the boxes that are kept, the surest first.

    Source: NonMaximumSuppression.proto of Core ML, PickTop.

    Args:
        confidence: (boxes, classes); of a box, the largest counts.
        boxes: (boxes, 4), x and y of the centre, width and height.
        radius: boxes whose intersection over union with one that is kept is above it go.
        least: and so do boxes of less confidence.
        per_class: whether a box drives out those of its own label alone.
    """
    sure, label = confidence.max(1, initial=0), confidence.argmax(1) if confidence.size else None
    half = boxes[:, 2:] / 2
    low, high = boxes[:, :2] - half, boxes[:, :2] + half
    area = np.prod(boxes[:, 2:], axis=1)
    left = [int(one) for one in np.argsort(-sure, kind="stable") if sure[one] >= least]
    kept = []
    while left:
        top, others = left[0], np.array(left[1:], int)
        kept.append(top)
        sides = np.minimum(high[others], high[top]) - np.maximum(low[others], low[top])
        shared = np.prod(np.maximum(sides, 0), axis=1)
        stay = shared <= radius * (area[others] + area[top] - shared)
        if per_class and label is not None:
            stay |= label[others] != label[top]
        left = [int(one) for one in others[stay]]
    return kept


def _rows(given: Mapping[str, object], name: str) -> NDArray[np.floating]:
    if name not in given:
        raise InputError(f"{SUPPRESSION}: its input {name!r} is made by no part, and not given")
    array = np.asarray(given[name])
    return array.reshape(-1, array.shape[-1]) if array.ndim else array.reshape(1, 1)


def _number(given: Mapping[str, object], name: str, default: float) -> float:
    value = given.get(name) if name else None
    if value is None:
        return default
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind not in "iuf":
        raise InputError(f"input {name!r}: must be a number. Got {value!r}.")
    return float(array.reshape(()))
