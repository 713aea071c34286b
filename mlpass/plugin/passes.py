"""mlpass inside coremltools: its passes in the registry, pipelines, and a converter front end.

Importing this registers the passes; `install` adds the named pipelines and the front end.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeGuard

from coremltools import PassPipeline
from coremltools.converters.mil.converter import ConverterRegistry
from coremltools.converters.mil.mil.passes.graph_pass import AbstractGraphPass
from coremltools.converters.mil.mil.passes.pass_registry import PASS_REGISTRY

from mlpass.calibrate.calibration import make_calibration
from mlpass.calibrate.plain import plain_arguments
from mlpass.errors import ConfigError, MlpassError
from mlpass.plan.config import configured
from mlpass.plugin.options import PassKind, arguments_of, pass_kinds
from mlpass.program.reload import load_pymil
from mlpass.pruning.in_place import prune_in_place
from mlpass.runtime.samples import Inputs, Sample, load_samples
from mlpass.solvers.problem import Method
from mlpass.storage.given import StorageLike, take_storage

if TYPE_CHECKING:
    from mlpass.program.proto import Message
    from mlpass.program.pymil_types import PymilProgram
    from mlpass.report.records import Report
    from mlpass.runtime.samples import SampleData

_LOGGER = logging.getLogger("mlpass")
_NAMESPACE = "mlpass"
_FRONTEND = "mlpackage"
_LAST = "common::dead_code_elimination"
# A finished package has these names for its weights, which configs go by.
_NAMING = ("mil_backend::sanitize_name_strings", "common::dedup_op_and_var_names")


class PrunePass(AbstractGraphPass):  # type: ignore[misc]  # coremltools is untyped
    """Base of the passes: one a kind, made anew by coremltools for each run."""

    kind: PassKind

    def __init__(self) -> None:
        """Makes it without options."""
        self.options: dict[str, object] = {}

    def __str__(self) -> str:
        return f"{_NAMESPACE}::{self.kind.name}"

    def set_options(self, pass_options: Any = None) -> None:
        """Sets its options and checks them.

        Raises:
            ConfigError: one is unknown, bad or missing.
        """
        self.options = {option.option_name: option.option_val for option in pass_options or ()}
        self.arguments()

    def arguments(self) -> dict[str, Any]:
        """Returns what its options say, as arguments of `prune_in_place`.

        Raises:
            ConfigError: one is unknown, bad or missing.
        """
        try:
            return arguments_of(self.kind, self.options)
        except ConfigError as error:
            raise ConfigError(f"{self}: {error}") from None

    def apply(self, prog: PymilProgram) -> None:
        """Prunes the weights of a pymil program in place, and logs the report.

        Raises:
            ConfigError: an option, or the config among them, is not valid.
            ModelFormatError: the program is older than iOS16.
        """
        arguments = self.arguments()
        calibration = arguments.get("calibration")
        if calibration is not None:
            samples = [_renamed(sample, prog) for sample in calibration.sample_data]
            arguments["calibration"] = replace(calibration, sample_data=samples)
        try:
            report = prune_in_place(prog, **arguments)
        except MlpassError as error:
            raise type(error)(f"{self}: {error}") from None
        _LOGGER.info("%s:\n%s", self, report)
        if (heard := reports.get()) is not None:
            heard.append(report)


reports: ContextVar[list[Report] | None] = ContextVar("reports", default=None)
"""Where the passes that run in this context put their reports, too."""


_classes: dict[PassKind, type[PrunePass]] = {}  # what is registered, and was
_pipelines: set[str] = set()


def pipeline(
    config: object = None,
    *,
    method: Method | str | None = None,
    sample_data: SampleData | None = None,
    storage: StorageLike = None,
    base: PassPipeline | None = None,
    **options: object,
) -> PassPipeline:
    """Returns a coremltools `PassPipeline` that prunes at its end.

    Use it as `coremltools.convert(..., pass_pipeline=mlpass.pipeline(config))`. The weights are
    pruned as they go to the package: in their final type and layout, under their final names.

    Args:
        config: which mode and storage each weight gets: see `prune`.
        method: as for `prune`, or its name; needs samples, magnitude aside.
        sample_data: likewise, keyed by the names of the source's inputs.
        storage: as for `prune`; or its options by name among the others, as `quantize="int4"`.
        base: a `PassPipeline` to begin with, which is not changed; `PassPipeline.DEFAULT` where
            None.
        **options: of `prune`, that go with samples: `allocate`, ...; and those of the
            method, where it is given by its name.

    Raises:
        ConfigError: an option or the config is not valid, or `base` is not a pipeline, or is one
            that prunes with a config already.
        CalibrationError: the samples are in a form that `prune` does not take.
    """
    given = pass_options(config, method=method, sample_data=sample_data, storage=storage, **options)
    return with_pruning(PassPipeline.DEFAULT if base is None else base, *given)


def pass_options(
    config: object = None,
    *,
    method: Method | str | None = None,
    sample_data: SampleData | None = None,
    storage: StorageLike = None,
    **options: object,
) -> tuple[str, dict[str, object]]:
    """Returns which pass does what `pipeline` is asked for, and the options that it needs.

    All is as for `pipeline`; samples are read here, once.

    Raises:
        ConfigError: an option or the config is not valid.
        CalibrationError: the samples are in a form that `prune` does not take.
    """
    stored = take_storage(options if storage is None else {**options, "storage": storage})
    given: dict[str, object] = {"config": configured(config, stored)}
    arguments = {"method": None, **plain_arguments({"method": method, **options})}
    calibration = make_calibration(sample_data=sample_data, **arguments)
    if calibration is None:
        return "prune", given
    return "sparsegpt", {**given, **arguments, "sample_data": load_samples(calibration.sample_data)}


def with_pruning(base: PassPipeline, kind: str, options: Mapping[str, object]) -> PassPipeline:
    """Returns a copy of a pipeline with a pass of mlpass at its end.

    Args:
        base: a `PassPipeline`.
        kind: of the pass, after "mlpass::".
        options: of the pass.

    Raises:
        ConfigError: `base` is not a pipeline, or is one that prunes with a config already.
    """
    register_passes()
    check_base(base)
    if found := [each for each in base.passes if _has_config(each)]:
        raise ConfigError(f"base: it has {found[0]} already; merge the two configs into one")
    name = f"{_NAMESPACE}::{kind}"
    result = PassPipeline(pruning_last(base.passes, name), f"{base.pipeline_name}_pruned")
    result.set_options_by_another_pipeline(base)
    result.set_options(name, dict(options))
    return result


def check_base(base: object) -> None:
    """Raises ConfigError where a pipeline to begin with is not one."""
    if not isinstance(base, PassPipeline):
        raise ConfigError(f"base: must be a coremltools PassPipeline. Got {type(base).__name__}.")


def _has_config(name: str) -> bool:
    kind = PASS_REGISTRY.passes.get(name)
    return _is_pruning(kind) and kind.kind.mode is None


def register_passes() -> None:
    """Registers the passes with coremltools, for modes that were added since as well.

    It does no harm to do so twice.
    """
    for name in _ours():
        PASS_REGISTRY.passes.pop(name)
    for kind in pass_kinds():
        if kind not in _classes:
            _classes[kind] = type(kind.name, (PrunePass,), {"kind": kind})
        PASS_REGISTRY.passes[f"{_NAMESPACE}::{kind.name}"] = _classes[kind]


def install() -> None:
    """Adds named pipelines and the front end "mlpackage" to coremltools, and the passes.

    `PassPipeline.get_pipeline` then knows "mlpass_prune", "mlpass_sparsegpt" and one for each mode:
    "mlpass_threshold", "mlpass_percentile", "mlpass_nm", "mlpass_block" and so on;
    `mil_convert(path, convert_from="mlpackage", ...)` takes the path of an `.mlpackage`. It does no
    harm to install twice.
    """
    register_passes()
    pipelines = PassPipeline._PIPELINE_NAME_TO_PASSES
    for kind in pass_kinds():
        name = f"{_NAMESPACE}_{kind.name.removeprefix('prune_')}"
        pipelines[name] = pruning_last(pipelines["default"], f"{_NAMESPACE}::{kind.name}")
        _pipelines.add(name)
    pipelines[f"frontend_{_FRONTEND}"] = []
    ConverterRegistry.frontends[_FRONTEND] = PackageFrontend


def uninstall() -> None:
    """Takes all that mlpass added to coremltools out again, the passes included.

    A pipeline that has them does not run any more, until `install` or `mlpass.pipeline` is called.
    """
    named = [name for name, kind in PASS_REGISTRY.passes.items() if _is_pruning(kind)]
    for name in {*_ours(), *named}:
        PASS_REGISTRY.passes.pop(name)
    for name in (*_pipelines, f"frontend_{_FRONTEND}"):
        PassPipeline._PIPELINE_NAME_TO_PASSES.pop(name, None)
    _pipelines.clear()
    ConverterRegistry.frontends.pop(_FRONTEND, None)


def _ours() -> list[str]:
    return [name for name in PASS_REGISTRY.passes if name.startswith(f"{_NAMESPACE}::")]


def _is_pruning(kind: object) -> TypeGuard[type[PrunePass]]:
    return isinstance(kind, type) and issubclass(kind, PrunePass)


class PackageFrontend:
    """A converter front end that takes the path of an `.mlpackage`."""

    name = _FRONTEND

    def __call__(
        self,
        model: Any,
        *,
        specification_version: int | None = None,
        model_description: Message | None = None,
        **_: object,
    ) -> Any:
        """Returns the package's pymil program.

        Args:
            model: the path.
            specification_version: of the model to make, as `mil_convert` was given it.
            model_description: likewise; needed where coremltools could not make it anew.

        Raises:
            ConfigError: one of the two is missing, or too old.
            ModelFormatError: there is no package with one ML Program.
            OSError: it cannot be read.
        """
        return load_pymil(model, specification_version, model_description)


def _renamed(sample: Sample, program: PymilProgram) -> Sample:
    """Returns a sample keyed by the inputs' names in a package.

    Those are the source's, with anything but letters, digits and underscores replaced.
    """
    known = {name for function in program.functions.values() for name in function.inputs}

    def renamed(step: Inputs) -> Inputs:
        return {
            name if name in known else re.sub(r"\W", "_", name, flags=re.ASCII): array
            for name, array in step.items()
        }

    return renamed(sample) if isinstance(sample, Mapping) else [renamed(step) for step in sample]


def pruning_last(passes: list[str], name: str) -> list[str]:
    """Returns `passes` with the pass of that name at the end, before one last clean-up."""
    last = [_LAST] if passes and passes[-1] == _LAST else []
    return [*passes, *_NAMING, name, *last]


register_passes()
