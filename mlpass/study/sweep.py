"""Many configs on one model: what each does to its size, its outputs and its speed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mlpass.errors import CalibrationError, ConfigError, InputError, close_matches
from mlpass.examine.multiplications import multiplications_of
from mlpass.examine.processors import check_processor
from mlpass.files import check_file, naming, temporary_folder
from mlpass.ledger import journal_path
from mlpass.literals import Backend
from mlpass.program.mlmodel import ModelLike, check_outside
from mlpass.program.mlpackage import Package
from mlpass.program.opsets.packages import path_of
from mlpass.program.pte_paths import host_of
from mlpass.pruning.notes import adapters_left
from mlpass.report.front import with_front
from mlpass.report.html import check_target, write_report
from mlpass.report.study import SweepReport, Trial
from mlpass.runtime.calls import function_of
from mlpass.runtime.functions import runner_of
from mlpass.runtime.given import warn_of_each
from mlpass.runtime.interpreter import Interpreter
from mlpass.runtime.samples import SampleData, check_unnamed, functions_in, listed
from mlpass.runtime.sources import functions_of
from mlpass.runtime.steps import steps_of
from mlpass.storage.given import StorageLike
from mlpass.study.evaluate import Evaluate, evaluated
from mlpass.study.grid import Candidate, make_candidates
from mlpass.study.held_out import divided, told_of
from mlpass.study.latency import can_measure, measure_latency
from mlpass.study.layers import measure_layers, share_grams
from mlpass.study.reference import write_reference
from mlpass.study.space import NEEDS_NEWER, default_candidates, is_old_package
from mlpass.study.trial import (
    Setting,
    compressed_left,
    given_as,
    run_trial,
    weight_bytes,
)
from mlpass.study.trial_journal import TrialJournal
from mlpass.study.workers import open_executor, run_all
from mlpass.version import __version__
from mlpass.weights.sites import find_sites


def sweep(
    model: ModelLike,
    sample_data: SampleData | None = None,
    configs: object = None,
    *,
    method: object = None,
    storage: StorageLike = None,
    evaluate: Evaluate | None = None,
    test_data: SampleData | None = None,
    executor: Executor | None = None,
    jobs: int | None = None,
    output: str | os.PathLike[str] | None = None,
    resume: bool = False,
    force: bool = False,
    backend: Backend = "numpy",
    function_name: str | None = None,
    weight: str | None = None,
    minimum_deployment_target: object = None,
    joint_compression: bool = False,
    processor: str | None = None,
    command: str | None = None,
) -> SweepReport:
    """Tries many configs on a model and returns what each came to.

    Each config's result is that of `mlpass.prune` and `mlpass.compare` with the same arguments.
    What they share is done once: the outputs of the model as it is, and what its layers meet.
    Where a config is solved on samples, and there are 8 or more without `test_data`, a quarter of
    them is kept back to compare outputs on.

    Args:
        model: path of an `.mlpackage`, or an `MLModel`.
        sample_data: as for `prune`. Outputs are compared on it, and methods with data calibrate on
            it. Without it only sizes are measured. Of several functions, each has its own figures,
            and the worst of all counts.
        configs: a sequence of configs, or the path of a YAML file with one; None for the whole
            space: int8, int4, palettes, zeros, both; with samples the best of those solved on them,
            and sizes that are divided among the weights.
        method: by which to try each, a method, its name, or several; None is by magnitude, and
            where no configs are given by what each is best by.
        storage: of the configs that name none themselves; without configs twenty patterns in it.
        evaluate: your own measure of a model: given the path of a package, returns a number, the
            higher the better. It then takes the SNR's place in the front.
        test_data: samples to compare outputs on, where they should be others than `sample_data`;
            all of that is then calibrated on.
        executor: that runs the trials, such as that of a `dask.distributed` client; it must see the
            same files. None is processes on this machine where there are cores for several, and
            this process where `evaluate`, a mode or a method cannot be sent to another.
        jobs: how many processes to start at most; None is one a core, 1 is this process alone.
        output: a report to write: `.html` for one to look at (the report extra), `.json`.
        resume: whether to go on with what a sweep to the same `output` that died had finished.
        force: whether to replace an `output` that exists.
        backend: that models run on, "numpy" or "torch".
        function_name: of a model with several functions, the one that the samples are for.
        weight: whose pattern the report shows; None is the largest.
        minimum_deployment_target: that the model is raised to first, as for `prune`.
        joint_compression: whether weights that are compressed already take part, as for `prune`.
        processor: "ane", "cpu" or "gpu", that it is for: trials say which of their forms that takes
            badly, as far as is known, and of those that noise does not tell apart the one with
            fewest such is in front.
        command: that the report says made it.

    Raises:
        ConfigError: a config or an option is not valid, or `evaluate` fails on the model.
        CalibrationError: the samples do not fit the model.
        ModelFormatError: `model` is not a package with an ML Program, or is broken; or `output` is
            within it.
        UnsupportedOpError: samples are given, and the program has ops without kernels.
        BackendError: an HTML report is asked for without the report extra.
        ExecutionError: a worker process died.
        OutputExistsError: `output` exists and `force` is False.
        OutputBusyError: another run is writing it.
        OSError: a file cannot be read or written.
    """
    began = time.perf_counter()
    candidates = [] if configs is None else make_candidates(configs, method, storage)
    _check(backend, processor, output, resume, force)
    _check_sampled(candidates, sample_data)
    if jobs is not None and (not isinstance(jobs, int) or isinstance(jobs, bool) or jobs < 1):
        raise ConfigError(f"jobs: must be an int of 1 or more. Got {jobs!r}.")
    if output is not None:
        check_outside(output, model, "the model to prune")
    with ExitStack() as closing:
        folder = closing.enter_context(temporary_folder())
        path, name, named = path_of(model, folder, minimum_deployment_target)
        function_name = function_name or named
        package = closing.enter_context(Package(path))
        old = is_old_package(package)
        if configs is None:
            candidates = default_candidates(old, sample_data is not None, method, storage)
            _check_sampled(candidates, sample_data)
        solved = any(not candidate.data_free for candidate in candidates)
        samples, tested = divided(sample_data, test_data, keep=solved)
        setting = Setting(
            model=path,
            sample_data=samples,
            test_data=tested,
            evaluate=evaluate,
            backend=backend,
            function_name=function_name,
            processor=processor,
            joint_compression=joint_compression,
            weight=weight,
            host=os.path.abspath(name) if host_of(model) else None,
            **given_as(name, sample_data, minimum_deployment_target),
        )
        _check_weight(package, weight)
        journal = None
        if output is not None:
            place = journal_path(output)
            with naming(Path(output), place):
                journal = TrialJournal(place, package.files, setting, resume=resume)
            closing.enter_context(journal)
        if tested is not None:
            setting = setting.having(reference=str(write_outputs(package, setting, folder)))
        value = None if evaluate is None else evaluated(evaluate, path)
        trials, notes = _run(setting, candidates, executor, jobs, journal, folder)
        notes += filter(None, [told_of(samples, tested, test_data) if solved else None])
        notes += [NEEDS_NEWER] if configs is None and old else []
        notes += dict.fromkeys(
            note for one in trials if one.report for note in adapters_left(one.report.layers)
        )
        notes += compressed_left(setting, package)
        report = SweepReport(
            model=name,
            bytes_before=setting.nbytes,
            weight_bytes_before=weight_bytes(package, setting.functions),
            samples=len(setting.judged or ()),
            value_before=value,
            latency_before=_latency(setting, path) if can_measure() else None,
            trials=with_front(trials),
            command=command or f"mlpass.sweep({name!r}, ...)",
            seconds=time.perf_counter() - began,
            notes=tuple(notes),
            date=date.today().isoformat(),
            version=__version__,
            multiplications=_most_multiplications(package, setting.functions),
        )
        if output is not None:
            write_report(report, Path(output), force=force)
    return report


def _run(
    setting: Setting,
    candidates: Sequence[Candidate],
    executor: Executor | None,
    jobs: int | None,
    journal: TrialJournal | None,
    folder: Path,
) -> tuple[list[Trial], list[str]]:
    """Returns a trial for each candidate, in their order, and what could not be measured."""
    timed, trials = can_measure(), dict[int, Trial]()
    for number, candidate in enumerate(candidates):
        known = journal.get(candidate) if journal else None
        if known is not None and (known.latency is not None or not timed):
            trials[number] = known

    def add(number: int, trial: Trial) -> None:
        trials[number] = trial
        if journal:
            journal.add(candidates[number], trial)

    left = [number for number in range(len(candidates)) if number not in trials]
    setting = share_grams(setting, [candidates[number] for number in left], folder)
    packages = {number: str(folder / f"{number}.mlpackage") for number in left if timed}
    free = [number for number, candidate in enumerate(candidates) if candidate.data_free]
    calls: dict[int | None, tuple[Callable[..., Any], tuple[Any, ...]]] = {}  # by the trial
    if setting.test_data is not None and free:
        calls[None] = measure_layers, (setting, [candidates[number] for number in free])
    for number in left:
        calls[number] = run_trial, (setting, candidates[number], packages.get(number))
    given, of_trials = [*calls.values()], [*calls]
    errors, note = [], None
    bar = tqdm(total=len(calls), desc="sweeping", unit="job", disable=None)
    with open_executor(executor, len(calls), given, jobs, folder) as workers, bar:
        for place, result in run_all(workers, given):
            bar.update()
            if (which := of_trials[place]) is None:
                errors, note = result
            else:
                add(which, result)
    for number, package in packages.items():  # one after another, with nothing beside them
        if trials[number].failed is None:
            add(number, replace(trials[number], latency=_latency(setting, package)))
    for number, layer_errors in zip(free, errors, strict=False):
        if trials[number].failed is None:
            trials[number] = replace(trials[number], layer_errors=layer_errors)
    return [trials[number] for number in range(len(candidates))], [note] if note else []


def write_outputs(package: Package, setting: Setting, folder: Path) -> Path:
    """Writes the outputs of the model as it is, and returns the folder that they are in.

    Raises:
        CalibrationError: a sample does not fit the model.
    """
    judged = setting.judged or ()
    given = judged if setting.learnt is None else setting.learnt
    functions, others = functions_in(judged), functions_in(given)
    if set(functions) != set(others):
        raise CalibrationError(
            f"test_data: is for {_listed(functions)}, and sample_data for {_listed(others)}; give "
            "samples of the same functions"
        )
    check_unnamed(functions, setting.function_name)
    name = setting.function_name
    interpreter = runner_of(package, functions, backend=setting.backend, function_name=name)
    place = folder / "reference"
    place.mkdir()
    try:
        warn_of_each(interpreter, judged)
        if given is not judged:
            warn_of_each(interpreter, given)
        write_reference(interpreter, judged, place)
    except InputError as error:
        raise CalibrationError(f"sample_data: {error}") from None
    return place


def _listed(functions: Sequence[str | None]) -> str:
    return ", ".join("the default function" if each is None else repr(each) for each in functions)


def _most_multiplications(package: Package, functions: Sequence[str | None]) -> int | None:
    """Returns the multiplications of the function that takes most; None where a shape varies."""
    runs = [[each for _, each in functions_of(package, name)] for name in functions]
    counts = [multiplications_of(run) for run in runs]
    return None if None in counts else max(filter(None, counts), default=0)


def _latency(setting: Setting, path: str) -> dict[str, float] | None:
    """Returns a package's latency on the first step of the first sample; None without samples."""
    if setting.judged is None:
        return None
    sample = setting.judged[0]
    named = function_of(listed(sample)[0]) or setting.function_name
    interpreter = Interpreter(path, function_name=named, partial=True)
    first, *_ = steps_of(sample, interpreter)
    return measure_latency(path, first, function_name=named)


