"""Sample data in the forms that users have them: as a sequence of {input name: array}."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

from mlpass.errors import CalibrationError

Sample = Mapping[str, Any]
# What sample data may be given as; `load_samples` has the forms.
SampleData: TypeAlias = "str | os.PathLike[str] | Iterable[Sample]"


def load_samples(source: object) -> Sequence[Sample]:
    """Returns sample data as a sequence, which may be gone through several times.

    Args:
        source: an iterable of {input name: array}; or the path of an `.npz` whose arrays have a
            leading sample axis; or of a folder of `.npz` files, one a sample, in the order of
            their names.

    Raises:
        CalibrationError: it is not one of these, or holds no samples.
        OSError: a file cannot be read.
    """
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        samples: Sequence[Sample] = _Folder(path) if path.is_dir() else _Stacked(path)
    elif isinstance(source, Iterable) and not isinstance(source, Mapping):
        samples = source if isinstance(source, Sequence) else list(source)
    else:
        raise CalibrationError(
            "sample_data: must be an iterable of {input name: array}, an .npz with a leading "
            f"sample axis, or a folder of .npz files. Got {type(source).__name__}."
        )
    if not len(samples):
        raise CalibrationError("sample_data: holds no samples; give at least one")
    for sample in () if isinstance(samples, _Sequence) else samples:
        if not isinstance(sample, Mapping):
            raise CalibrationError(
                "sample_data: a sample must map input names to arrays. "
                f"Got {type(sample).__name__}."
            )
    return samples


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Returns the arrays of an `.npz` by name.

    Raises:
        CalibrationError: it is not an `.npz`, or holds Python objects.
        OSError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            stored = np.load(file, allow_pickle=False)
            if not isinstance(stored, np.lib.npyio.NpzFile):
                raise CalibrationError(f"{path}: is a single array, not an .npz of named ones")
            return {name: stored[name] for name in stored.files}
    except (ValueError, zipfile.BadZipFile, EOFError) as error:
        if isinstance(error, CalibrationError):
            raise
        raise CalibrationError(f"{path}: is not an .npz of arrays: {error}") from None


class _Sequence(Sequence[Sample]):
    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | Sequence[Sample]:
        if isinstance(index, slice):
            return [self._sample(number) for number in range(len(self))[index]]
        return self._sample(range(len(self))[index])

    def _sample(self, number: int) -> Sample:
        raise NotImplementedError


class _Stacked(_Sequence):
    """An `.npz` whose arrays have a leading sample axis."""

    def __init__(self, path: Path) -> None:
        self._arrays = read_arrays(path)
        lengths = {name: len(a) if a.ndim else None for name, a in self._arrays.items()}
        if len(set(lengths.values())) > 1 or None in lengths.values():
            texts = ", ".join(f"{name} {a.shape}" for name, a in self._arrays.items())
            raise CalibrationError(f"{path}: its arrays differ in their leading axis: {texts}")
        self._length = next(iter(lengths.values()), 0) or 0

    def __len__(self) -> int:
        return self._length

    def _sample(self, number: int) -> Sample:
        return {name: array[number] for name, array in self._arrays.items()}


class _Folder(_Sequence):
    """A folder of `.npz` files, one a sample, read when asked for."""

    def __init__(self, path: Path) -> None:
        self._files = sorted(path.glob("*.npz"))

    def __len__(self) -> int:
        return len(self._files)

    def _sample(self, number: int) -> Sample:
        return read_arrays(self._files[number])
