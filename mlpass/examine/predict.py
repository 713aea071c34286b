"""A prediction from file to file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from mlpass.errors import ConfigError, ExecutionError, brief
from mlpass.examine.compare import predict_each
from mlpass.files import check_file, whole_file
from mlpass.literals import Runner
from mlpass.program.mlmodel import ModelLike, check_outside
from mlpass.runtime.doubts import warn_of
from mlpass.runtime.interpreter import Interpreter
from mlpass.runtime.samples import read_arrays, write_npz
from mlpass.runtime.steps import steps_of

_MODELS = (".pte", ".mlpackage", ".mlmodel")  # what must not be overwritten by a slip
_LONGEST_NAME = 65_000  # bytes, in a zip file


def predict_to_file(
    model: ModelLike,
    inputs: Path,
    output: Path,
    *,
    backend: Runner = "numpy",
    function_name: str | None = None,
    force: bool = False,
) -> dict[str, tuple[int, ...]]:
    """Writes a model's outputs and returns the shapes of the arrays that were written, by name.

    Args:
        model: a path, an `MLModel` or a pymil `Program`.
        inputs: an `.npz` with one array an input; or, for a model that keeps a state, with one
            axis more, the first, which counts steps: the outputs then have it, too.
        output: the `.npz` to write; it appears whole or not at all.
        backend: of the Interpreter.
        function_name: of a model with several, the one to run; None for the default.
        force: whether to replace an `output` that exists.

    Raises:
        ConfigError: `output` is named as a model is, or there is no such function.
        OutputExistsError: `output` exists and `force` is False.
        CalibrationError: `inputs` is not an `.npz` of arrays.
        InputError: they do not fit the model.
        ModelFormatError: the model cannot be read; or `output` is within it.
        UnsupportedOpError: it has ops that cannot be run.
    """
    check_file(output, force=force)
    check_outside(output, model, "the model to run")
    if output.suffix in _MODELS:
        raise ConfigError(f"{output}: is named as a model, and an .npz is written; name another")
    interpreter = Interpreter(model, backend=backend, function_name=function_name)
    state = interpreter.make_state() if interpreter.states else None
    sample = read_arrays(inputs)
    steps = steps_of(sample, interpreter)
    if steps[0] is sample:
        arrays = as_arrays(interpreter.predict(sample, state))
    else:
        made = predict_each(interpreter, steps, 0)
        arrays = _stacked([as_arrays(each.outputs) for each in made])
    warn_of(interpreter, [sample], alone=True)
    with whole_file(output, force=force) as building, building.open("wb") as file:
        write_arrays(file, arrays)
    return {name: array.shape for name, array in arrays.items()}


def _stacked(made: Sequence[Mapping[str, NDArray[np.generic]]]) -> dict[str, NDArray[np.generic]]:
    """Returns what steps have made with a leading axis for them."""
    stacked = {}
    for name in made[0]:
        arrays = [one[name] for one in made]
        if len(shapes := {array.shape: None for array in arrays}) > 1:
            listed = ", ".join(map(str, shapes))
            raise ExecutionError(
                f"output {name!r}: differs in its shape from step to step ({listed}), so it is not "
                "one array; the Interpreter gives each step's in Python"
            )
        stacked[name] = np.stack(arrays)
    return stacked


def write_arrays(file: IO[bytes], arrays: Mapping[str, NDArray[np.generic]]) -> None:
    """Writes an `.npz`; unlike those of `numpy.savez`, an array may be called "file".

    Raises:
        ExecutionError: an `.npz` cannot hold an array of that name.
        OSError: the disk is full.
    """
    for name in arrays:
        if "\0" in name or len(name.encode()) > _LONGEST_NAME:
            raise ExecutionError(
                f"output {brief(name)}: an .npz takes no array of that name, with NUL or of "
                f"more than {_LONGEST_NAME} bytes; the Interpreter gives it in Python"
            )
    write_npz(file, arrays)


def as_arrays(outputs: Mapping[str, object]) -> dict[str, NDArray[np.generic]]:
    """Returns outputs as arrays; probabilities by label as two, NAME and NAME.labels.

    Where an output has that very name, underscores follow until it is free.

    Raises:
        ExecutionError: an output is not an array.
    """
    arrays: dict[str, NDArray[np.generic]] = {}
    for name, value in outputs.items():
        if isinstance(value, Mapping):
            labels = f"{name}.labels"
            while labels in outputs:
                labels += "_"
            arrays[name], arrays[labels] = np.array(list(value.values())), np.array(list(value))
        else:
            arrays[name] = _array(name, value)
    return arrays


def _array(name: str, value: object) -> NDArray[np.generic]:
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ExecutionError(f"output {name!r}: is not an array: {error}") from None
    if array.dtype.hasobject:
        raise ExecutionError(f"output {name!r}: is not an array. Got {type(value).__name__}.")
    return array
