"""One trial: a model pruned one way, and measured. It can be sent to another process."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from math import prod
from pathlib import Path
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from mlpass.calibrate.budget import Budget, open_config
from mlpass.calibrate.calibration import make_calibration
from mlpass.calibrate.gram_folder import GramFolder
from mlpass.calibrate.plain import plain_arguments
from mlpass.errors import MlpassError, NotApplicable
from mlpass.examine.compare import output_names, tally_outputs
from mlpass.examine.processors import cautions
from mlpass.files import temporary_folder
from mlpass.literals import Backend
from mlpass.program.hosted import nbytes_in
from mlpass.program.mlpackage import Package
from mlpass.program.opened import package_nbytes
from mlpass.program.opsets.targets import opset_of
from mlpass.pruning.package import prune_package
from mlpass.report.comparison import OutputRecord
from mlpass.report.records import Report
from mlpass.report.study import Pattern, Trial
from mlpass.runtime.functions import runner_of
from mlpass.runtime.samples import Sample, SampleData, functions_in, load_samples
from mlpass.runtime.sources import functions_of
from mlpass.study.commands import prune_command
from mlpass.study.evaluate import Evaluate, evaluated
from mlpass.study.grid import Candidate
from mlpass.study.reference import read_reference, reproducible_outputs
from mlpass.weights.reading import layout_of_site, weight_of
from mlpass.weights.sites import Site, find_sites
from mlpass.weights.traffic import read_bytes
from mlpass.weights.ways import joint_option, left_alone

_CORNER = 64  # rows and columns of a pattern's picture


@dataclass(frozen=True)
class Setting:
    """What all trials of a study have in common.

    Attributes:
        model: path of the package.
        sample_data: to calibrate on, in any form that `load_samples` takes; None without.
        test_data: to compare outputs on, likewise.
        reference: the folder with the outputs of the model as it was on `test_data`.
        evaluate: the user's own measure of the package at a path; higher is better.
        backend: what runs the model.
        function_name: of a model with several.
        weight: whose pattern to picture; the largest where None.
        grams: the folder with what the layers meet in the model as it was on `sample_data`.
        source: the model as its user named it, for what is told; None for `model`.
        host: the path of the `.pte`, or of the model in it, that packages are to be written to, so
            that its size counts; None where they stay packages.
        samples: likewise the samples, where they have a path, or one for each function.
        minimum_deployment_target: that it was raised to, for commands; None where it was not.
        processor: that it is for: "ane", "cpu" or "gpu"; None for any.
        joint_compression: whether weights that are compressed already are pruned, too.
    """

    model: str
    sample_data: SampleData | None = None
    test_data: SampleData | None = None
    reference: str | None = None
    evaluate: Evaluate | None = None
    backend: Backend = "numpy"
    function_name: str | None = None
    weight: str | None = None
    grams: str | None = None
    source: str | None = None
    host: str | None = None
    samples: tuple[str, ...] | None = None
    minimum_deployment_target: str | None = None
    processor: str | None = None
    joint_compression: bool = False

    @cached_property
    def learnt(self) -> Sequence[Sample] | None:
        """The samples to calibrate on, read once."""
        return _loaded(self.sample_data)

    @cached_property
    def judged(self) -> Sequence[Sample] | None:
        """The samples to compare outputs on, read once."""
        return self.learnt if self.test_data is self.sample_data else _loaded(self.test_data)

    @cached_property
    def nbytes(self) -> int:
        """The size of the model as it is."""
        return self.nbytes_of(self.model)

    def nbytes_of(self, package: str) -> int:
        """Returns the size of a package that is made of the model, or of the program it is in.

        Raises:
            ModelFormatError: the program that it is written to is broken.
            OSError: a file cannot be read.
        """
        path = Path(package)
        return package_nbytes(path) if self.host is None else nbytes_in(self.host, path)

    @property
    def functions(self) -> tuple[str | None, ...]:
        """All functions that are run: those that samples name, or the one it is told."""
        named = (None,) if self.judged is None else functions_in(self.judged)
        return tuple(function or self.function_name for function in named)

    def having(self, **changes: str) -> Setting:
        """Returns the same with other fields, and with the samples that are read already."""
        other = replace(self, **changes)  # type: ignore[arg-type]
        vars(other).update(learnt=self.learnt, judged=self.judged)
        return other

    def __getstate__(self) -> dict[str, object]:
        """Returns what another process is given, which reads samples itself."""
        return {each.name: getattr(self, each.name) for each in fields(self)}


def _loaded(samples: SampleData | None) -> Sequence[Sample] | None:
    return None if samples is None else load_samples(samples, functions=True)


class GivenAs(TypedDict):
    """The fields of a setting that say what it was given."""

    source: str
    samples: tuple[str, ...] | None
    minimum_deployment_target: str | None


def given_as(name: str, sample_data: object, target: object) -> GivenAs:
    """Returns what a setting says of a model and its samples as they were given, for commands."""
    return {
        "source": name,
        "samples": _paths_of(sample_data),
        "minimum_deployment_target": None if target is None else f"iOS{opset_of(target)}",
    }


def _paths_of(sample_data: object) -> tuple[str, ...] | None:
    """Returns the path of samples, or FUNCTION=PATH of each function's; None without paths."""
    if isinstance(sample_data, str | os.PathLike):
        return (os.fspath(sample_data),)
    named = sample_data if isinstance(sample_data, Mapping) else {}
    paths = [each for each in named.values() if isinstance(each, str | os.PathLike)]
    if not paths or len(paths) < len(named):
        return None
    return tuple(f"{name}={os.fspath(path)}" for name, path in zip(named, paths, strict=True))


