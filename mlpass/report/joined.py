"""The reports of several models in one file, as one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from mlpass.report.records import Report


def joined(
    source: str, output: str | None, reports: Mapping[str, Report], nbytes: tuple[int, int]
) -> Report:
    """Returns one report of several, in which all names begin with the model's.

    Args:
        source: the file that was read.
        output: the file that was written; None where none was.
        reports: of each model, by its name.
        nbytes: the sizes of the file before and after.
    """
    functions = (
        replace(function, program="/".join(filter(None, (name, function.program))))
        for name, report in reports.items()
        for function in report.functions
    )
    layers = (
        replace(layer, name=f"{name}/{layer.name}")
        for name, report in reports.items()
        for layer in report.layers
    )
    notes = (f"{name}: {note}" for name, report in reports.items() for note in report.notes)
    return Report(source, output, *nbytes, tuple(functions), tuple(layers), tuple(notes))
