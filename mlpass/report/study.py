"""What a sweep found: many configs on one model, and what each came to."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar

from mlpass.errors import visible
from mlpass.report.comparison import OutputRecord
from mlpass.report.estimate import CHIP, SOURCES, LatencyEstimate, estimate
from mlpass.report.plain import plain
from mlpass.report.records import Report, report_from_record
from mlpass.report.shown import Shown, Table
from mlpass.report.table import bytes_text
from mlpass.report.typed import check_types

NEEDS_MACOS = "needs macOS"
INT8 = "Quantized(int8)"
"""The config that every other is held against: one line, no samples, the same in any tool."""

_ZEROS = "worse than zeros"
_THAN_INT8 = "worse than int8"
_MEANINGS = {
    _ZEROS: "an output of nothing but zeros would be no further from the model's",
    _THAN_INT8: "int8 without samples is better, at no more bytes",
}


@dataclass(frozen=True)
class Pattern:
    """A corner of one weight's keep mask, to look at.

    Attributes:
        name: of the weight.
        lines: one text a row of the weight matrix, "1" where an element is kept and "0" where it
            is not.
    """

    name: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Trial:
    """One config and what it came to.

    Attributes:
        name: of the config.
        method: that was used, as text.
        options: of `mlpass.prune` that were given besides.
        report: of the run, whose model is not kept; None where it failed.
        failed: why it did; None where it did not.
        outputs: how far each output is from that of the model as it was, on the test samples.
        value: what the user's `evaluate` gave; None without one.
        weight_bytes: stored bytes of the weights that one inference reads.
        latency: milliseconds, the median of some runs, by compute unit; None off macOS.
        layer_errors: each layer's relative output error in the model as it was, in the order of the
            report's layers; None where it was not measured.
        pattern: a corner of one weight's keep mask.
        front: whether no other trial is both as small and as good: see `report.front`.
        command: that prunes the model so; None where no line of options says it.
        phrase: its config as people say it; None for its name.
        cautions: what speaks against its forms on the processor that it is for, by kind.
    """

    name: str
    method: str
    options: Mapping[str, Any]
    report: Report | None
    failed: str | None = None
    outputs: tuple[OutputRecord, ...] = ()
    value: float | None = None
    weight_bytes: int | None = None
    latency: Mapping[str, float] | None = None
    layer_errors: tuple[float | None, ...] = ()
    pattern: Pattern | None = None
    front: bool = False
    command: str | None = None
    phrase: str | None = None
    cautions: Mapping[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """Config and method as people say them."""
        how = [] if self.method == "magnitude" else [self.method]
        options = {name: f"{name.replace('_', ' ')} {each}" for name, each in self.options.items()}
        first = options.pop(self.name, None) or self.phrase or self.name  # "budget 0.4x"
        return ", ".join([first, *how, *options.values()])

    @property
    def label(self) -> str:
        """Config and method in one text."""
        extra = "".join(f", {name}={value}" for name, value in self.options.items())
        how = "" if self.method == "magnitude" else f", {self.method}"
        return f"{self.name}{how}{extra}"

    @property
    def nbytes(self) -> int | None:
        """Size of all files of the pruned model."""
        return None if self.report is None else self.report.bytes_after

    @property
    def ratio(self) -> float | None:
        """How many times smaller the model became."""
        if self.report is None or not self.report.bytes_after:
            return None
        return self.report.bytes_before / self.report.bytes_after

    @property
    def sparsity(self) -> float | None:
        """Zeros over elements, of all weights."""
        return None if self.report is None else self.report.sparsity

    @property
    def snr(self) -> float | None:
        """Signal-to-noise ratio in dB of the worst output; None where no samples were given."""
        return min((o.snr for o in self.outputs if o.snr is not None), default=None)

    @property
    def by_function(self) -> dict[str, float | None]:
        """The same of each function, where the samples name functions."""
        found: dict[str, float | None] = {}
        for output in self.outputs:
            if output.function is not None:
                known = [found.get(output.function), output.snr]
                found[output.function] = min((s for s in known if s is not None), default=None)
        return found

    @property
    def no_better_than_zeros(self) -> bool:
        """Whether nothing but zeros would be as near to the outputs of the model as it was."""
        return self.snr is not None and self.snr <= 0

    @property
    def top1(self) -> float | None:
        """Share of places with the same best class, of the worst output."""
        return min((o.top1 for o in self.outputs if o.top1 is not None), default=None)

    @property
    def quality(self) -> float | None:
        """What is compared with the size: the user's value where there is one, else the SNR.

        It is None where that is not known; NaN tells nothing.
        """
        quality = self.snr if self.value is None else self.value
        return None if quality is None or math.isnan(quality) else quality

    @property
    def worth(self) -> float:
        """The quality, -inf where it is not known."""
        return -math.inf if self.quality is None else self.quality

    def figures(self) -> dict[str, object]:
        """Returns the numbers of one row."""
        return {
            "config": self.name,
            "method": self.method,
            "options": dict(self.options),
            "bytes": self.nbytes,
            "ratio": self.ratio,
            "sparsity": self.sparsity,
            "snr": self.snr,
            "by_function": self.by_function,
            "top1": self.top1,
            "value": self.value,
            "weight_bytes": self.weight_bytes,
            "latency": NEEDS_MACOS if self.latency is None else dict(self.latency),
            "front": self.front,
            "cautions": dict(self.cautions),
            "failed": self.failed,
        }


Column = tuple[str, Callable[[Trial], str]]  # of a table: its header, and the text of a trial


@dataclass(frozen=True)
class SweepReport(Shown):
    """A sweep over a model.

    Attributes:
        model: that was read.
        bytes_before: size of all its files.
        weight_bytes_before: stored bytes of the weights that one of its inferences reads.
        samples: how many test samples there were.
        value_before: what the user's `evaluate` gave for the model as it was.
        latency_before: as for a trial.
        trials: one a config, in the order in which they were given.
        command: that made this report.
        seconds: that it took.
        notes: what could not be measured, and why.
        date: on which it was made, as "2026-11-29".
        version: of mlpass that made it.
        multiplications: of one inference, in the model as it was; None where that is not known.
    """

    model: str
    bytes_before: int
    weight_bytes_before: int
    samples: int
    value_before: float | None
    latency_before: Mapping[str, float] | None
    trials: tuple[Trial, ...]
    command: str
    seconds: float
    notes: tuple[str, ...] = ()
    date: str = ""
    version: str = ""
    multiplications: int | None = None

    listed: ClassVar[str] = "trials"

    @property
    def failed(self) -> str | None:
        """Why not one config could be tried; None where one could."""
        return why_none(self.trials)

    @property
    def front(self) -> tuple[Trial, ...]:
        """The trials that no other beats by more than noise in size and quality, smallest first.

        Where they are for a processor, of those near each other the one that it takes best.
        """
        return tuple(
            sorted((t for t in self.trials if t.front), key=lambda trial: trial.nbytes or 0)
        )

    def estimate_of(self, trial: Trial) -> LatencyEstimate | None:
        """Returns how long a trial is estimated to take on the Neural Engine, against the model."""
        if trial.weight_bytes is None:
            return None
        return estimate(trial.weight_bytes, self.weight_bytes_before, self.multiplications, "ane")

    def to_dict(self) -> dict[str, object]:
        """Returns everything ready for JSON, None for a number that is not finite."""
        content = {f.name: getattr(self, f.name) for f in fields(self)}
        content["latency_before"] = (
            NEEDS_MACOS if self.latency_before is None else dict(self.latency_before)
        )
        content["trials"] = [
            {
                **trial.figures(),
                "mark": mark or None,
                "latency_estimate": None if guess is None else asdict(guess),
                "layer_errors": list(trial.layer_errors),
                "report": None if trial.report is None else trial.report.to_dict(),
            }
            for trial, mark, guess in zip(
                self.trials, marks(self.trials), map(self.estimate_of, self.trials), strict=True
            )
        ]
        return plain(content)

    def parts(self) -> Sequence[Table | str]:
        """Returns the trials, and what was swept."""
        timed = any(trial.latency is not None for trial in self.trials)
        columns: list[Column] = [
            ("config", lambda trial: trial.name),
            ("method", _how),
            ("bytes", lambda trial: bytes_text(trial.nbytes or 0)),
            ("ratio", lambda trial: number_text(trial.ratio, 2)),
            ("sparsity", lambda trial: number_text(trial.sparsity, 4)),
            *quality_columns(self.trials),
            ("weights read", lambda trial: bytes_text(trial.weight_bytes or 0)),
            ("latency", lambda trial: latency_text(trial.latency))
            if timed
            else ("estimated latency", lambda trial: str(self.estimate_of(trial) or "-")),
            *mind_column(self.trials),
        ]
        rows, marked = [], marks(self.trials)
        for trial, mark in zip(self.trials, marked, strict=True):
            if trial.failed is not None:
                rows.append([trial.name, _how(trial), "failed"])
            else:
                end = mark or ("*" if trial.front else "")
                rows.append([*(text(trial) for _, text in columns), end])
        guessed = (
            "\nestimated latency: not measured, which needs macOS; against the model as it is, on "
            f"the Neural Engine of an {CHIP} by its claimed peaks, with the range that measured "
            f"ones make of it. Sources: {SOURCES}"
        )
        told = (
            f"{visible(self.model)}: {bytes_text(self.bytes_before)}, "
            f"{len(self.trials)} configs on {self.samples} samples in {self.seconds:.0f} s; "
            "* nothing else is both as small and as good"
            + meanings(marked)
            + ("" if timed or self.multiplications is None else guessed)
            + cautions_text(self.trials)
            + "".join(f"\n{visible(note)}" for note in (*failures(self.trials), *self.notes))
        )
        return [Table([*(name for name, _ in columns), "front"], rows), told]


def quality_columns(trials: Sequence[Trial]) -> list[Column]:
    """Returns the columns of what trials are judged by; each function that is told of has one."""
    named = dict.fromkeys(name for trial in trials for name in trial.by_function)

    def snr_of(name: str) -> Column:
        return name, lambda trial: number_text(trial.by_function.get(name), 2)

    columns: list[Column] = [
        ("SNR (dB)", lambda trial: number_text(trial.snr, 2)),
        *map(snr_of, named),
        ("top-1", lambda trial: number_text(trial.top1, 4)),
    ]
    if any(trial.value is not None for trial in trials):
        columns.append(("value", lambda trial: number_text(trial.value, 4)))
    return columns


def mind_column(trials: Sequence[Trial]) -> list[Column]:
    """Returns the column of what speaks against forms on a processor, where anything does."""
    warned = any(trial.cautions for trial in trials)
    return [("mind", lambda trial: ", ".join(trial.cautions))] if warned else []


def failures(trials: Sequence[Trial]) -> list[str]:
    """Returns why trials failed, each reason once, after the trials that it is of."""
    labels: dict[str, list[str]] = {}
    for trial in trials:
        if trial.failed is not None:
            labels.setdefault(trial.failed, []).append(trial.label)
    return [f"{'; '.join(which)} failed: {why}" for why, which in labels.items()]


def why_none(trials: Sequence[Trial]) -> str | None:
    """Returns why no trial came to anything, each reason once; None where one did, or of none."""
    reasons = dict.fromkeys(trial.failed for trial in trials)
    return "; ".join(map(str, reasons)) if reasons and None not in reasons else None


def marks(trials: Sequence[Trial]) -> list[str]:
    """Returns a mark for each trial, "" where nothing speaks against it.

    It is held against the data-free int8 that is among them; a user's own measure has no zeros.
    """
    free = [one for one in trials if one.name == INT8 and one.method == "magnitude"]
    int8 = next((one for one in free if one.nbytes is not None and one.quality is not None), None)
    return [_mark(trial, int8) for trial in trials]


def meanings(given: Sequence[str]) -> str:
    """Returns what the marks among those of a table mean; "" where nothing is marked."""
    return "".join(f"\n{mark}: {text}" for mark, text in _MEANINGS.items() if mark in given)


def cautions_text(trials: Sequence[Trial]) -> str:
    """Returns what speaks against forms on a processor, each kind once; "" for nothing."""
    found = {kind: text for trial in trials for kind, text in trial.cautions.items()}
    return "".join(f"\n{kind}: {text}" for kind, text in found.items())


def _mark(trial: Trial, int8: Trial | None) -> str:
    if trial.nbytes is None or trial.quality is None:
        return ""
    if trial.value is None and trial.no_better_than_zeros:
        return _ZEROS
    if int8 is None or int8.nbytes is None or int8.nbytes > trial.nbytes:
        return ""
    return _THAN_INT8 if trial.worth < int8.worth else ""


def _how(trial: Trial) -> str:
    """Returns the method and options of a trial."""
    return " ".join([trial.method, *(f"{k}={v}" for k, v in trial.options.items())])


def number_text(value: float | None, digits: int) -> str:
    """Returns a number with so many digits after the point, "-" for None."""
    return "-" if value is None else f"{value:.{digits}f}"


def latency_text(latency: Mapping[str, float] | None) -> str:
    """Returns a latency as people read it, or what it takes to have one."""
    if latency is None:
        return NEEDS_MACOS
    return ", ".join(f"{unit} {milliseconds:.2f} ms" for unit, milliseconds in latency.items())


def trial_from_record(record: Mapping[str, Any]) -> Trial:
    """Returns the trial that `dataclasses.asdict` made a record of.

    Raises:
        LookupError, TypeError, ValueError: the record is not that of a trial.
    """
    content = dict(record)
    if content["report"] is not None:
        content["report"] = report_from_record(content["report"])
    content["outputs"] = tuple(OutputRecord(**one) for one in content["outputs"])
    content["layer_errors"] = tuple(content["layer_errors"])
    if content["pattern"] is not None:
        pattern = content["pattern"]
        content["pattern"] = Pattern(pattern["name"], tuple(pattern["lines"]))
    trial = Trial(**content)
    check_types(trial)
    return trial
