"""What `choose` tried, what each step gave, and what it picked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from mlpass.errors import visible
from mlpass.report.plain import plain
from mlpass.report.shown import Shown, Table
from mlpass.report.study import (
    Column,
    Trial,
    cautions_text,
    failures,
    marks,
    meanings,
    mind_column,
    number_text,
    quality_columns,
    why_none,
)
from mlpass.report.table import bytes_text, sizes_apart


@dataclass(frozen=True)
class Target:
    """What a chosen model must hold.

    Attributes:
        nbytes: size of all its files, at most; None where any will do.
        snr: in dB against the model as it was, at least; likewise.
        value: of the user's `evaluate`, at least; likewise.
    """

    nbytes: int | None = None
    snr: float | None = None
    value: float | None = None

    def misses(self, trial: Trial) -> list[str]:
        """Returns what a trial falls short of, as texts; none where it holds."""
        if trial.nbytes is None:
            return ["failed"]
        found = []
        if self.nbytes is not None and trial.nbytes > self.nbytes:
            found.append(" is more than ".join(sizes_apart(trial.nbytes, self.nbytes)))
        found += _below("SNR", trial.snr, self.snr)
        return found + _below("value", trial.value, self.value)

    def __str__(self) -> str:
        texts = []
        if self.nbytes is not None:
            texts.append(f"at most {bytes_text(self.nbytes)}")
        if self.snr is not None:
            texts.append(f"an SNR of at least {self.snr:g} dB")
        if self.value is not None:
            texts.append(f"a value of at least {self.value:g}")
        return " and ".join(texts)


@dataclass(frozen=True)
class Attempt:
    """One step of the climb.

    Attributes:
        rung: "data-free", "storages", "sparsegpt", "admm", "budget" or "fine-tuning".
        trial: what it gave.
        misses: what it falls short of, or that it failed; none where the target holds.
    """

    rung: str
    trial: Trial
    misses: tuple[str, ...]


@dataclass(frozen=True)
class Choice(Shown):
    """A climb, and where it ended.

    Attributes:
        model: that was read.
        bytes_before: size of all its files.
        target: that was to be met.
        attempts: in their order.
        picked: the trial whose model was written; None where none meets the target.
        output: that model; None likewise.
        reason: why this one, or why none.
        notes: what to bear in mind.
    """

    model: str
    bytes_before: int
    target: Target
    attempts: tuple[Attempt, ...]
    picked: Trial | None
    output: str | None
    reason: str
    notes: tuple[str, ...] = ()

    listed: ClassVar[str] = "attempts"

    @property
    def failed(self) -> str | None:
        """Why not one step could be tried; None where one could, or none was."""
        return why_none([attempt.trial for attempt in self.attempts])

    @property
    def marks(self) -> list[str]:
        """What speaks against each attempt, "" where nothing does."""
        return marks([attempt.trial for attempt in self.attempts])

    def to_dict(self) -> dict[str, Any]:
        """Returns everything ready for JSON, None for a number that is not finite."""
        content = {
            "model": self.model,
            "bytes_before": self.bytes_before,
            "target": vars(self.target),
            "attempts": [
                {
                    "rung": a.rung,
                    **a.trial.figures(),
                    "mark": mark or None,
                    "misses": list(a.misses),
                }
                for a, mark in zip(self.attempts, self.marks, strict=True)
            ],
            "picked": None if self.picked is None else self.picked.figures(),
            "output": self.output,
            "reason": self.reason,
            "notes": list(self.notes),
        }
        return plain(content)

    def parts(self) -> Sequence[Table | str]:
        """Returns what was wanted, what was tried, and what came of it."""
        trials, marked = [attempt.trial for attempt in self.attempts], self.marks
        columns: list[Column] = [
            ("config", lambda trial: trial.label),
            ("bytes", lambda trial: "-" if trial.nbytes is None else bytes_text(trial.nbytes)),
            ("ratio", lambda trial: number_text(trial.ratio, 2)),
            *quality_columns(trials),
            *mind_column(trials),
        ]
        rows = [
            [
                each.rung,
                *(text(each.trial) for _, text in columns),
                "; ".join(filter(None, [*(each.misses or ["holds"]), mark])),
            ]
            for each, mark in zip(self.attempts, marked, strict=True)
        ]
        tried = Table(["step", *(name for name, _ in columns), "target"], rows)
        head = f"{visible(self.model)}: {bytes_text(self.bytes_before)}; wanted: {self.target}"
        end = self.reason if self.output is None else f"{self.reason}: {self.output}"
        told = cautions_text(trials)
        command = self.picked.command if self.picked else None
        notes = [f"the same by: {command}"] if command else []
        notes = [end, *failures(trials), *notes, *self.notes]
        below = "\n".join(visible(note) for note in notes if note) + meanings(marked) + told
        return [head, *([tried] if rows else []), *([below] if below else [])]


def _below(name: str, value: float | None, least: float | None) -> list[str]:
    """Returns that a figure is below its least, if it is; NaN is."""
    if least is None or (value is not None and value >= least):
        return []
    digits = 2
    while value is not None and digits < 17 and float(f"{value:.{digits}f}") >= least:
        digits += 1
    return [f"{name} {number_text(value, digits)} is below {least:.12g}"]
