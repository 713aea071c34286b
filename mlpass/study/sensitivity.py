"""How each layer bears pruning: its error at each sparsity, in the model as it is."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING

from mlpass.calibrate.plain import method_of
from mlpass.calibrate.shares import layer_curve
from mlpass.calibrate.walk import observe_dense
from mlpass.errors import ConfigError, NotApplicable
from mlpass.files import temporary_folder
from mlpass.literals import Backend
from mlpass.plan.config import DEFAULT_WEIGHT_THRESHOLD, Config
from mlpass.plan.steps import Step, plan
from mlpass.program.mlpackage import Package
from mlpass.program.opsets.packages import path_of
from mlpass.report.sensitivity import LayerSensitivity, SensitivityReport
from mlpass.runtime.replay import MEMORY_BUDGET
from mlpass.runtime.samples import SampleData, load_samples
from mlpass.solvers.allocate import Curve
from mlpass.sparsity.modes import Percentile
from mlpass.study.layers import calibration_of
from mlpass.study.sweep import check_backend
from mlpass.study.trial import Setting
from mlpass.weights.sites import Site, find_sites

if TYPE_CHECKING:
    from mlpass.program.mlmodel import ModelLike

_SPARSITIES = (0.0, 0.25, 0.5, 0.75, 0.9)


def sensitivity(
    model: ModelLike,
    sample_data: SampleData,
    sparsities: Sequence[float] = _SPARSITIES,
    method: object = "sparsegpt",
    *,
    weight_threshold: int = DEFAULT_WEIGHT_THRESHOLD,
    backend: Backend = "numpy",
    function_name: str | None = None,
    memory_budget: int = MEMORY_BUDGET,
) -> SensitivityReport:
    """Returns, for each layer by itself, its relative output error at each sparsity.

    The same curves divide a sparsity among layers in `mlpass.prune(..., allocate="error")`.

    Args:
        model: path of an `.mlpackage`, or an `MLModel`.
        sample_data: as for `prune`.
        sparsities: 0 to 1, each once.
        method: a method or its name.
        weight_threshold: weights of so many elements or fewer are skipped; as in a `Config`.
        backend: that the model runs on, "numpy" or "torch".
        function_name: of a model with several functions, the one that the samples are for.
        memory_budget: bytes of activations that may stay in memory.

    Raises:
        ConfigError: an option is not valid.
        CalibrationError: the samples do not fit the model, or a layer's inputs hold NaN or inf.
        ModelFormatError: `model` is not a package with an ML Program, or is broken.
        UnsupportedOpError: the program has ops without kernels.
        OSError: a file cannot be read.
    """
    shares = sorted(sparsities)
    if not shares or len(set(shares)) < len(shares):
        raise ConfigError(f"sparsities: must be numbers, each once. Got {list(sparsities)!r}.")
    config = Config(global_config=Percentile(shares[-1]), weight_threshold=weight_threshold)
    check_backend(backend)
    solver, samples = method_of(method), load_samples(sample_data, functions=True)
    found: dict[Site, Curve | str] = {}

    with temporary_folder() as folder:
        path, name, named = path_of(model, folder)
        setting = Setting(path, backend=backend, function_name=function_name or named)
        with Package(path) as package:
            steps = plan(find_sites(package.programs), config)
            calibration = calibration_of(setting, samples, memory_budget=memory_budget)
            with observe_dense(package, steps, calibration) as sites:
                for step, observed in sites:
                    try:
                        found[step.site] = layer_curve(step.site, observed, shares, solver)
                    except NotApplicable as reason:
                        found[step.site] = observed.refusal or str(reason)
    layers = tuple(_record(step, found.get(step.site, "no sample reaches it")) for step in steps)
    shown = str(solver)
    return SensitivityReport(name, shown, len(samples), tuple(shares), layers)


def _record(step: Step, found: Curve | str) -> LayerSensitivity:
    name, size = step.site.name, prod(step.site.shape)
    if step.skipped is not None or isinstance(found, str):
        return LayerSensitivity(name, size, (), (), step.skipped or str(found))
    return LayerSensitivity(name, size, tuple(found.errors), tuple(found.nbytes or ()))
