"""Pruning, then tuning what came of it towards the model that it was made from: one run of two."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mlpass.calibrate.calibration import Calibration
from mlpass.calibrate.journal import digest_of_run
from mlpass.errors import CalibrationError, ConfigError
from mlpass.files import hidden_path, naming, whole_file
from mlpass.ledger import Ledger
from mlpass.program.mlmodel import check_outside, open_package
from mlpass.program.pte_paths import same_in
from mlpass.report.plain import keep, kept
from mlpass.report.records import LayerRecord, Report, report_from_record
from mlpass.runtime.sources import is_pymil

if TYPE_CHECKING:
    from mlpass.plan.regions import Regions

_SOLVED, _REPORT = "solved", "report.json"


def check_tune(source: object, calibration: Calibration | None, options: Regions) -> None:
    """Raises ConfigError where what is pruned cannot be tuned.

    Raises:
        BackendError: torch is not installed.
        CalibrationError: there are too few samples to train on and to judge by.
        ConfigError: there are no samples, or it is not a package.
    """
    if is_pymil(source):
        raise ConfigError("tune: is for packages; convert the Program, then prune the package")
    if isinstance(source, list | tuple):
        raise ConfigError("tune: is for one package; give no list, or do without tune")
    if calibration is None:
        raise ConfigError("tune: learns from samples; give sample_data")
    if calibration.executor is not None:
        raise ConfigError(
            "tune: trains in one process, and an executor divides samples among several; prune "
            "with the executor, then tune the result with mlpass.tune"
        )
    from mlpass.finetune.training import divided_by_functions  # now, not after an hour of work

    divided_by_functions(calibration.sample_data, options.held_out, options.seed)


def prune_and_tune(
    prune: Callable[[Path], Report],
    source: object,
    output: str | os.PathLike[str],
    calibration: Calibration,
    settings: Mapping[str, object],
    options: Regions,
    *,
    force: bool,
    resume: bool,
) -> Report:
    """Prunes a model, tunes what came of that, writes it, and returns what was done in all.

    What is solved for is kept beside `output` until all is done.

    Args:
        prune: writes the pruned package at a path, over what is there, and returns the report.
        source: the model, which the tuning learns from.
        output: path of the package to write.
        calibration: that it is pruned with.
        settings: what else its result depends on.
        options: of the training.
        force: whether to replace an `output` that exists.
        resume: whether to go on with what a run that died had finished.

    Raises:
        CalibrationError: what is to be gone on with is of another run, or broken.
        MlpassError: as `prune` and `tune`.
        OSError: a file cannot be read or written.
    """
    with open_package(source) as package:
        target = package.check_target(output, force=force)
        digest = digest_of_run(package, settings, calibration)
    check_outside(output, source, "the model to learn from")
    with _Solved(target, digest, resume=resume) as solved:
        report = solved.report()
        if report is None:
            report = prune(solved.package)
            solved.add(report)
        model = same_in(solved.package, source)
        return _tuned(report, model, source, output, calibration, options, force, resume)


class _Solved:
    """The pruned package of a run that is not tuned yet, and the report of it, in a folder."""

    def __init__(self, output: Path, digest: str, *, resume: bool) -> None:
        """Opens the folder of a run; deletes what is in it where that is not gone on with."""
        folder = hidden_path(output, "solved")
        with naming(output, folder):
            self._ledger = Ledger(folder, f"*{_SOLVED}.*")  # it, or the journal of its pruning
            names = [field.name for record in (Report, LayerRecord) for field in fields(record)]
            depends = "another model, config, method or samples"
            self._ledger.begin_run(names, digest, depends, resume=resume)
        self.package = folder / f"{_SOLVED}{output.suffix}"

    def report(self) -> Report | None:
        """Returns the report of the package, None where it is not there yet."""
        path = self._ledger.folder / _REPORT
        if not (path.is_file() and self.package.exists()):
            return None
        try:
            return report_from_record(kept(path.read_text()))
        except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise CalibrationError(f"resume: {path} is broken, delete it: {error!r}") from None

    def add(self, report: Report) -> None:
        """Notes that the package is there, and what was done for it."""
        with whole_file(self._ledger.folder / _REPORT, force=True) as building:
            building.write_text(keep(asdict(report)))

    def __enter__(self) -> _Solved:
        return self

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        """Deletes it when the run is done, or when it holds nothing to go on with."""
        self._ledger.close(error)


def _tuned(
    report: Report,
    solved: Path,
    source: object,
    output: str | os.PathLike[str],
    calibration: Calibration,
    options: Regions,
    force: bool,
    resume: bool,
) -> Report:
    """Returns what was done to a package that was solved for, and is now tuned as well."""
    from mlpass.finetune import tune

    found = tune(
        solved,
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
