"""An `.mlpackage`: opened as graphs, and written anew with some ops replaced.

Nothing is converted. The model message is edited where an op is replaced; weight files are written
anew, blob by blob; every other file is copied. The new package is made beside its target and
renamed, so that the target is whole at every moment.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, cast

from google.protobuf.message import DecodeError

from mlpass.errors import ModelFormatError, OutputExistsError
from mlpass.program import encode, ir
from mlpass.program.atomic import discard, make_building, replace_directory
from mlpass.program.blobs import BlobFile, BlobWriter
from mlpass.program.milproto import MilProto
from mlpass.program.opset import raise_to_sparse
from mlpass.program.proto import Model

_MODEL_PATH = "@model_path/"
_PIPELINES: dict[str, Callable[[Any], Any]] = {
    "pipeline": lambda model: model.pipeline,
    "pipelineClassifier": lambda model: model.pipelineClassifier.pipeline,
    "pipelineRegressor": lambda model: model.pipelineRegressor.pipeline,
}


class Package:
    """An `.mlpackage`, open for reading.

    Attributes:
        path: of the package.
        spec: its model message.
        programs: its ML Program; or those of a pipeline, in order.
        parts: the model message and decoded program of each.
    """

    def __init__(self, path: str | os.PathLike[str], spec: Any = None) -> None:
        """Opens and checks the package at `path`.

        Args:
            path: of the package.
            spec: a model message to take in the place of the one that is stored there.

        Raises:
            ModelFormatError: it is no package with an ML Program, or a broken one.
            OSError: it cannot be read.
        """
        self.path = Path(path)
        self._closing = ExitStack()
        self._files: dict[str, BlobFile] = {}
        try:
            self.model_path = _find_model(self.path)
            self.spec = _parse(self.model_path) if spec is None else spec
            self.edited = spec is not None
            self.parts = [
                (model, MilProto(model.mlProgram, name, self.open_blobs))
                for name, model in _ml_programs(self.spec, "", self.path)
            ]
        except BaseException:
            self.close()
            raise
        self.programs = [part.program for _, part in self.parts]

    def __enter__(self) -> Package:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes its weight files."""
        self._closing.close()

    @property
    def files(self) -> list[Path]:
        """All its files."""
        return _files_of(self.path)

    @property
    def nbytes(self) -> int:
        """The sizes of all its files together."""
        return package_nbytes(self.path)

    @contextmanager
    def rewrite(self, target: str | os.PathLike[str], *, force: bool = False) -> Iterator[Rewriter]:
        """Writes a copy to `target`, with the ops replaced that the caller replaces meanwhile.

        A package can be rewritten once: its message is edited.

        Args:
            target: a new `.mlpackage`.
            force: whether to replace one that is there.

        Raises:
            OutputExistsError: it is there and `force` is False.
            ModelFormatError: its name does not end in `.mlpackage`; or it is in this package, or
                this package in it.
            OSError: it cannot be written.
        """
        target = self.check_target(target, force=force)
        building = make_building(target)
        try:
            with Rewriter(self, building) as rewriter:
                yield rewriter
            replace_directory(building, target)
        except OSError as error:
            names = [name for name in (error.filename, error.filename2) if name is not None]
            if not names or Path(os.fsdecode(names[-1])).is_relative_to(building):
                error.filename, error.filename2 = str(target), None  # the name the caller knows
            raise
        finally:
            discard(building)

    def check_target(self, target: str | os.PathLike[str], *, force: bool = False) -> Path:
        """Returns the absolute path of a target that `rewrite` would write; raises as it does."""
        target = Path(os.path.abspath(target))
        if target.suffix != ".mlpackage":
            raise ModelFormatError(f"{target}: a package's name must end in .mlpackage")
        if os.path.lexists(target) and not force:
            raise OutputExistsError(f"{target} exists: name another target, or force it")
        _check_apart(target, self.path)
        return target

    def open_blobs(self, file_name: str) -> BlobFile:
        """Returns the weight file of that name in the program."""
        if file_name not in self._files:
            path = self.blob_path(file_name)
            if not path.is_file():
                raise ModelFormatError(f"its weight file {file_name!r} is missing, or no file")
            if path == self.model_path:
                raise ModelFormatError(f"its weight file {file_name!r} is the model itself")
            blobs = BlobFile(path)
            self._closing.callback(blobs.close)
            self._files[file_name] = blobs
        return self._files[file_name]

    def blob_path(self, file_name: str) -> Path:
        """Returns where the weight file of that name in the program is."""
        if not file_name.startswith(_MODEL_PATH):
            raise ModelFormatError(f"weight file name {file_name!r} is not below {_MODEL_PATH!r}")
        return _inside(self.model_path.parent, file_name.removeprefix(_MODEL_PATH), self.path)


