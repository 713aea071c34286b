"""What a run did, or what a model is: one record a weight site, and the totals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import prod
from typing import Any, ClassVar

from mlpass.errors import visible
from mlpass.report.plain import plain
from mlpass.report.shown import Shown, Table
from mlpass.report.table import bytes_text
from mlpass.report.typed import check_types

_SHOWN = 6  # op types of a function


@dataclass(frozen=True)
class LayerRecord:
    """One weight site.

    Attributes:
        name: of the weight.
        op_type: of the op that reads it (the first, where several do).
        parameter: by which it does.
        shape: of the weight.
        dtype: of its elements, coremltools' spelling.
        mode: that pruned it, as text; None where none did.
        method: that scored it, with the reason where it is not the one that was asked for; "polish"
            where what is stored was trained; None where none did.
        zeros: how many elements are zero; None where that cannot be told.
        sparsity: `zeros` over the number of elements; None likewise.
        encoding: "dense", "sparse", "sparse + quantized", ..., as it is stored now.
        bytes_before: stored bytes of its elements before (masks, tables and scales included).
        bytes_after: the same after.
        skipped: why it was left as it was; None where it was pruned.
        error: where calibrated, the relative output error on the samples:
            `||(W' - W) X^T||^2 / ||W X^T||^2`.
        error_before: the same of pruning by magnitude in the same mode.
        error_held: the error on samples, or rows, that were kept back, of a solve that did not see
            them; the weight itself is solved for on all. Of a large weight some rows tell for all.
        error_before_held: the same of pruning by magnitude.
        shrinkage: share of the correlation of its inputs that was taken for chance, few rows being
            no proof of it: that with the least `error_held`.
        samples_wanted: how many samples of this kind would do, about, where it met fewer input rows
            than it has columns; None where it met enough.
        dampening: fraction of the Gram's mean diagonal that was added to it.
        samples: how many samples reached it.
        tokens: how many input rows it met.
        target: where the dense model's outputs were to be aimed at, what was: "dense", "dense
            stream" where what they are added to counts as well; a share of the way; or "own", with
            the reason. `error` is relative to its outputs.
        storage: that its values were rounded to, as text; None where they were kept as they came.
        int8_error: the error of int8 without samples, on the weight's own outputs, where that would
            take no more bytes and err less; else None.
        functions: that share it, with the part of a pipeline that they are in.
    """

    name: str
    op_type: str
    parameter: str
    shape: tuple[int, ...]
    dtype: str
    mode: str | None
    method: str | None
    zeros: int | None
    sparsity: float | None
    encoding: str
    bytes_before: int
    bytes_after: int
    skipped: str | None = None
    error: float | None = None
    error_before: float | None = None
    error_held: float | None = None
    error_before_held: float | None = None
    shrinkage: float | None = None
    samples_wanted: int | None = None
    dampening: float | None = None
    samples: int | None = None
    tokens: int | None = None
    target: str | None = None
    storage: str | None = None
    int8_error: float | None = None
    functions: tuple[str, ...] = ()

    @property
    def told_errors(self) -> tuple[float | None, float | None]:
        """The error and that of pruning by magnitude: on what was kept back, where anything was."""
        if self.error_held is None:
            return self.error, self.error_before
        return self.error_held, self.error_before_held

    @property
    def bits_per_weight(self) -> float:
        """Stored bits, masks, tables and scales included, over elements."""
        return 8 * self.bytes_after / max(1, prod(self.shape))


@dataclass(frozen=True)
class BudgetRecord:
    """A budget for all weights, and what came of it.

    Attributes:
        nbytes: that the weight files may take.
        planned: that the chosen forms take at the most.
        elements: of all weights.
        predicted: the weights' errors, each times what it does to the model's outputs, summed.
        note: what would make more of it; None where nothing is known.
        used: bytes that the weight files take; None where none were written.
        measured: what was predicted, of the errors in the report; None without samples.
        judged: what it was judged by before it was written; None where it was not.
    """

    nbytes: int
    planned: int
    elements: int
    predicted: float
    note: str | None = None
    used: int | None = None
    measured: float | None = None
    judged: str | None = None

    def __str__(self) -> str:
        used = self.planned if self.used is None else self.used
        bits = 8 * used / max(1, self.elements)
        found = "" if self.measured is None else f", measured {self.measured:.3g}"
        note = "".join(f"\n{text}" for text in (self.judged, self.note) if text is not None)
        return (
            f"budget {self.nbytes} bytes of weights, used {used} ({used / self.nbytes:.1%}, "
            f"{bits:.2f} bits a weight); summed error: predicted {self.predicted:.3g}{found}{note}"
        )


@dataclass(frozen=True)
class Report(Shown):
    """A run over a model.

    Attributes:
        source: the model that was read.
        output: the model that was written; None where none was.
        bytes_before: size of all files of `source`.
        bytes_after: size of all files of `output`.
        functions: one entry a function: its program, name, opset and number of ops.
        layers: one record a weight site.
        notes: what else there is to tell, such as what training came to.
        budget: for all weights; None where none was given.
    """

    source: str
    output: str | None
    bytes_before: int
    bytes_after: int
    functions: tuple[FunctionRecord, ...]
    layers: tuple[LayerRecord, ...]
    notes: tuple[str, ...] = ()
    budget: BudgetRecord | None = None

    listed: ClassVar[str] = "layers"

    @property
    def sparsity(self) -> float:
        """Zeros over elements, of all weights whose zeros are known."""
        known = [layer for layer in self.layers if layer.zeros is not None]
        elements = sum(prod(layer.shape) for layer in known)
        return sum(layer.zeros or 0 for layer in known) / elements if elements else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Returns everything ready for JSON, None for a number that is not finite."""
        return plain({**asdict(self), "sparsity": self.sparsity})

    def parts(self) -> Sequence[Table | str]:
        """Returns the functions of a model that was looked at, the weights, and the totals."""
        inspected = self.output is None
        shared = inspected and any(len(layer.functions) > 1 for layer in self.layers)
        headers = ["weight", "read by", *(["functions"] if shared else [])]
        headers += ["shape", "type", "sparsity", "encoding"]
        calibrated = any(layer.error is not None for layer in self.layers)
        headers += ["bytes"] if inspected else ["before", "after"]
        headers += ["bits"] if self.budget is not None else []
        headers += ["error", "by magnitude"] if calibrated else []
        headers += [] if inspected else ["how"]
        rows = []
        for layer in self.layers:
            row = [
                layer.name,
                f"{layer.op_type}.{layer.parameter}",
                *([", ".join(layer.functions)] if shared else []),
                "x".join(map(str, layer.shape)),
                layer.dtype,
                "" if layer.sparsity is None else f"{layer.sparsity:.4f}",
                layer.encoding,
                bytes_text(layer.bytes_before),
            ]
            if not inspected:
                row += [bytes_text(layer.bytes_after)]
                if self.budget is not None:
                    row += [f"{layer.bits_per_weight:.2f}"]
                if calibrated:
                    row += [_error(error) for error in layer.told_errors]
                row += [_how(layer)]
            rows.append(row)
        functions = [self._functions()] if inspected else []
        notes = "".join(f"\n{visible(note)}" for note in (*self._sample_notes(), *self.notes))
        return [*functions, Table(headers, rows), self._total_text() + notes]

    def _sample_notes(self) -> Iterator[str]:
        """Yields what there is to know of the samples behind the errors."""
        if any(layer.error_held is not None for layer in self.layers):
            yield "errors are on samples that were kept back; weights are then solved for on all"
        short = [layer for layer in self.layers if layer.samples_wanted is not None]
        if short:
            most = max(short, key=lambda layer: layer.samples_wanted or 0)
            yield (
                f"{len(short)} of {len(self.layers)} weights met fewer input rows than they have "
                f"columns, {most.name} above all: what correlates in them is trusted less; about "
                f"{most.samples_wanted} samples would do for all"
            )

    def _functions(self) -> Table:
        rows = [
            (f.program or "-", f.name, f"iOS{f.opset}", str(sum(f.ops.values())), _most(f.ops))
            for f in self.functions
        ]
        return Table(("program", "function", "opset", "ops", "of them"), rows)

    def _total_text(self) -> str:
        pruned = sum(layer.skipped is None and layer.mode is not None for layer in self.layers)
        polished = sum(layer.mode is None and layer.method == "polish" for layer in self.layers)
        if self.output is None:
            return (
                f"{visible(self.source)}: {len(self.layers)} weights, "
                f"{bytes_text(self.bytes_before)}, sparsity {self.sparsity:.4f}"
            )
        ratio = self.bytes_before / self.bytes_after if self.bytes_after else 0.0
        return (
            f"{polished or pruned} of {len(self.layers)} weights "
            f"{'polished' if polished else 'pruned'}, sparsity {self.sparsity:.4f}, "
            f"{bytes_text(self.bytes_before)} -> {bytes_text(self.bytes_after)} "
            f"({ratio:.2f}x smaller): {visible(self.output)}"
            + ("" if self.budget is None else f"\n{self.budget}")
        )


