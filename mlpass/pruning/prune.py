"""Pruning a model: from package to package, or a pymil `Program` in place."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from functools import partial
from pathlib import Path
from typing import Any

from mlpass.calibrate.budget import Budget, Division, divide_budget, open_config
from mlpass.calibrate.calibration import Calibration, make_calibration
from mlpass.calibrate.constants import find_all
from mlpass.calibrate.journal import Journal, digest_of_run
from mlpass.calibrate.layers import prune_calibrated
from mlpass.errors import ConfigError
from mlpass.files import naming
from mlpass.ledger import journal_path
from mlpass.literals import Allocate, Backend, Fallback, Propagate, Target
from mlpass.plan.config import Config, as_config, configured
from mlpass.plan.regions import Regions
from mlpass.plan.steps import Step, check_storages, plan, rank_globally
from mlpass.program.hosted import models_of
from mlpass.program.ir import Program
from mlpass.program.mlmodel import open_package
from mlpass.program.mlpackage import Package
from mlpass.program.opsets.packages import raise_package
from mlpass.program.opsets.targets import opset_of
from mlpass.program.pymil_edit import PymilEditor, edit_program
from mlpass.program.writing import Targets, named
from mlpass.pruning.contest import Weights, better, split
from mlpass.pruning.data_free import carry_out, prune_data_free
from mlpass.pruning.hosts import prune_hosts
from mlpass.pruning.notes import notes_of, unheard, whole_outputs
from mlpass.pruning.tuned import check_tune, prune_and_tune
from mlpass.report.records import LayerRecord, Report
from mlpass.runtime.replay import MEMORY_BUDGET
from mlpass.runtime.samples import Sample
from mlpass.runtime.sources import is_pymil, unreached
from mlpass.solvers.problem import Method
from mlpass.storage.given import StorageLike
from mlpass.weights.ensures import Told, ensure_written
from mlpass.weights.joint import check_opset
from mlpass.weights.record import function_records, untouched_record
from mlpass.weights.sites import find_sites
from mlpass.weights.storing import Editor


def prune(
    source: Any,
    output: Any = None,
    config: Any = None,
    *,
    method: Method | None = None,
    sample_data: Any = None,
    storage: StorageLike = None,
    allocate: Allocate = "uniform",
    max_nbytes: int | None = None,
    propagate: Propagate = "pruned",
    target: Target = "own",
    fallback: Fallback = "skip",
    memory_budget: int = MEMORY_BUDGET,
    backend: Backend = "numpy",
    device: str | None = None,
    function_name: str | None = None,
    executor: Executor | None = None,
    joint_compression: bool = False,
    minimum_deployment_target: object = None,
    budget: str | int | None = None,
    bits: float | None = None,
    tune: Regions | None = None,
    force: bool = False,
    resume: bool = False,
) -> Report:
    """Prunes the weights of a model, and returns what was done.

    A package or an `MLModel` is pruned to a new package, `prune(source, output, config)`; a pymil
    `Program` in place, `prune(program, config)`, for which `prune_program` is the plainer name.

    Without `sample_data` weights are pruned by magnitude. With it the program is run on the samples
    once, op by op, and each weight is solved for on the activations that it meets.

    Args:
        source: path of an `.mlpackage`, or an `MLModel`: neither is changed. Or a pymil `Program`.
            Or of an ExecuTorch `.pte`, all of whose Core ML models are pruned, or of one of them:
            "model.pte/forward/0". Or a list of packages that run one after another, each of which
            takes what those before it make; samples are for the first, and what else they take.
        output: path of the `.mlpackage` or `.pte` to write, or of each of several. It appears whole
            or not at all.
        config: which mode and storage each weight gets: a mode, a storage, a `Config`, a
            coremltools `OptimizationConfig`, a mapping, or a YAML path.
        method: `Magnitude()`, `Wanda()`, `ADMM()`, or with samples as default `SparseGPT()`.
        sample_data: an iterable of {input name: array}; the path of an `.npz` whose arrays have a
            leading sample axis; or of a folder of `.npz` files, one a sample. For a model that
            keeps a state, a sample may be a sequence of {input name: array}, or a sub-folder: steps
            that share the state. Of several functions, {function: samples}; a sample or a step may
            be a pair of the function and its inputs, a file or folder be called `function=NAME`.
        storage: how the values are kept of weights whose entry in `config` names no storage:
            `Quantized()` or `Palette()` (iOS18), in the same solve where there are samples; a
            mapping such as `{"palettize": 4, "group_size": 8}`, or a text such as "int8". None, as
            `Plain()`, keeps them as they come. Without a `config` nothing becomes zero.
        allocate: how one target sparsity is divided among layers: "uniform", all the same; "owl",
            which spares layers with many outliers; "error", for the least summed output error.
        max_nbytes: with "error": what pruned weights may take, in place of the target sparsity.
        propagate: whether a layer meets what the "pruned" layers before it make, or the "dense".
        target: the outputs to come near: "own", its dense weight's, or "dense", the dense model's.
        fallback: what becomes of a weight that no sample reaches: "skip", or "magnitude".
        memory_budget: bytes of activations in memory; the rest goes to temporary files.
        backend: that the program runs on, "numpy" or "torch".
        device: torch's: "cpu", "mps" or "cuda".
        function_name: the function that the samples are for.
        executor: among whose workers the samples are divided, with the same bytes as a result:
            dask's `client.get_executor()`, or one of processes.
        joint_compression: whether weights that are quantized or palettized already are pruned, too:
            into joint sparse forms (iOS18), or, where a storage is given, rounded to that anew.
        minimum_deployment_target: "iOS18", "macOS15", `coremltools.target.iOS18`: a package for an
            older one is raised to it.
        budget: what the weight files may take: bytes, "3.5MB", or "0.25x" of what they take. Each
            weight gets the mode and the storage that cost the model's outputs least; what `config`
            names keeps what it names, and null leaves a weight as it is. Of 8 samples or more some
            are kept back, to judge that beside the best single form; the better is written. Large
            constants of few values are stored exactly in fewer bytes.
        bits: the same as stored bits of each weight's element, 3.0 say.
        tune: how regions are then trained, with torch, towards `source`; None where they are not.
        force: whether to replace an `output` that exists.
        resume: whether to go on with what a run that died had finished, rather than anew.

    Raises:
        ConfigError: the config or an option is not valid.
        CalibrationError: the samples do not fit the model, or a layer's inputs hold NaN or inf.
        ModelFormatError: `source` is not a package with an ML Program, or is broken; or a `Program`
            is older than iOS16; or older than iOS18 where a joint form is asked for.
        UnsupportedOpError: samples are given, and the program has ops without kernels; or the model
            has ops that cannot be raised.
        OutputExistsError: `output` exists and `force` is False.
        OutputBusyError: another calibrated run is writing it.
        OSError: a file cannot be read or written.
    """
    calibration = make_calibration(
        method,
        sample_data,
        allocate=allocate,
        max_nbytes=max_nbytes,
        propagate=propagate,
        target=target,
        fallback=fallback,
        memory_budget=memory_budget,
        backend=backend,
        device=device,
        function_name=function_name,
        executor=executor,
    )
    wanted = None if budget is None and bits is None else Budget(budget, bits)
    if wanted is not None and joint_compression:
        raise ConfigError("budget: is for weights that are not compressed; drop joint_compression")
    if wanted is not None and calibration is not None and calibration.allocate != "uniform":
        raise ConfigError("budget: divides bytes among layers already; drop allocate")
    if tune is not None:
        check_tune(source, calibration)
    if is_pymil(source):
        if wanted is not None:
            raise ConfigError(
                "budget: is for the weight files of a package, and a Program has none; convert it, "
                "then prune the package"
            )
        if minimum_deployment_target is not None:
            raise ConfigError(
                "minimum_deployment_target: raises packages; a Program is for the one that it was "
                "made for: convert with that target"
            )
        if output is not None and config is not None:
            raise ConfigError(
                "output: a Program is pruned in place; call prune_program(program, config)"
            )
        given = configured(output if config is None else config, storage)
        return prune_in_place(source, given, calibration, joint_compression=joint_compression)
    if output is None or (config is None and storage is None and wanted is None):
        raise ConfigError(
            "output: name the package to write, prune(source, output, config); "
            "or call prune_weights(mlmodel, config), which returns an MLModel"
        )
    if wanted is None:
        given = configured(config, storage)
    else:
        given = open_config(None if config is None else as_config(config), storage)
    prune_one = partial(
        prune_package,
        config=given,
        calibration=calibration,
        budget=wanted,
        joint_compression=joint_compression,
        minimum_deployment_target=minimum_deployment_target,
        resume=resume,
    )
    if len(models := models_of(source)) > 1:
        alone = calibration is None and wanted is None
        return prune_hosts(source, models, output, prune_one, force=force, data_free=alone)
    carry_out_at = partial(prune_one, source)
    if tune is None or calibration is None:
        return carry_out_at(output, force=force)
    settings = {"config": given, "budget": wanted, "target": minimum_deployment_target}
    solve = partial(carry_out_at, force=True)
    return prune_and_tune(
        solve, source, output, calibration, settings, tune, force=force, resume=resume
    )


def prune_package(
    source: Any,
    output: Targets,
    config: Config,
    calibration: Calibration | None = None,
    *,
    budget: Budget | None = None,
    joint_compression: bool = False,
    minimum_deployment_target: object = None,
    force: bool = False,
    resume: bool = False,
    journaled: bool = True,
) -> Report:
    """Prunes a package or an `MLModel` to a new package, and returns what was done.

    Args:
        source: as for `prune`, and so are the others.
        output: the package to write.
        config: which mode each weight gets; from `open_config` where there is a budget.
        calibration: how weights are solved for on samples; None where they are not.
        budget: of the weight files; None where each weight gets what the config says.
        joint_compression: as for `prune`.
        minimum_deployment_target: that it is raised to; None where it is not.
        force: whether to replace an `output` that exists.
        resume: whether to go on with what a run that died had finished.
        journaled: whether what is finished is kept for that.

    Raises:
        MlpassError: as `prune`; or the package was not written as the report says.
        OSError: a file cannot be read or written.
    """
    with open_package(source) as package:
        if minimum_deployment_target is not None:
            raise_package(package, opset_of(minimum_deployment_target))
        steps = plan_programs(package.programs, config, joint=joint_compression)
        functions, bytes_before = function_records(package.programs), package.nbytes
        first = package.check_target(output, force=force)
        kept = calibration if journaled else None
        with (
            _journal(package, first, config, kept, budget, resume) as journal,
            package.rewrite(output, force=force) as rewriter,
        ):
            steps = rank_globally(steps)
            division = None
            if budget is not None:
                before = sum(path.stat().st_size for path in package.weight_paths)
                learnt, held = (None, []) if calibration is None else split(calibration)
                division = divide_budget(package, package.programs, steps, learnt, budget, before)
                division, layers = _divided(package, division, learnt, held, rewriter, journal)
                steps = [*division.steps, *division.constants]
            elif calibration is None:
                layers = prune_data_free(steps, rewriter)
            else:
                layers = _prune_calibrated(package, steps, calibration, rewriter, journal)
            told = [Told(step.site, layer) for step, layer in zip(steps, layers, strict=True)]
            find = find_sites if division is None else find_all
            rewriter.ensure(partial(ensure_written, told=told, find=find))
        asked = None if joint_compression else config
        notes = notes_of(package, steps, told, asked, divided=division is not None)
        notes += unheard(package, layers, calibration)
        record = None if division is None else division.reported(layers, rewriter.weights_nbytes)
        name, target = package.name, named(output)
    nbytes = rewriter.nbytes
    return Report(
        name, target, bytes_before, nbytes, functions, tuple(layers), notes, budget=record
    )


def prune_in_place(
    program: Any,
    config: object,
    calibration: Calibration | None = None,
    *,
    joint_compression: bool = False,
) -> Report:
    """Prunes the weights of a pymil `Program` in place and returns what was done.

    Sizes in the report are those of the constants that go to a weight file.

    Args:
        program: for iOS16 or later.
        config: as for `prune`.
        calibration: how weights are solved for on samples; None where they are not.
        joint_compression: as for `prune`.

    Raises:
        ConfigError: the config is not valid.
        CalibrationError: the samples do not fit.
        ModelFormatError: the program is older than iOS16; than iOS18 for joint forms.
        UnsupportedOpError: samples are given, and the program has ops without kernels.
    """
    config = as_config(config)
    with edit_program(program) as editor:
        steps = plan_programs(editor.programs, config, joint=joint_compression)
        functions, before = function_records(editor.programs), editor.nbytes
        layers = _in_place(editor, rank_globally(steps), calibration)
    notes = whole_outputs(steps, layers)
    after = before - sum(layer.bytes_before - layer.bytes_after for layer in layers)
    return Report("program", "program, in place", before, after, functions, tuple(layers), notes)


def plan_programs(programs: Sequence[Program], config: Config, *, joint: bool) -> list[Step]:
    """Returns what is to become of each weight site of a model's programs.

    Raises:
        ConfigError: an entry of the config matches nothing, or two contradict each other.
        ModelFormatError: a program is too old for joint compression, or for a storage.
    """
    sites = find_sites(programs)
    steps = plan(sites, config, joint=joint)
    if joint and any(step.skipped is None and step.storage is None for step in steps):
        check_opset(sites)
    check_storages(steps)
    return steps


def _in_place(
    editor: PymilEditor, steps: Sequence[Step], calibration: Calibration | None
) -> list[LayerRecord]:
    if calibration is None:
        return prune_data_free(steps, editor)
    (program,) = editor.programs
    return _prune_calibrated(program, steps, calibration, editor, Journal())


def _divided(
    package: Package,
    division: Division,
    calibration: Calibration | None,
    held: Sequence[Sample],
    editor: Editor,
    journal: Journal,
) -> tuple[Division, list[LayerRecord]]:
    """Returns a divided budget that is carried out, with a record for each of its steps.

    Where samples are kept back they decide between it and its rival.
    """
    if calibration is None:
        layers = prune_data_free(division.steps, editor)
    elif not held:
        layers = _prune_calibrated(package, division.steps, calibration, editor, journal)
    else:

        def solve(tried: Division, edits: Editor, weights: Weights) -> list[LayerRecord]:
            kept = journal if tried is division else Journal()
            return _prune_calibrated(package, tried.steps, calibration, edits, kept, weights)

        division, layers, edits = better(package, division, calibration, held, solve)
        edits.carry_out(editor)
    return division, [*layers, *prune_data_free(division.constants, editor)]


def _prune_calibrated(
    model: Package | Program,
    steps: Sequence[Step],
    calibration: Calibration,
    editor: Editor,
    journal: Journal,
    found: Weights | None = None,
) -> list[LayerRecord]:
    """Returns a record for each step, those that the samples did not decide included."""
    decided = prune_calibrated(model, steps, calibration, editor, journal, found)
    beyond = unreached(model)

    def undecided(step: Step) -> LayerRecord:
        if step.skipped or step.mode is None:
            return untouched_record(step.site, step.skipped)
        if calibration.fallback == "skip":
            reasons = (beyond[use.op] for use in step.site.uses if use.op in beyond)
            return untouched_record(step.site, next(reasons, "no sample reaches it"))
        return carry_out(step, editor)

    return [decided.get(step.site) or undecided(step) for step in steps]


def _journal(
    package: Package,
    output: Path,
    config: Config,
    calibration: Calibration | None,
    budget: Budget | None,
    resume: bool,
) -> Journal:
    """Returns the journal of a run; one that is not calibrated keeps none."""
    if calibration is None:
        return Journal()
    digest = digest_of_run(package, {"config": config, "budget": budget}, calibration)
    folder = journal_path(output)
    with naming(output, folder):
        return Journal(folder, digest, resume=resume)
