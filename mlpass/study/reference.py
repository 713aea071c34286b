"""The outputs of the model as it was: worked out once, kept in files, read by every trial."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from mlpass.examine.compare import Made, Outputs, predict_each
from mlpass.examine.predict import write_arrays
from mlpass.report.plain import to_json
from mlpass.runtime.interpreter import Interpreter
from mlpass.runtime.samples import Sample, read_arrays

_NAMES, _OUTPUT, _LABELS = "names", "output:", "labels:"


def reproducible_outputs(interpreter: Interpreter, samples: Iterable[Sample]) -> Iterator[Made]:
    """Yields what each prediction gives, the same bits in every process, whatever its cores.

    Raises:
        InputError: a sample does not fit the model; the text names it.
        ExecutionError: an op failed; likewise.
    """
    assert interpreter.backend is not None  # studies refuse Core ML itself
    for number, sample in enumerate(samples):
        with interpreter.backend.held():
            made = list(predict_each(interpreter, sample, number))
        yield from made


def write_reference(interpreter: Interpreter, samples: Sequence[Sample], folder: Path) -> None:
    """Writes the outputs for each sample, and each step of one, to a file of its own in `folder`.

    Raises:
        InputError: a sample does not fit the model.
        ExecutionError: an op failed.
        OSError: the disk is full.
    """
    bar = tqdm(samples, desc="the model as it is", unit="sample", disable=None)
    for number, made in enumerate(reproducible_outputs(interpreter, bar)):
        with (folder / f"{number}.npz").open("xb") as file:
            write_arrays(file, dict(_stored(made.outputs)))


def read_reference(folder: Path, number: int) -> Outputs:
    """Returns the outputs of one prediction as `Interpreter.predict` gave them.

    Raises:
        OSError: the file cannot be read; where others removed it, that names it.
    """
    stored = read_arrays(folder / f"{number}.npz")
    names = json.loads(stored[_NAMES].tobytes())
    return {name: _output(place, stored) for place, name in enumerate(names)}


def _stored(outputs: Outputs) -> Iterator[tuple[str, NDArray[np.generic]]]:
    """Yields the arrays that outputs are kept as: by number, since a name can be anything."""
    yield _NAMES, _as_bytes(list(outputs))
    for place, value in enumerate(outputs.values()):
        if isinstance(value, Mapping):
            yield f"{_LABELS}{place}", _as_bytes(list(value))
            value = list(value.values())
        yield f"{_OUTPUT}{place}", np.asarray(value)


def _as_bytes(content: list[object]) -> NDArray[np.uint8]:
    """Returns texts or ints as an array; numpy's own of texts drops what ends them, such as NUL."""
    return np.frombuffer(to_json(content).encode(), np.uint8)


def _output(place: int, stored: Mapping[str, NDArray[np.generic]]) -> Any:
    """Returns an output as it was: an array, a label, or probabilities by label."""
    labels, array = stored.get(f"{_LABELS}{place}"), stored[f"{_OUTPUT}{place}"]
    if labels is not None:
        return dict(zip(json.loads(labels.tobytes()), array, strict=True))
    return array.item() if array.ndim == 0 else array
