"""Sample data in the forms that users have them: as samples, {input name: array} each.

For a model that keeps a state, a sample may be a sequence of such: steps that share the state, in
their order, as those of a conversation do.
"""

from __future__ import annotations

import lzma
import os
import re
import struct
import tokenize
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

from mlpass.errors import CalibrationError, ConfigError, brief
from mlpass.files import check_regular, naming
from mlpass.runtime.calls import Call, called, function_in, function_of, is_pair

Inputs = Mapping[str, object]  # what one prediction takes
Sample = Inputs | Sequence[Inputs]  # of one prediction, or of several on one state
# What sample data may be given as; `load_samples` has the forms.
SampleData: TypeAlias = "str | os.PathLike[str] | Iterable[Sample] | Mapping[str, SampleData]"


def listed(sample: Sample) -> Sequence[Inputs]:
    """Returns the steps that a sample is a list of; itself alone where it is not a list."""
    return sample if isinstance(sample, Sequence) else (sample,)


_NPY = b"\x93NUMPY"  # how a stored array begins
_MOST_OF_NOTHING = 1 << 24  # the longest axis of an array that takes no bytes
# What reading a member comes to that is broken, locked, oddly compressed, or absurdly large.
_BROKEN = (
    ValueError,
    OSError,
    EOFError,
    RuntimeError,
    LookupError,
    TypeError,
    ArithmeticError,
    AttributeError,
    SyntaxError,
    MemoryError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    tokenize.TokenError,
)


def load_samples(source: object, *, functions: bool = False) -> Sequence[Sample]:
    """Returns sample data as a sequence, which may be gone through several times.

    Args:
        source: an iterable of {input name: array}, or of sequences of such; or the path of an
            `.npz` whose arrays have a leading sample axis; or of a folder of `.npz` files, one a
            sample, and of sub-folders of `.npz` files, each a sequence, one a step, in the order
            of their names, where numbers count as such. For a model that keeps a state, a sample
            whose arrays have one axis more is a sequence, too: see `mlpass.runtime.steps`.
        functions: whether samples may name the function that they are for: {function: samples},
            the samples in any of these forms; or each sample or step a pair of the function and
            its inputs; or a file or folder called `function=NAME`, whatever is before that.

    Raises:
        CalibrationError: it is not one of these, or holds no samples, or a sequence no steps.
        OSError: a file cannot be read.
    """
    samples = _loaded(source)
    if not len(samples):
        way = "give at least one"
        if isinstance(samples, _Folder):
            way = f"{source} has neither .npz files nor folders of them"
        raise CalibrationError(f"sample_data: holds no samples; {way}")
    if not functions and (named := [one for one in functions_in(samples) if one is not None]):
        raise CalibrationError(
            f"sample_data: names functions ({', '.join(named)}), and samples for several are for "
            "prune, tune, compare, check, sweep, choose, sensitivity and finetune; give those of "
            "one, without its name"
        )
    return samples


def functions_in(samples: Sequence[Sample]) -> tuple[str | None, ...]:
    """Returns the functions that samples name, in their order; None for those that name none."""
    if isinstance(samples, _Sequence):
        return samples.functions
    return tuple(dict.fromkeys(function_of(step) for one in samples for step in listed(one)))


def check_functions(functions: Sequence[str | None]) -> None:
    """Raises CalibrationError where some samples name a function and others do not."""
    if len(functions) > 1 and None in functions:
        raise CalibrationError(
            "sample_data: some samples name the function that they are for and others do not; "
            "name it for all"
        )


def check_unnamed(functions: Sequence[str | None], function_name: str | None) -> None:
    """Raises ConfigError where a function is named, and samples name theirs."""
    if function_name is not None and tuple(functions) != (None,):
        raise ConfigError("function_name: the samples name their functions themselves; drop it")