def pipeline_of(model: Any) -> Any:
    """Returns the pipeline that a model message holds, None where it is no pipeline."""
    unwrap = _PIPELINES.get(model.WhichOneof("Type"))
    return unwrap(model) if unwrap else None


def package_nbytes(path: Path) -> int:
    """Returns the sizes of all files of a package together."""
    return sum(file.stat().st_size for file in _files_of(path))


class Rewriter:
    """A package being written: see `Package.rewrite`."""

    def __init__(self, package: Package, root: Path) -> None:
        """Begins to write `package` to the empty directory `root`."""
        self._package = package
        self._root = root
        self._closing = ExitStack()
        self._writers: dict[str, BlobWriter] = {}
        self._places: dict[Hashable, int] = {}
        self._changed = package.edited
        self._sparse: dict[MilProto, Any] = {}

    def __enter__(self) -> Rewriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._closing:
            if kind is None:
                self._finish()

    def replace(self, op: ir.Op, new_ops: Sequence[ir.Op]) -> None:
        """Puts `new_ops` in the place of `op`; the last makes values of the same names.

        Their constants are written at once, and each only once however many ops share it.
        """
        for model, part in self._package.parts:
            if part.owns(op):
                part.replace(op, new_ops, self._store)
                self._changed = True
                if any(new.type != "const" for new in new_ops):
                    self._sparse[part] = model

    def _store(self, constant: ir.Constant) -> tuple[str, int]:
        assert constant.storage is not None
        file_name = constant.storage[0]
        if constant.storage not in self._places:
            offset = self._writer(file_name).write(constant.load(), constant.dtype, constant.size)
            self._places[constant.storage] = offset
        return file_name, self._places[constant.storage]

    def _writer(self, file_name: str) -> BlobWriter:
        if file_name not in self._writers:
            path = self._target(self._package.blob_path(file_name))
            path.parent.mkdir(parents=True, exist_ok=True)
            self._writers[file_name] = writer = BlobWriter(path)
            self._closing.callback(writer.close)
        return self._writers[file_name]

    def _finish(self) -> None:
        for _, part in self._package.parts:
            for op, made in part.other_halves():
                self.replace(op, [encode.dense(op, ir.Constant.of(made.read(), made))])
            self._move_blobs(part)
        written = {self._target(self._package.blob_path(name)) for name in self._writers}
        if self._changed:
            for part, model in self._sparse.items():
                raise_to_sparse(model, part.message)
            _raise_pipelines(self._package.spec)
            model_target = self._target(self._package.model_path)
            model_target.parent.mkdir(parents=True, exist_ok=True)
            model_target.write_bytes(self._package.spec.SerializeToString(deterministic=True))
            written.add(model_target)
        for source in _files_of(self._package.path):
            target = self._target(source)
            if target not in written:
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)

    def _move_blobs(self, part: MilProto) -> None:
        """Copies what is still used of the weight files that are written anew."""
        for constant, message in part.blobs.items():
            file_name, old_offset = constant.storage  # type: ignore[misc]
            if file_name not in self._writers:
                continue
            if constant.storage not in self._places:
                self._places[constant.storage] = self._writers[file_name].copy(
                    self._package.open_blobs(file_name),
                    cast(int, old_offset),
                    constant.dtype,
                    constant.size,
                )
            message.blobFileValue.offset = self._places[constant.storage]

    def _target(self, source: Path) -> Path:
        return self._root / source.relative_to(self._package.path)


