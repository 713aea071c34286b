"""mlpass prunes Core ML models after conversion, on the MIL program itself.

Importing it loads neither coremltools nor torch: each name below loads what it needs, once used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mlpass.version import __version__ as __version__

if TYPE_CHECKING:
    from mlpass.errors import (
        BackendError,
        CalibrationError,
        ConfigError,
        ExecutionError,
        InputError,
        MlpassError,
        ModelFormatError,
        OutputBusyError,
        OutputExistsError,
        TargetError,
        UnsupportedOpError,
    )
    from mlpass.examine.check import check
    from mlpass.examine.compare import compare
    from mlpass.examine.explain import explain
    from mlpass.examine.inspect import inspect
    from mlpass.examine.locate import locate
    from mlpass.plan.config import Config, OpConfig
    from mlpass.plan.regions import Regions
    from mlpass.plugin.converting import converting
    from mlpass.plugin.passes import pipeline
    from mlpass.pruning.drop_in import prune_weights
    from mlpass.pruning.in_place import prune_program
    from mlpass.pruning.prune import prune
    from mlpass.report.check import Check, Hazard
    from mlpass.report.choice import Attempt, Choice, Target
    from mlpass.report.comparison import Comparison, OutputRecord
    from mlpass.report.explanation import Explanation, Finding, WeightCost
    from mlpass.report.location import Location, OpRecord
    from mlpass.report.records import LayerRecord, Report
    from mlpass.report.sensitivity import LayerSensitivity, SensitivityReport
    from mlpass.report.study import SweepReport, Trial
    from mlpass.runtime.interpreter import Interpreter
    from mlpass.runtime.kernels.registry import kernel
    from mlpass.solvers.admm import ADMM
    from mlpass.solvers.gram import Gram
    from mlpass.solvers.solve import Solution, solve
    from mlpass.solvers.sparsegpt import SparseGPT
    from mlpass.solvers.wanda import Magnitude, Wanda
    from mlpass.sparsity.modes import NM, Block, Channel, Kernel, Percentile, Threshold
    from mlpass.storage.lossless import Lossless
    from mlpass.storage.palette import Palette
    from mlpass.storage.plain import Plain
    from mlpass.storage.quantized import Quantized
    from mlpass.study.choose import choose
    from mlpass.study.sensitivity import sensitivity
    from mlpass.study.sweep import sweep


_HOMES = {
    "BackendError": "mlpass.errors",
    "ADMM": "mlpass.solvers.admm",
    "Block": "mlpass.sparsity.modes",
    "CalibrationError": "mlpass.errors",
    "Channel": "mlpass.sparsity.modes",
    "Comparison": "mlpass.report.comparison",
    "Config": "mlpass.plan.config",
    "ConfigError": "mlpass.errors",
    "ExecutionError": "mlpass.errors",
    "InputError": "mlpass.errors",
    "Interpreter": "mlpass.runtime.interpreter",
    "Gram": "mlpass.solvers.gram",
    "Kernel": "mlpass.sparsity.modes",
    "LayerRecord": "mlpass.report.records",
    "Magnitude": "mlpass.solvers.wanda",
    "MlpassError": "mlpass.errors",
    "ModelFormatError": "mlpass.errors",
    "NM": "mlpass.sparsity.modes",
    "OutputBusyError": "mlpass.errors",
    "OutputExistsError": "mlpass.errors",
    "OutputRecord": "mlpass.report.comparison",
    "Lossless": "mlpass.storage.lossless",
    "Palette": "mlpass.storage.palette",
    "Plain": "mlpass.storage.plain",
    "Percentile": "mlpass.sparsity.modes",
    "Quantized": "mlpass.storage.quantized",
    "Regions": "mlpass.plan.regions",
    "Report": "mlpass.report.records",
    "OpConfig": "mlpass.plan.config",
    "Solution": "mlpass.solvers.solve",
    "SparseGPT": "mlpass.solvers.sparsegpt",
    "Threshold": "mlpass.sparsity.modes",
    "UnsupportedOpError": "mlpass.errors",
    "check": "mlpass.examine.check",
    "Check": "mlpass.report.check",
    "Hazard": "mlpass.report.check",
    "compare": "mlpass.examine.compare",
    "explain": "mlpass.examine.explain",
    "Explanation": "mlpass.report.explanation",
    "Finding": "mlpass.report.explanation",
    "WeightCost": "mlpass.report.explanation",
    "Wanda": "mlpass.solvers.wanda",
    "inspect": "mlpass.examine.inspect",
    "locate": "mlpass.examine.locate",
    "Location": "mlpass.report.location",
    "OpRecord": "mlpass.report.location",
    "kernel": "mlpass.runtime.kernels.registry",
    "converting": "mlpass.plugin.converting",
    "pipeline": "mlpass.plugin.passes",
    "prune": "mlpass.pruning.prune",
    "prune_program": "mlpass.pruning.in_place",
    "prune_weights": "mlpass.pruning.drop_in",
    "solve": "mlpass.solvers.solve",
    "Attempt": "mlpass.report.choice",
    "Choice": "mlpass.report.choice",
    "Target": "mlpass.report.choice",
    "LayerSensitivity": "mlpass.report.sensitivity",
    "SensitivityReport": "mlpass.report.sensitivity",
    "SweepReport": "mlpass.report.study",
    "Trial": "mlpass.report.study",
    "TargetError": "mlpass.errors",
    "choose": "mlpass.study.choose",
    "sensitivity": "mlpass.study.sensitivity",
    "sweep": "mlpass.study.sweep",
}

# Rooms that are used by their own name: `mlpass.finetune.to_module`.
_ROOMS = ("finetune",)

__all__ = [
    "Block",
    "Channel",
    "Config",
    "Kernel",
    "NM",
    "Percentile",
    "OpConfig",
    "Threshold",
    "ADMM",
    "Magnitude",
    "SparseGPT",
    "Wanda",
    "Gram",
    "Lossless",
    "Palette",
    "Plain",
    "Quantized",
    "Interpreter",
    "check",
    "compare",
    "explain",
    "inspect",
    "locate",
    "kernel",
    "converting",
    "pipeline",
    "prune",
    "prune_program",
    "prune_weights",
    "solve",
    "Check",
    "Comparison",
    "Explanation",
    "Finding",
    "Hazard",
    "WeightCost",
    "LayerRecord",
    "Location",
    "OpRecord",
    "OutputRecord",
    "Regions",
    "Report",
    "Solution",
    "BackendError",
    "CalibrationError",
    "ConfigError",
    "ExecutionError",
    "InputError",
    "MlpassError",
    "ModelFormatError",
    "OutputBusyError",
    "OutputExistsError",
    "UnsupportedOpError",
    "choose",
    "sensitivity",
    "sweep",
    "Attempt",
    "Choice",
    "LayerSensitivity",
    "SensitivityReport",
    "SweepReport",
    "Target",
    "Trial",
    "TargetError",
]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return import_module(f"mlpass.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*__all__, *_ROOMS, "__version__"})
