"""mlpass prunes Core ML models after conversion, on the MIL program itself.

Importing it loads neither coremltools nor torch: each name below loads what it needs, once used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlpass.config import Config, Sized
    from mlpass.errors import (
        CalibrationError,
        ConfigError,
        MlpassError,
        ModelFormatError,
        OutputExistsError,
        UnsupportedOpError,
    )
    from mlpass.passes.drop_in import prune_weights
    from mlpass.passes.inspect import inspect
    from mlpass.passes.prune import prune
    from mlpass.report.records import LayerRecord, Report
    from mlpass.sparsity.modes import NM, Block, Channel, Kernel, Percentile, Threshold

__version__ = "0.1.0"

_HOMES = {
    "Block": "mlpass.sparsity.modes",
    "CalibrationError": "mlpass.errors",
    "Channel": "mlpass.sparsity.modes",
    "Config": "mlpass.config",
    "ConfigError": "mlpass.errors",
    "Kernel": "mlpass.sparsity.modes",
    "LayerRecord": "mlpass.report.records",
    "MlpassError": "mlpass.errors",
    "ModelFormatError": "mlpass.errors",
    "NM": "mlpass.sparsity.modes",
    "OutputExistsError": "mlpass.errors",
    "Percentile": "mlpass.sparsity.modes",
    "Report": "mlpass.report.records",
    "Sized": "mlpass.config",
    "Threshold": "mlpass.sparsity.modes",
    "UnsupportedOpError": "mlpass.errors",
    "inspect": "mlpass.passes.inspect",
    "prune": "mlpass.passes.prune",
    "prune_weights": "mlpass.passes.drop_in",
}

__all__ = [
    "Block",
    "Channel",
    "Config",
    "Kernel",
    "NM",
    "Percentile",
    "Sized",
    "Threshold",
    "inspect",
    "prune",
    "prune_weights",
    "LayerRecord",
    "Report",
    "CalibrationError",
    "ConfigError",
    "MlpassError",
    "ModelFormatError",
    "OutputExistsError",
    "UnsupportedOpError",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
