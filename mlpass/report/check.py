"""What will go wrong with a model, before it is shipped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from mlpass.errors import visible
from mlpass.report.estimate import LatencyEstimate, told
from mlpass.report.plain import plain
from mlpass.report.shown import Shown, Table

_NAMES = 3  # places that a text names
SEVERITIES = ("error", "warning", "note")


@dataclass(frozen=True)
class Hazard:
    """Something that goes wrong, or may.

    Attributes:
        severity: "error" for what is wrong wherever it runs, "warning" for what is wrong on some
            processors or costs without need, "note" for what is good to know.
        kind: "overflow", "not a number", "underflow", "sum", "fp32", "rank", "size", "unused" or
            "duplicate".
        processor: "ane", "cpu" or "gpu" where it is about one alone; else None.
        text: what it is.
        cure: what to do about it; None where nothing is known.
        source: where this is known from.
        places: names of the ops or constants, in the order of the program.
    """

    severity: str
    kind: str
    processor: str | None
    text: str
    cure: str | None
    source: str
    places: tuple[str, ...]

    def __str__(self) -> str:
        names = ", ".join(visible(name) for name in self.places[:_NAMES])
        more = len(self.places) - _NAMES
        names += f" and {more} more" if more > 0 else ""
        where = f" [{self.processor}]" if self.processor else ""
        cure = f"\n    {self.cure}" if self.cure else ""
        head = f"{self.severity}{where}: {self.text}"
        return f"{head}{f' ({names})' if names else ''}{cure}\n    source: {self.source}"


@dataclass(frozen=True)
class Check(Shown):
    """What was found in a model.

    Attributes:
        source: the model.
        samples: how many it ran on; 0 where only the program was looked at.
        hazards: what was found, errors first.
        latency_estimates: against the same weights dense, by processor; estimates, not measured.
    """

    source: str
    samples: int
    hazards: tuple[Hazard, ...]
    latency_estimates: tuple[LatencyEstimate, ...] = ()

    listed: ClassVar[str] = "hazards"

    def count(self, severity: str) -> int:
        """Returns how many hazards are of a severity."""
        return sum(hazard.severity == severity for hazard in self.hazards)

    def to_dict(self) -> dict[str, Any]:
        """Returns everything ready for JSON."""
        return plain(asdict(self))

    def parts(self) -> Sequence[Table | str]:
        """Returns what was found, the estimates, and how many there are of each severity."""
        counts = [_counted(self.count(one), one) for one in SEVERITIES]
        ran = _counted(self.samples, "sample") if self.samples else "its values were not looked at"
        last = f"{visible(self.source)}: {', '.join(counts)}; {ran}"
        return ["\n".join([*map(str, self.hazards), *told(self.latency_estimates), last])]


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
