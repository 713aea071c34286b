"""Pruning, then tuning what came of it towards the model that it was made from: one run of two."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mlpass.calibrate.calibration import Calibration
from mlpass.errors import ConfigError
from mlpass.files import discard, hidden_path
from mlpass.program.mlmodel import check_outside, open_package
from mlpass.report.records import Report
from mlpass.runtime.sources import is_pymil

if TYPE_CHECKING:
    from mlpass.plan.regions import Regions


def check_tune(source: object, calibration: Calibration | None) -> None:
    """Raises ConfigError where what is pruned cannot be tuned.

    Raises:
        BackendError: torch is not installed.
        ConfigError: there are no samples, or it is not a package.
    """
    if is_pymil(source):
        raise ConfigError("tune: is for packages; convert the Program, then prune the package")
    if calibration is None:
        raise ConfigError("tune: learns from samples; give sample_data")
    import mlpass.finetune  # noqa: F401 - now, not after an hour of work


@contextmanager
def solved_beside(source: object, output: str | os.PathLike[str], *, force: bool) -> Iterator[Path]:
    """Yields where to put the package that is to be tuned; it is deleted in the end.

    Raises:
        OutputExistsError: `output` exists and `force` is False.
    """
    with open_package(source) as package:
        package.check_target(output, force=force)
    check_outside(output, source, "the model to learn from")
    solved = hidden_path(Path(output).absolute(), "solved.mlpackage")
    try:
        yield solved
    finally:
        discard(solved)


def tune_solved(
    report: Report,
    source: object,
    output: str | os.PathLike[str],
    calibration: Calibration,
    options: Regions,
    *,
    force: bool,
    resume: bool,
) -> Report:
    """Tunes a package that was solved for, writes it, and returns what was done in all.

    Args:
        report: of the package.
        source: the model that it was made from.
        output: path of the package to write.
        calibration: that it was solved for with.
        options: of the training.
        force: whether to replace an `output` that exists.
        resume: whether to go on with the regions that a run that died had finished.
    """
    from mlpass.finetune import tune

    assert report.output is not None  # it was written
    found = tune(
        report.output,
        output,
        source,
        calibration.sample_data,
        options,
        memory_budget=calibration.memory_budget,
        device=calibration.device,
        function_name=calibration.function_name,
        force=force,
        resume=resume,
    )
    zeros = {layer.name: layer.zeros for layer in found.layers}
    layers = tuple(
        replace(layer, zeros=zeros.get(layer.name, layer.zeros)) for layer in report.layers
    )
    return replace(
        report,
        output=found.output,
        bytes_after=found.bytes_after,
        layers=layers,
        notes=(*report.notes, *found.notes),
    )
