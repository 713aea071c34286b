"""Core ML itself, through coremltools: only on macOS."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from typing import Any

from mlpass.errors import BackendError, ConfigError
from mlpass.program.mlmodel import submodel

COMPUTE_UNITS = ("CPU_ONLY", "CPU_AND_GPU", "CPU_AND_NE")


def load_on(path: str, compute_unit: str, function_name: str | None = None) -> object:
    """Returns the model at `path` as Core ML runs it on some of the processors: an `MLModel`.

    Raises:
        BackendError: Core ML cannot load it.
    """
    from coremltools import ComputeUnit
    from coremltools.models import MLModel

    try:
        units = ComputeUnit[compute_unit]
        return MLModel(path, compute_units=units, function_name=function_name)
    except Exception as error:
        raise BackendError(f"Core ML cannot load {path} on {compute_unit}: {error}") from error


class CoreMLModel:
    """A model as Core ML runs it."""

    def __init__(self, model: object, device: str | None, function_name: str | None) -> None:
        """Loads `model`, the path of a package or an `MLModel`.

        Raises:
            BackendError: this is not macOS, or coremltools found no Core ML.
            ConfigError: a device is given, which Core ML chooses for itself.
        """
        if platform.system() != "Darwin":
            raise BackendError(
                "backend 'coreml' only runs on macOS: use backend='numpy' or 'torch' here"
            )
        if device is not None:
            raise ConfigError(
                f"device: is for the torch backend; Core ML chooses its own. Got {device!r}."
            )
        from coremltools.models import MLModel

        if not hasattr(model, "predict"):
            try:
                model = MLModel(str(model), function_name=function_name)
            except Exception as error:
                raise BackendError(f"Core ML cannot load {model}: {error}") from error
        self._model: Any = model

    def predict(self, inputs: object, state: object = None) -> Any:
        """Returns what `MLModel.predict` gives."""
        return self._model.predict(inputs, state=state)

    def make_state(self) -> Any:
        """Returns what `MLModel.make_state` gives."""
        return self._model.make_state()

    def run(self, inputs: Mapping[str, object], outputs: Sequence[str]) -> Any:
        """Returns values within the program, from a submodel that ends at them."""
        made = submodel(self._model, outputs).predict(dict(inputs))
        return {name: made[name] for name in outputs}