def _loaded(source: object) -> Sequence[Sample]:
    if isinstance(source, str | os.PathLike):
        if not os.fspath(source):  # else it would be the current directory
            raise CalibrationError("sample_data: the path is empty")
        path = Path(source)
        return _Folder(path) if path.is_dir() else _Stacked(path)
    if isinstance(source, Mapping) and not any(hasattr(each, "shape") for each in source.values()):
        return _ByFunction({str(name): _loaded(each) for name, each in source.items()})
    if isinstance(source, Iterable) and not isinstance(source, Mapping):
        samples = source if isinstance(source, Sequence) else list(source)
        if isinstance(samples, _Sequence):
            return samples
        if any(map(_has_pairs, samples)):
            samples = [_with_calls(sample) for sample in samples]
        for sample in samples:
            _check(sample)
        return samples
    raise CalibrationError(
        "sample_data: must be an iterable of {input name: array}, or of sequences of such, an "
        ".npz with a leading sample axis, or a folder of .npz files. "
        f"Got {type(source).__name__}."
    )


def _has_pairs(sample: object) -> bool:
    """Returns whether a sample, or a step of it, is a pair of a function and its inputs."""
    return is_pair(sample) or (isinstance(sample, Sequence) and any(map(is_pair, sample)))


def _with_calls(sample: Sample) -> Sample:
    if is_pair(sample):
        return Call(*sample)
    if not isinstance(sample, Sequence):
        return sample
    return [Call(*step) if is_pair(step) else step for step in sample]


def _check(sample: Any) -> None:
    """Raises CalibrationError where a sample is not one."""
    steps = listed(sample)
    what = "a step of a sequence" if steps is sample else "a sample"
    named = steps is sample and any(isinstance(step, str) for step in steps)
    pairs = " A pair is the name of a function, then its inputs." if named else ""
    for step in steps:
        if not isinstance(step, Mapping):
            raise CalibrationError(
                f"sample_data: {what} must map input names to arrays. Got {type(step).__name__}."
                f"{pairs}"
            )
    if not steps:
        raise CalibrationError("sample_data: a sequence must have a step or more. Got none.")


def read_arrays(path: Path) -> dict[str, NDArray[np.generic]]:
    """Returns the arrays of an `.npz` by name.

    Raises:
        CalibrationError: it is not an `.npz`, is broken, or holds something else.
        OSError: it cannot be read.
    """
    check_regular(path, CalibrationError)
    with naming(path), path.open("rb") as file:
        if file.read(len(_NPY)) == _NPY:
            raise CalibrationError(f"{path}: is a single array, not an .npz of named ones")
        try:
            with zipfile.ZipFile(file) as archive:
                members = [(i.filename.removesuffix(".npy"), i) for i in archive.infolist()]
                for name, times in Counter(name for name, _ in members).items():
                    if times > 1:
                        raise CalibrationError(
                            f"{path}: holds {times} arrays of the name {brief(name)}; write it "
                            "again with one"
                        )
                return {name: _member(path, archive, info) for name, info in members}
        except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError) as error:
            if isinstance(error, CalibrationError):
                raise
            raise CalibrationError(
                f"{path}: is not an .npz of arrays, which is a zip file, or a broken one: {error}"
            ) from None


def _member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> NDArray[np.generic]:
    """Returns one array of an `.npz`."""
    name = info.filename
    try:
        with archive.open(info) as member:
            if member.read(len(_NPY)) != _NPY:
                raise CalibrationError(
                    f"{path}: is not an .npz of arrays: {name!r} in it is not an array"
                )
        with archive.open(info) as member, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of headers that Python 2 wrote
            array = np.lib.format.read_array(member, allow_pickle=False)  # type: ignore[no-untyped-call]
    except CalibrationError:
        raise
    except _BROKEN as error:
        # numpy speaks of its own options: here, and in further lines on a header that is too long.
        objects = "Object arrays" in str(error)
        text = str(error).partition("\n")[0] or type(error).__name__
        why = "holds Python objects, not numbers" if objects else f"cannot be read: {text}"
        raise CalibrationError(f"{path}: is not an .npz of arrays: {name!r} in it {why}") from None
    if array.nbytes == 0 and max(array.shape, default=0) > _MOST_OF_NOTHING:
        raise CalibrationError(
            f"{path}: is not an .npz of samples: {name!r} in it has the shape {array.shape}"
        )
    return np.asarray(array)