def _find_model(package: Path) -> Path:
    """Returns the path of a package's model message, as its manifest names it."""
    if package.suffix == ".mlmodelc":
        raise ModelFormatError(f"{package}: is compiled; give the .mlpackage it was compiled from")
    if not package.is_dir():
        what = "is a single file" if package.exists() else "is not there"
        raise ModelFormatError(
            f"{package}: {what}; mlpass reads ML Programs, which are .mlpackage directories "
            "(convert with coremltools' convert_to='mlprogram')"
        )
    manifest = package / "Manifest.json"
    if not manifest.is_file():
        raise ModelFormatError(f"{package}: has no Manifest.json: not a package, or half a copy")
    try:
        content = json.loads(manifest.read_bytes())
        relative = content["itemInfoEntries"][content["rootModelIdentifier"]]["path"]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise ModelFormatError(f"{manifest}: names no root model ({error!r})") from None
    if not isinstance(relative, str):
        raise ModelFormatError(f"{manifest}: the root model's path is no text: {relative!r}")
    path = _inside(package / "Data", relative, package)
    if not path.is_file():
        raise ModelFormatError(f"{manifest}: the root model {relative!r} is missing")
    return path


def _parse(path: Path) -> Any:
    spec = Model()
    try:
        spec.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise ModelFormatError(f"{path}: is no Core ML model message: {error}") from None
    return spec


def _ml_programs(model: Any, name: str, path: Path) -> Iterator[tuple[str, Any]]:
    """Yields (part name, model message) of every ML Program in a model."""
    kind = model.WhichOneof("Type")
    pipeline = pipeline_of(model)
    if pipeline is not None:
        found = False
        for index, part in enumerate(pipeline.models):
            label = pipeline.names[index] if index < len(pipeline.names) else str(index)
            if part.WhichOneof("Type") == "mlProgram" or pipeline_of(part) is not None:
                found = True
                yield from _ml_programs(part, f"{name}/{label}" if name else label, path)
        if not found:
            raise ModelFormatError(f"{path}: no part of its pipeline is an ML Program")
    elif kind == "mlProgram":
        yield name, model
    else:
        raise ModelFormatError(
            f"{path}: holds a {kind or 'model of unknown kind'}; mlpass reads ML Programs alone "
            "(convert with coremltools' convert_to='mlprogram')"
        )


def _raise_pipelines(model: Any) -> None:
    """Lifts a pipeline's specification version to that of its newest part."""
    pipeline = pipeline_of(model)
    for part in pipeline.models if pipeline is not None else ():
        _raise_pipelines(part)
        model.specificationVersion = max(model.specificationVersion, part.specificationVersion)


def _inside(base: Path, relative: str, package: Path) -> Path:
    """Returns `base / relative` where that is a plain path within the package.

    Raises:
        ModelFormatError: it climbs out, by "..", by being absolute, or through a link.
    """
    parts = relative.split("/")
    plain = not any(part in ("", ".", "..") or "\0" in part for part in parts)
    if not plain or any("\ud800" <= letter <= "\udfff" for letter in relative):
        raise ModelFormatError(f"{package}: {relative!r} is no plain path within the package")
    path = base.joinpath(*parts)
    if not _is_within(path, package):
        raise ModelFormatError(f"{package}: {relative!r} leads out of the package")
    return path


def _is_within(path: Path, directory: Path) -> bool:
    """Returns whether `path`, links followed, is `directory` or below it."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(directory))


def _check_apart(target: Path, source: Path) -> None:
    """Raises ModelFormatError where writing `target` would change or remove `source`."""
    source = Path(os.path.realpath(source))
    place = Path(os.path.realpath(target.parent), target.name)  # a link there is not followed
    if place != source and place.is_relative_to(source):
        raise ModelFormatError(f"{target}: is within the model to prune; name another target")
    if place != source and source.is_relative_to(place):
        raise ModelFormatError(f"{target}: holds the model to prune; name another target")


def _files_of(package: Path) -> list[Path]:
    """Returns every file of a package.

    Raises:
        ModelFormatError: there is something else in it: a link that leads out, a device.
    """
    files = []
    for directory, directories, names in os.walk(package, onerror=_give_up):
        for name in directories + names:
            path = Path(directory, name)
            if path.is_symlink() and (path.is_dir() or not _is_within(path, package)):
                raise ModelFormatError(f"{path}: is a link that leads out of its place")
            if not path.is_dir() and not path.is_file():
                raise ModelFormatError(f"{path}: is no regular file")
        files += [Path(directory, name) for name in names]
    return sorted(files)


def _give_up(error: OSError) -> NoReturn:
    """For os.walk, which leaves out what it cannot list."""
    raise error
