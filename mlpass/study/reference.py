"""The outputs of the model as it was: worked out once, kept in files, read by every trial."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from mlpass.blas import one_blas_thread
from mlpass.examine.compare import predict_once
from mlpass.examine.predict import as_arrays
from mlpass.runtime.interpreter import Interpreter
from mlpass.runtime.samples import Sample, read_arrays

Outputs = Mapping[str, Any]


def write_reference(interpreter: Interpreter, samples: Sequence[Sample], folder: Path) -> None:
    """Writes the outputs for each sample to a file of its own in `folder`.

    Raises:
        InputError: a sample does not fit the model.
        ExecutionError: an op failed.
        OSError: the disk is full.
    """
    bar = tqdm(samples, desc="the model as it is", unit="sample", disable=None)
    for number, sample in enumerate(bar):
        with one_blas_thread():
            arrays = as_arrays(predict_once(interpreter, sample))
        # numpy has parameters of its own beside the arrays' names: with a colon none is the same.
        named = {f"output:{name}": array for name, array in arrays.items()}
        np.savez(folder / f"{number}.npz", **named)  # type: ignore[arg-type]


def read_reference(folder: Path) -> Iterator[Outputs]:
    """Yields the outputs for each sample, in order, as `Interpreter.predict` gave them.

    Raises:
        OSError: a file cannot be read.
    """
    for number in range(len(list(folder.glob("*.npz")))):
        stored = read_arrays(folder / f"{number}.npz")
        arrays = {name.removeprefix("output:"): array for name, array in stored.items()}
        yield {name: _output(name, arrays) for name in arrays if not _labels_of(name, arrays)}


def _labels_of(name: str, arrays: Mapping[str, NDArray[Any]]) -> bool:
    """Returns whether an array holds the labels of another."""
    return name.endswith(".labels") and name.removesuffix(".labels") in arrays


def _output(name: str, arrays: Mapping[str, NDArray[Any]]) -> Any:
    """Returns an output as it was: an array, a label, or probabilities by label."""
    labels, array = arrays.get(f"{name}.labels"), arrays[name]
    if labels is not None:
        return dict(zip(labels.tolist(), array, strict=True))
    return array.item() if array.ndim == 0 else array
