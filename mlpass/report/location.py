"""Where two models part: one record an op."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from mlpass.errors import visible
from mlpass.report.plain import plain
from mlpass.report.shown import Shown, Table

_SHOWN = 10  # ops in a text


@dataclass(frozen=True)
class OpRecord:
    """One op of the second model, against the first.

    Attributes:
        name: of the op.
        op_type: of it.
        own: signal-to-noise ratio in dB of what it makes of the first model's values: the error
            that it adds. inf where it adds none, -inf for an infinite one or another shape.
        reached: the same of what it makes in the second model: the error of all ops before it, and
            its own. None where the second model could not run so far.
        differences: what differs at the op: its weights, attributes and types; and ops before it
            that the first model does not have.
    """

    name: str
    op_type: str
    own: float
    reached: float | None
    differences: tuple[str, ...]


@dataclass(frozen=True)
class Location(Shown):
    """Two models on the same samples, op by op in order of execution.

    Attributes:
        model: the reference.
        other: what is compared with it.
        samples: how many there were.
        threshold: in dB.
        ops: those of `other` that have a match in `model`.
        unmatched: names of those that have none.
        failure: why the second model could not run to its end; None where it did.
    """

    model: str
    other: str
    samples: int
    threshold: float
    ops: tuple[OpRecord, ...]
    unmatched: tuple[str, ...]
    failure: str | None

    listed: ClassVar[str] = "ops"

    @property
    def worst(self) -> tuple[OpRecord, ...]:
        """The ops that add an error of their own, the largest first."""
        return tuple(sorted((op for op in self.ops if op.own < math.inf), key=lambda op: op.own))

    @property
    def first(self) -> OpRecord | None:
        """The first op that an error past the threshold reaches; None where none does."""
        reached = (op for op in self.ops if op.reached is not None and op.reached < self.threshold)
        return next(reached, None)

    def to_dict(self) -> dict[str, Any]:
        """Returns everything ready for JSON, None for what is infinite."""
        first = None if self.first is None else self.first.name
        return plain(asdict(self) | {"worst": [op.name for op in self.worst], "first": first})

    def parts(self) -> Sequence[Table | str]:
        """Returns the ops with the largest errors of their own, and what is to be told."""
        return [*_table(self.worst), "\n".join(self._told())]

    def _told(self) -> list[str]:
        models = f"{visible(self.other)} against {visible(self.model)}"
        lines = [f"{models}, {self.samples} samples, {len(self.ops)} ops"]
        if not self.worst:
            lines.append("no op adds an error of its own")
        if self.first is not None:
            lines.append(
                f"the first op that is reached by less than {self.threshold:g} dB is "
                f"{self.first.op_type} {visible(self.first.name)}: {_decibels(self.first.reached)}"
            )
        if self.unmatched:
            shown = ", ".join(map(visible, self.unmatched[:_SHOWN]))
            more = len(self.unmatched) - _SHOWN
            rest = f" and {more} more" if more > 0 else ""
            lines.append(f"without a match in the first model: {shown}{rest}")
        if self.failure is not None:
            lines.append(f"the second model does not run to its end: {visible(self.failure)}")
        return lines


def _table(worst: Sequence[OpRecord]) -> list[Table]:
    if not worst:
        return []
    rows = [
        (
            op.name,
            op.op_type,
            _decibels(op.own),
            _decibels(op.reached),
            "; ".join(op.differences) or "-",
        )
        for op in worst[:_SHOWN]
    ]
    headers = ("op", "type", "its own error", "error that reaches it", "what differs")
    more = len(worst) - _SHOWN
    return [Table(headers, rows, f"... and {more} more" if more > 0 else "")]


def _decibels(snr: float | None) -> str:
    if snr is None:
        return "not run"
    return "none" if snr == math.inf else "infinite" if snr == -math.inf else f"{snr:.1f} dB"
