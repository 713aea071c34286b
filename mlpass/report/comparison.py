"""How far the outputs of two models are apart: one record an output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from mlpass.errors import visible
from mlpass.report.plain import plain
from mlpass.report.shown import Shown, Table


@dataclass(frozen=True)
class OutputRecord:
    """One output over all samples; the first model is the reference.

    Equal infinities are equal: masked logits do not count. An infinity against anything else, or a
    NaN against a number, is an infinite error. Where both are NaN nothing is measured.

    Attributes:
        name: of the output.
        snr: signal-to-noise ratio in dB; inf where both are equal, -inf for an infinite error; None
            for a label, and where nothing is measured.
        max_error: largest absolute difference; None likewise.
        mean_error: mean absolute difference; None likewise.
        top1: share of samples with the same label, or with the largest value at the same place of
            the last axis; None for an output that has no such axis.
        function: whose output it is, where the samples name functions.
    """

    name: str
    snr: float | None
    max_error: float | None
    mean_error: float | None
    top1: float | None
    function: str | None = None


@dataclass(frozen=True)
class Comparison(Shown):
    """Two models on the same samples.

    Attributes:
        model: the reference.
        other: what is compared with it.
        samples: how many there were.
        outputs: one record an output.
    """

    model: str
    other: str
    samples: int
    outputs: tuple[OutputRecord, ...]

    listed: ClassVar[str] = "outputs"

    def to_dict(self) -> dict[str, Any]:
        """Returns everything ready for JSON, None for what is infinite: see `OutputRecord`."""
        return plain(asdict(self))

    def parts(self) -> Sequence[Table | str]:
        """Returns the outputs, and what was compared."""
        named = any(output.function is not None for output in self.outputs)
        rows = [
            (
                *([output.function or ""] if named else []),
                output.name,
                "-" if output.snr is None else f"{output.snr:.2f}",
                "-" if output.max_error is None else f"{output.max_error:.4g}",
                "-" if output.mean_error is None else f"{output.mean_error:.4g}",
                "-" if output.top1 is None else f"{output.top1:.4f}",
            )
            for output in self.outputs
        ]
        headers = ["function"] if named else []
        headers += ["output", "SNR (dB)", "max error", "mean error", "top-1 agreement"]
        models = f"{visible(self.other)} against {visible(self.model)}"
        return [Table(headers, rows), f"{models}, {self.samples} samples"]