@dataclass(frozen=True)
class FunctionRecord:
    """One function of a model.

    Attributes:
        program: which part of a pipeline it belongs to, "" outside of one.
        name: of the function.
        opset: iOS version.
        ops: how many ops of each type it has, constants aside.
    """

    program: str
    name: str
    opset: int
    ops: Mapping[str, int]


def report_from_record(record: Mapping[str, Any]) -> Report:
    """Returns the report that `dataclasses.asdict` made a record of.

    Raises:
        LookupError, TypeError, ValueError: the record is not that of a report.
    """
    content = dict(record)
    content["functions"] = tuple(FunctionRecord(**one) for one in content["functions"])
    content["layers"] = tuple(
        LayerRecord(**{**one, **{key: tuple(one[key]) for key in ("shape", "functions")}})
        for one in content["layers"]
    )
    content["notes"] = tuple(content["notes"])
    if content["budget"] is not None:
        content["budget"] = BudgetRecord(**content["budget"])
    report = Report(**content)
    check_types(report)
    return report


def _error(error: float | None) -> str:
    return "" if error is None else f"{error:.4f}"


def _how(layer: LayerRecord) -> str:
    if layer.skipped:
        return f"skipped: {layer.skipped}"
    if layer.mode is None:
        return layer.method or ""
    method = "" if layer.method in (None, "magnitude") else f", {layer.method}"
    kept = "" if layer.storage is None else f" + {layer.storage}"
    target = f", target {layer.target}" if layer.target else ""
    damped = f", damped {layer.shrinkage:g}" if layer.shrinkage and method else ""
    return f"{layer.mode}{kept}{method}{damped}{target}"


def _most(ops: Mapping[str, int]) -> str:
    """Returns the most frequent op types with their counts, as text."""
    ranked = sorted(ops.items(), key=lambda item: (-item[1], item[0]))
    rest = len(ranked) - _SHOWN
    texts = [f"{count} {op_type}" for op_type, count in ranked[:_SHOWN]]
    return ", ".join(texts) + (f", {rest} more types" if rest > 0 else "")
