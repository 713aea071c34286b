"""The outputs of the model as it was: worked out once, kept in files, read by every trial."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from mlpass.blas import one_blas_thread
from mlpass.examine.compare import predict_each
from mlpass.examine.predict import write_arrays
from mlpass.runtime.interpreter import Interpreter
from mlpass.runtime.samples import Sample, read_arrays

Outputs = Mapping[str, Any]

_OUTPUT, _LABELS = "output:", "labels:"


def outputs_of(interpreter: Interpreter, samples: Iterable[Sample]) -> Iterator[Outputs]:
    """Yields the outputs of each prediction, the same bits in every process, whatever its cores.

    Raises:
        InputError: a sample does not fit the model.
        ExecutionError: an op failed.
    """
    for sample in samples:
        with one_blas_thread():
            outputs = list(predict_each(interpreter, sample))
        yield from outputs


def write_reference(interpreter: Interpreter, samples: Sequence[Sample], folder: Path) -> None:
    """Writes the outputs for each sample, and each step of one, to a file of its own in `folder`.

    Raises:
        InputError: a sample does not fit the model.
        ExecutionError: an op failed.
        OSError: the disk is full.
    """
    bar = tqdm(samples, desc="the model as it is", unit="sample", disable=None)
    for number, outputs in enumerate(outputs_of(interpreter, bar)):
        with (folder / f"{number}.npz").open("xb") as file:
            write_arrays(file, dict(_stored(outputs)))


def read_reference(folder: Path) -> Iterator[Outputs]:
    """Yields the outputs of each prediction, in order, as `Interpreter.predict` gave them.

    Raises:
        OSError: a file cannot be read.
    """
    for number in range(len(list(folder.glob("*.npz")))):
        stored = read_arrays(folder / f"{number}.npz")
        names = [key.removeprefix(_OUTPUT) for key in stored if key.startswith(_OUTPUT)]
        yield {name: _output(name, stored) for name in names}


def _stored(outputs: Outputs) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yields the arrays that outputs are kept as; whatever their names, no two are the same."""
    for name, value in outputs.items():
        if isinstance(value, Mapping):
            yield f"{_LABELS}{name}", np.array(list(value))
            value = list(value.values())
        yield f"{_OUTPUT}{name}", np.asarray(value)


def _output(name: str, stored: Mapping[str, NDArray[np.generic]]) -> Any:
    """Returns an output as it was: an array, a label, or probabilities by label."""
    labels, array = stored.get(f"{_LABELS}{name}"), stored[f"{_OUTPUT}{name}"]
    if labels is not None:
        return dict(zip(labels.tolist(), array, strict=True))
    return array.item() if array.ndim == 0 else array
