"""Pruning a model: from package to package, or a pymil `Program` in place."""

from __future__ import annotations

from concurrent.futures import Executor
from functools import partial
from typing import Any

from mlpass.calibrate.budget import Budget, open_config
from mlpass.calibrate.calibration import make_calibration
from mlpass.errors import ConfigError
from mlpass.literals import Allocate, Backend, Fallback, Propagate, Target
from mlpass.plan.config import as_config, configured
from mlpass.plan.regions import Regions
from mlpass.program.hosted import models_of
from mlpass.pruning.hosts import prune_hosts
from mlpass.pruning.in_place import prune_in_place
from mlpass.pruning.package import prune_package
from mlpass.pruning.tuned import check_tune, prune_and_tune
from mlpass.report.records import Report
from mlpass.runtime.replay import MEMORY_BUDGET
from mlpass.runtime.sources import is_pymil
from mlpass.solvers.problem import Method
from mlpass.storage.given import StorageLike


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
    target: Target | None = None,
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
        target: the outputs to come near: "own", its dense weight's, or "dense", the dense model's:
            the default of methods that change what they keep.
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
    if wanted is not None and calibration is not None and calibration.allocate != "uniform":
        raise ConfigError("budget: divides bytes among layers already; drop allocate")
    if tune is not None:
        check_tune(source, calibration, tune)
    if resume and calibration is None:
        raise ConfigError(
            "resume: goes on with what was solved for on samples; without sample_data there is "
            "nothing to go on with"
        )
    if is_pymil(source):
        if resume:
            raise ConfigError("resume: is for packages; a Program is pruned in place, all at once")
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
        calibration=calibration,
        budget=wanted,
        joint_compression=joint_compression,
        minimum_deployment_target=minimum_deployment_target,
        resume=resume,
    )
    if len(models := models_of(source)) > 1:
        alone = calibration is None and wanted is None
        return prune_hosts(source, models, output, given, prune_one, force=force, data_free=alone)
    carry_out_at = partial(prune_one, source, config=given)
    if tune is None or calibration is None:
        return carry_out_at(output, force=force)
    settings = {
        "config": given,
        "budget": wanted,
        "joint": joint_compression,
        "target": minimum_deployment_target,
    }
    solve = partial(carry_out_at, force=True)
    return prune_and_tune(
        solve, source, output, calibration, settings, tune, force=force, resume=resume
    )