def run_trial(setting: Setting, candidate: Candidate, output: str | None = None) -> Trial:
    """Returns what one candidate came to; where it cannot be pruned so, the reason.

    Args:
        setting: of the study.
        candidate: how to prune.
        output: where to write the pruned package; None for a temporary place.

    Raises:
        OSError: a file cannot be read or written.
    """
    if output is None:
        with temporary_folder() as folder:
            trial = run_trial(setting, candidate, str(folder / "pruned.mlpackage"))
        report = trial.report and replace(trial.report, output=None)  # it is gone
        return replace(trial, report=report)
    command = prune_command(
        setting.source or setting.model,
        candidate,
        backend=setting.backend,
        function_name=setting.function_name,
        minimum_deployment_target=setting.minimum_deployment_target,
        joint_compression=setting.joint_compression,
        **({} if setting.samples is None else {"samples": setting.samples}),
    )
    trial = Trial(
        candidate.name,
        candidate.method_name,
        dict(candidate.options),
        None,
        command=command,
        phrase=candidate.phrase,
    )
    try:
        report = prune_candidate(setting, candidate, output)
        return measure(setting, trial, report, output)
    except MlpassError as error:
        given = setting.source or setting.model
        return replace(trial, failed=str(error).replace(setting.model, given))


def prune_candidate(setting: Setting, candidate: Candidate, output: str) -> Report:
    """Prunes the model as the candidate says, and returns the report.

    Raises:
        MlpassError: as `prune`.
        OSError: a file cannot be read or written.
    """
    calibration, config, options = None, candidate.config, dict(candidate.options)
    budget = Budget(options.pop("budget")) if "budget" in options else None
    if not candidate.data_free:
        calibration = make_calibration(
            candidate.method,
            setting.learnt,
            **plain_arguments(options),
            backend=setting.backend,
            function_name=setting.function_name,
            dense_grams=None if setting.grams is None else GramFolder(Path(setting.grams)),
        )
    return prune_package(
        setting.model,
        output,
        config if budget is None else open_config(config, None),
        calibration,
        budget=budget,
        joint_compression=setting.joint_compression,
        force=True,
        journaled=False,
    )


def measure(setting: Setting, trial: Trial, report: Report, path: str) -> Trial:
    """Returns a trial with all that can be measured of the package that it wrote.

    Raises:
        MlpassError: the package cannot be run.
        OSError: a file cannot be read.
    """
    with Package(path) as package:
        outputs = _compare(setting, package)
        read = weight_bytes(package, setting.functions)
        sites = find_sites(package.programs)
        pattern = _pattern(sites, setting.weight)
        against = cautions(sites, setting.processor)
    given = setting.source or setting.model
    notes = tuple(note.replace(setting.model, given) for note in report.notes)
    report = replace(
        report,
        source=given,
        notes=notes,
        bytes_before=setting.nbytes,
        bytes_after=setting.nbytes_of(path),
    )
    return replace(
        trial,
        report=report,
        outputs=outputs,
        value=None if setting.evaluate is None else evaluated(setting.evaluate, path),
        weight_bytes=read,
        layer_errors=tuple(layer.error for layer in report.layers),
        pattern=pattern,
        cautions=against,
    )


def compressed_left(setting: Setting, package: Package) -> tuple[str, ...]:
    """Returns a note on weights that are compressed already, where those take no part; or none."""
    if setting.joint_compression:
        return ()
    way = f"{joint_option()} has them pruned and rounded, too"
    return left_alone(find_sites(package.programs), way)


def weight_bytes(package: Package, functions: Sequence[str | None] = (None,)) -> int:
    """Returns the stored bytes of the weights that one inference reads: see `read_bytes`.

    Raises:
        ConfigError: there is no such function.
    """
    sites = find_sites(package.programs)
    runs = [[each for _, each in functions_of(package, name)] for name in functions]
    return max(read_bytes(run, sites) for run in runs)


def _compare(setting: Setting, package: Package) -> tuple[OutputRecord, ...]:
    if setting.reference is None or setting.judged is None:
        return ()
    functions = functions_in(setting.judged)
    name = setting.function_name
    interpreter = runner_of(package, functions, backend=setting.backend, function_name=name)
    folder = Path(setting.reference)
    made = reproducible_outputs(interpreter, setting.judged)
    pairs = ((read_reference(folder, number), each) for number, each in enumerate(made))
    return tally_outputs(output_names(interpreter, functions), pairs)


def _pattern(sites: list[Site], name: str | None) -> Pattern | None:
    """Returns the first rows and columns of a weight's keep mask; of the largest by default."""
    readable = [site for site in sites if not site.is_computed]
    named = [site for site in readable if site.name == name or name is None]
    if not named:
        return None
    site = max(named, key=lambda one: prod(one.shape))
    corner = _matrix(site)[:_CORNER, :_CORNER] != 0
    return Pattern(site.name, tuple("".join("01"[int(bit)] for bit in row) for row in corner))


def _matrix(site: Site) -> NDArray[np.generic]:
    """Returns a weight as its rows and columns, all groups below each other."""
    weight = weight_of(site)
    try:
        split = layout_of_site(site).split(weight)
    except NotApplicable:
        return np.atleast_2d(weight.reshape((*weight.shape[:1], -1)))
    groups, rows, channels, positions = split.shape
    # Channel by channel at one kernel position, as n:m and block patterns run.
    return split.swapaxes(2, 3).reshape(groups * rows, positions * channels)