class _Sequence(Sequence[Sample]):
    functions: tuple[str | None, ...] = (None,)

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
            raise CalibrationError(
                f"{path}: its arrays differ in their leading axis, which counts samples: {texts}; "
                "add it with x[None] where this is one sample"
            )
        self._length = next(iter(lengths.values()), 0) or 0

    def __len__(self) -> int:
        return self._length

    def _sample(self, number: int) -> Sample:
        return {name: array[number] for name, array in self._arrays.items()}


class _ByFunction(_Sequence):
    """Samples of several functions, one function after another."""

    def __init__(self, samples: Mapping[str, Sequence[Sample]]) -> None:
        for name, some in samples.items():
            if not len(some):
                raise CalibrationError(
                    f"sample_data: holds no samples of the function {brief(name)}; give some, or "
                    "leave it out"
                )
        self._samples = samples
        self._places = [(name, n) for name, some in samples.items() for n in range(len(some))]
        named = [(each or name) for name, some in samples.items() for each in functions_in(some)]
        self.functions = tuple(dict.fromkeys(named))

    def __len__(self) -> int:
        return len(self._places)

    def _sample(self, number: int) -> Sample:
        function, place = self._places[number]
        return _for(function, self._samples[function][place])


class _Folder(_Sequence):
    """A folder of `.npz` files and of sub-folders of such, read when asked for."""

    def __init__(self, path: Path) -> None:
        within = _in_order(each for each in path.iterdir() if not each.name.startswith("."))
        folders = [each for each in within if each.is_dir()]
        named = {each: function for each in folders if (function := function_in(each))}
        self._others = _ByFunction({name: _Folder(each) for each, name in named.items()})
        self._places = [
            each
            for each in within
            if each not in named
            if (_is_sequence(each) if each.is_dir() else each.suffix == ".npz")
        ]
        files = [file for each in self._places for file in _files(each)]
        own = (function_in(file) for file in files)
        self.functions = tuple(dict.fromkeys([*own, *self._others.functions]))

    def __len__(self) -> int:
        return len(self._places) + len(self._others)

    def _sample(self, number: int) -> Sample:
        if number >= len(self._places):
            return self._others[number - len(self._places)]
        place = self._places[number]
        steps = [called(read_arrays(file), function_in(file)) for file in _files(place)]
        return steps if place.is_dir() else steps[0]


def _for(function: str, sample: Sample) -> Sample:
    """Returns a sample whose steps are for a function, but for those that name another."""
    steps = [called(step, function) for step in listed(sample)]
    return steps if isinstance(sample, Sequence) else steps[0]


def _files(place: Path) -> list[Path]:
    """Returns the file of a sample, or those of the steps of a sequence."""
    return _in_order(place.glob("*.npz")) if place.is_dir() else [place]


def _is_sequence(path: Path) -> bool:
    """Returns whether a sub-folder is a sample, as all must be."""
    if not any(path.glob("*.npz")):
        raise CalibrationError(
            f"{path}: a folder among samples is a sequence, one .npz a step, and this one holds "
            "none: move it elsewhere"
        )
    for each in path.iterdir():
        if each.is_dir() and not each.name.startswith("."):
            raise CalibrationError(
                f"{each}: is a folder in a sequence, which is one .npz a step, so that what it "
                "holds would not be read: move it elsewhere"
            )
    return True


def _in_order(paths: Iterable[Path]) -> list[Path]:
    """Returns paths in the order of their names, 2 before 10."""

    def key(path: Path) -> tuple[list[tuple[int, str]], str]:
        pieces = re.findall(r"[0-9]+|[^0-9]+", path.name)
        return [(int(one), "") if one.isdecimal() else (-1, one) for one in pieces], path.name

    return sorted(paths, key=key)


def write_npz(file: IO[bytes], arrays: Mapping[str, object]) -> None:
    """Writes an `.npz`; unlike `numpy.savez`, it is done with the file whatever goes wrong.

    Raises:
        OSError: the disk is full.
    """
    with zipfile.ZipFile(file, "w") as archive:
        for name, value in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                write = np.lib.format.write_array
                write(member, np.asanyarray(value), allow_pickle=False)  # type: ignore[no-untyped-call]