def check_backend(backend: str) -> None:
    """Raises ConfigError where a study cannot run models on a backend."""
    if backend not in ("numpy", "torch"):
        raise ConfigError(f"backend: must be 'numpy' or 'torch'. Got {backend!r}.")


def _check_sampled(candidates: Sequence[Candidate], sample_data: SampleData | None) -> None:
    """Raises ConfigError where candidates need samples that were not given."""
    needing = [candidate for candidate in candidates if not candidate.data_free]
    if sample_data is None and needing:
        raise ConfigError(
            f"sample_data: {needing[0].name!r} by {needing[0].method_name} needs samples"
        )


def _check(
    backend: str,
    processor: str | None,
    output: str | os.PathLike[str] | None,
    resume: bool,
    force: bool,
) -> None:
    """Raises what is wrong with the arguments of a sweep, before anything is run."""
    check_backend(backend)
    check_processor(processor)
    if output is None:
        if resume:
            raise ConfigError("resume: needs output, the report of the sweep that was interrupted")
        return
    path = Path(output)
    check_target(path)
    check_file(path, force=force)


def _check_weight(package: Package, weight: str | None) -> None:
    names = [site.name for site in find_sites(package.programs)]
    if weight is not None and weight not in names:
        raise ConfigError(
            f"weight: the model has no weight named {weight!r}{close_matches(weight, names)}"
        )
