"""What each weight of a model costs, the least that it could cost, and what looks wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import prod
from typing import Any, ClassVar

from mlpass.report.estimate import LatencyEstimate, told
from mlpass.report.plain import plain
from mlpass.report.shown import Shown, Table
from mlpass.report.table import bytes_text

_NAMES = 3  # weights that a finding names


@dataclass(frozen=True)
class WeightCost:
    """One weight site.

    Attributes:
        name: of the weight.
        op_type: of the op that reads it (the first, where several do).
        parameter: by which it does.
        shape: of the weight.
        dtype: of its elements as the op reads them.
        encoding: how it is stored: "dense", "sparse + palettized", ...
        nbytes: stored bytes of elements, masks, tables and scales.
        smallest: the smallest form of the very same values in the model's op set, in a few words;
            None where it is stored in that.
        smallest_nbytes: what it would take.
    """

    name: str
    op_type: str
    parameter: str
    shape: tuple[int, ...]
    dtype: str
    encoding: str
    nbytes: int
    smallest: str | None
    smallest_nbytes: int

    @property
    def bits(self) -> float:
        """Stored bits for each element."""
        return 8 * self.nbytes / max(1, prod(self.shape))


@dataclass(frozen=True)
class Finding:
    """What looks wrong with some weights, or is to be known about them.

    Attributes:
        kind: "larger than needed", "needs iOS18", "not quantized", "mask", "left", "tables" or
            "zeros".
        processor: "ane", "cpu" or "gpu" where it is a fact about one; else None.
        text: what it is.
        cure: the command that mends it; None where none does.
        weights: names of those that it is about.
    """

    kind: str
    processor: str | None
    text: str
    cure: str | None
    weights: tuple[str, ...]

    def __str__(self) -> str:
        names = ", ".join(self.weights[:_NAMES])
        more = len(self.weights) - _NAMES
        names += f" and {more} more" if more > 0 else ""
        where = f"[{self.processor}] " if self.processor else ""
        cure = f"\n    {self.cure}" if self.cure else ""
        return f"- {where}{self.text} ({names}){cure}"


@dataclass(frozen=True)
class Explanation(Shown):
    """How a model stores its weights.

    Attributes:
        source: the model.
        weights: one record a weight site.
        findings: what looks wrong, the costliest first; then facts about processors.
        latency_estimates: against the same weights dense, by processor; estimates, not measured.
    """

    source: str
    weights: tuple[WeightCost, ...]
    findings: tuple[Finding, ...]
    latency_estimates: tuple[LatencyEstimate, ...] = ()

    listed: ClassVar[str] = "weights"

    @property
    def nbytes(self) -> int:
        """Stored bytes of all weights."""
        return sum(weight.nbytes for weight in self.weights)

    @property
    def smallest_nbytes(self) -> int:
        """The least that the same values take in the model's op set."""
        return sum(weight.smallest_nbytes for weight in self.weights)

    def to_dict(self) -> dict[str, Any]:
        """Returns everything ready for JSON."""
        content: dict[str, Any] = plain(asdict(self))
        for record, weight in zip(content["weights"], self.weights, strict=True):
            record["bits"] = weight.bits
        return {**content, "bytes": self.nbytes, "smallest_bytes": self.smallest_nbytes}

    def parts(self) -> Sequence[Table | str]:
        """Returns the weights, what they take together, and what looks wrong."""
        rows = [
            (
                weight.name,
                f"{weight.op_type}.{weight.parameter}",
                "x".join(map(str, weight.shape)),
                weight.encoding,
                f"{weight.bits:.2f}",
                bytes_text(weight.nbytes),
                "" if weight.smallest is None else bytes_text(weight.smallest_nbytes),
                weight.smallest or "",
            )
            for weight in self.weights
        ]
        headers = ("weight", "read by", "shape", "stored as", "bits", "bytes", "could be", "as")
        elements = sum(prod(weight.shape) for weight in self.weights)
        total = (
            f"{self.source}: {len(self.weights)} weights, {bytes_text(self.nbytes)}, "
            f"{8 * self.nbytes / max(1, elements):.2f} bits a weight; the same values take "
            f"{bytes_text(self.smallest_nbytes)} in their smallest forms"
        )
        findings = "\n".join(map(str, self.findings)) or "nothing looks wrong"
        estimates = told(one for one in self.latency_estimates if (one.low, one.high) != (1, 1))
        return [Table(headers, rows), "\n".join([total, *estimates]), findings]
