"""What each config of a sweep does to each layer: texts and bars, of which a page shows one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mlpass.errors import visible
from mlpass.report.folders import without_folders
from mlpass.report.records import LayerRecord
from mlpass.report.study import Trial, number_text
from mlpass.report.table import bytes_text


@dataclass(frozen=True)
class Axis:
    """What a bar's length says.

    Attributes:
        low: the value of no bar at all.
        high: the value of the longest.
        ticks: how far along the axis a label is, 0 to 1, and the label.
        logarithmic: whether equal lengths are equal factors.
    """

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    logarithmic: bool = False

    def length(self, value: float | None) -> float:
        """Returns how long the bar of a value is, 0 to 1; 0 where it is not known."""
        if value is None or math.isnan(value) or value <= 0:
            return 0.0
        if not self.logarithmic:
            return round(value / self.high, 4)
        exponent = math.log10(value) if math.isfinite(value) else self.high
        return round(min(1.0, max(0.0, (exponent - self.low) / (self.high - self.low))), 4)


@dataclass(frozen=True)
class Axes:
    """The axes that all configs share, so that they can be compared.

    Attributes:
        size: of a layer's stored bytes.
        error: of its relative output error, by powers of ten; None without errors.
    """

    size: Axis
    error: Axis | None


def axes_of(trials: Sequence[Trial]) -> Axes:
    """Returns the axes on which the layers of some trials are shown."""
    layers = [layer for trial in trials if trial.report for layer in trial.report.layers]
    errors = [error for trial in trials for error in trial.layer_errors if error]
    return Axes(_linear(max((layer.bytes_before for layer in layers), default=0)), _decades(errors))


def _linear(largest: int) -> Axis:
    """Returns an axis from nothing to `largest`, with ticks at whole multiples of 1, 2 or 5."""
    largest = max(1, largest)
    power = 10 ** math.floor(math.log10(largest))
    step = next(s for s in (power // 5, power // 2, power, 2 * power, 5 * power) if 3 * s > largest)
    ticks = range(0, largest + 1, max(1, step))
    unit, name = next(
        (u, n) for u, n in ((1e6, "MB"), (1e3, "kB"), (1, "B")) if step >= u or u == 1
    )
    texts = [f"{tick / unit:g}" for tick in ticks]
    texts[-1] += f" {name}"
    return Axis(
        0, largest, tuple((tick / largest, t) for tick, t in zip(ticks, texts, strict=True))
    )


def _decades(errors: Iterable[float]) -> Axis | None:
    """Returns an axis of whole powers of ten around errors; None without one above zero."""
    known = [error for error in errors if error > 0 and math.isfinite(error)]
    if not known:
        return None
    low, high = math.floor(math.log10(min(known))), math.ceil(math.log10(max(known)))
    low = min(low, high - 1)
    step = math.ceil((high - low) / 2)
    ticks = tuple(
        (
            (exponent - low) / (high - low),
            f"1e{exponent}" if exponent < -2 else f"{10.0**exponent:g}",
        )
        for exponent in range(low, high + 1, step)
    )
    return Axis(low, high, ticks, logarithmic=True)


def view_of(trial: Trial, axes: Axes, model: str) -> dict[str, object]:
    """Returns all that a page shows of one config, as texts and bar lengths, ready for JSON.

    Raises:
        ValueError: the trial failed.
    """
    if trial.report is None:
        raise ValueError(f"{trial.title} failed: there are no layers to show")
    errors = [*trial.layer_errors, *[None] * len(trial.report.layers)]
    return {
        "command": None if trial.command is None else without_folders(trial.command, model),
        "layers": [
            _row(layer, error, axes)
            for layer, error in zip(trial.report.layers, errors, strict=False)
        ],
    }


def _row(layer: LayerRecord, error: float | None, axes: Axes) -> dict[str, object]:
    """Returns a layer's cells: each has its text, what it is sorted by, and its bars."""
    before, after = bytes_text(layer.bytes_before), bytes_text(layer.bytes_after)
    same = layer.bytes_after == layer.bytes_before
    return {
        "size": {
            "text": after if same else f"{before} → {after}",
            "value": sortable(layer.bytes_after),
            "bars": [axes.size.length(layer.bytes_before), axes.size.length(layer.bytes_after)],
        },
        "error": {
            "text": "-" if error is None else f"{error:.2g}",
            "value": sortable(error),
            "bars": [0, 0 if axes.error is None else axes.error.length(error)],
        },
        "zeros": {"text": number_text(layer.sparsity, 4), "value": sortable(layer.sparsity)},
        "stored": {
            "text": visible(
                layer.encoding + (f", skipped: {layer.skipped}" if layer.skipped else "")
            )
        },
    }


def sortable(value: float | None) -> str:
    """Returns a number as JavaScript reads it, nothing for None and NaN."""
    if value is None or math.isnan(value):
        return ""
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return str(value)
