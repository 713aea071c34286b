"""A prediction from file to file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mlpass.files import check_file, whole_file
from mlpass.program.mlmodel import check_outside
from mlpass.runtime.interpreter import Interpreter
from mlpass.runtime.samples import read_arrays


def predict_to_file(
    model: Any, inputs: Path, output: Path, *, backend: str = "numpy", force: bool = False
) -> dict[str, tuple[int, ...]]:
    """Writes a model's outputs and returns the shapes of the arrays that were written, by name.

    Args:
        model: a path, an `MLModel` or a pymil `Program`.
        inputs: an `.npz` with one array an input.
        output: the `.npz` to write; it appears whole or not at all.
        backend: of the Interpreter.
        force: whether to replace an `output` that exists.

    Raises:
        OutputExistsError: `output` exists and `force` is False.
        CalibrationError: `inputs` is no `.npz` of arrays.
        InputError: they do not fit the model.
        ModelFormatError: the model cannot be read; or `output` is within it.
        UnsupportedOpError: it has ops that cannot be run.
    """
    check_file(output, force=force)
    check_outside(output, model, "the model to run")
    interpreter = Interpreter(model, backend=backend)
    state = interpreter.make_state() if interpreter.states else None
    arrays = as_arrays(interpreter.predict(read_arrays(inputs), state))
    with whole_file(output, force=force) as building, building.open("xb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    return {name: array.shape for name, array in arrays.items()}


def as_arrays(outputs: Mapping[str, Any]) -> dict[str, np.ndarray[Any, Any]]:
    """Returns outputs as arrays: a mapping as that of its values, and one of its keys."""
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for name, value in outputs.items():
        if isinstance(value, Mapping):
            arrays[name] = np.array(list(value.values()))
            arrays[f"{name}.labels"] = np.array(list(value))
        else:
            arrays[name] = np.asarray(value)
    return arrays
