"""An `.mlpackage`: opened as graphs, and written anew with some ops replaced.

Nothing is converted. The model message is edited where an op is replaced; weight files are written
anew, blob by blob; every other file is copied. The new package is made beside its target and
renamed, so that the target is whole at every moment.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn, TypeAlias, cast

from google.protobuf.message import DecodeError

from mlpass.collector import paused_collector
from mlpass.errors import ModelFormatError
from mlpass.files import check_apart, check_free, naming, whole_folder
from mlpass.program import encode, ir
from mlpass.program.blobs import BlobFile, BlobWriter, GrownBlobs
from mlpass.program.manifest import check_items, find_model, inside, is_within
from mlpass.program.milproto import MilProto
from mlpass.program.opsets.raising import raise_functions
from mlpass.program.pipelines import ml_programs, raise_pipelines
from mlpass.program.proto import Model
from mlpass.program.writing import Targets, single

if TYPE_CHECKING:
    from mlpass.program.proto import Message

Ensures: TypeAlias = "Callable[[Package, Path, Path], None]"

_MODEL_PATH = "@model_path/"


class Package:
    """An `.mlpackage`, open for reading.

    Attributes:
        path: of the package.
        name: by which it is known.
        prefix: goes before the names of its programs, states and weight files where it is one of
            several packages.
        function_name: the function that is meant of several, where one was chosen with it.
        spec: its model message.
        edited: whether its message is another than the one that is stored there.
        added: by weight file, the blobs that its message refers to, but that are not there yet.
        owner: what the package must not outlive; kept while this is.
    """

    owner: object = None
    function_name: str | None = None

    def __init__(
        self, path: str | os.PathLike[str], spec: Message | None = None, prefix: str = ""
    ) -> None:
        """Opens and checks the package at `path`.

        Args:
            path: of the package.
            spec: a model message to take in the place of the one that is stored there.
            prefix: see the attributes.

        Raises:
            ModelFormatError: it is not a package with an ML Program, or is broken.
            OSError: it cannot be read.
        """
        self.path, self.name, self.prefix = Path(path), os.fspath(path), prefix
        self._closing = ExitStack()
        self._files: dict[str, BlobFile] = {}
        self.added: Mapping[str, Mapping[int, ir.Constant]] = {}
        self.edited = spec is not None
        try:
            self.model_path = find_model(self.path)
            self.spec = _parse(self.model_path) if spec is None else spec
            self._decode()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Package:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes its weight files."""
        self._closing.close()

    @property
    def parts(self) -> list[tuple[Message, MilProto]]:
        """The model message and decoded program of its ML Program, or of each of a pipeline."""
        return self._parts

    @property
    def programs(self) -> list[ir.Program]:
        """Its ML Program; or those of a pipeline, in order."""
        return [part.program for _, part in self.parts]

    @property
    def chunks(self) -> Sequence[Package]:
        """The packages that it is made of: itself, or several that run one after another."""
        return (self,)

    @property
    def files(self) -> list[Path]:
        """All its files."""
        return _contents(self.path)[1]

    @property
    def nbytes(self) -> int:
        """The sizes of all its files together."""
        return package_nbytes(self.path)

    @property
    def weight_paths(self) -> list[Path]:
        """The weight files that its programs refer to."""
        names = {
            self.place_of(constant)[0]
            for part in (part for _, part in self.parts)
            for constant in part.blobs
            if constant.storage is not None
        }
        return [self.blob_path(name) for name in sorted(names)]

    @contextmanager
    def rewrite(
        self, target: Targets, *, force: bool = False, keep: bool = False
    ) -> Iterator[Rewriter]:
        """Writes a copy to `target`, with the ops replaced that the caller replaces meanwhile.

        A package can be rewritten once: its message is edited.

        Args:
            target: a new `.mlpackage`.
            force: whether to replace one that is there.
            keep: whether one that may not take its place is kept beside it: see `whole_folder`.

        Raises:
            OutputExistsError: it is there, now or at the end, and `force` is False.
            ModelFormatError: its name does not end in `.mlpackage`; or it is in this package, or
                this package in it. Or something that its manifest lists is missing.
            OSError: it cannot be written.
        """
        target = self.check_target(target, force=force or keep)
        with (
            whole_folder(target, force=force, keep=keep) as building,
            self.rewriting(building, target) as rewriter,
        ):
            yield rewriter

    @contextmanager
    def rewriting(self, building: Path, target: Path) -> Iterator[Rewriter]:
        """Writes a copy to an empty folder that is going to be `target`: see `rewrite`."""
        check_items(self.path)
        weights = [path.relative_to(self.path) for path in self.weight_paths]
        with Rewriter(self, building) as rewriter:
            yield rewriter
        if rewriter._holds is not None:
            rewriter._holds(self, building, target)
        rewriter.nbytes = package_nbytes(building)
        rewriter.weights_nbytes = sum((building / path).stat().st_size for path in weights)

    def message_digest(self) -> str:
        """Returns a digest of its message, of which its files do not tell where it was edited."""
        return sha256(self.spec.SerializeToString(deterministic=True)).hexdigest()

    def check_target(self, target: Targets, *, force: bool = False) -> Path:
        """Returns the absolute path of a target that `rewrite` would write; raises as it does."""
        target = Path(single(target)).absolute()
        if target.suffix != ".mlpackage":
            raise ModelFormatError(f"{target}: a package's name must end in .mlpackage")
        check_free(target, force=force)
        check_apart(target, self.path, "the model to prune")
        return target

    def edit(self, added: Mapping[str, Mapping[int, ir.Constant]]) -> None:
        """Decodes its message anew, which was edited: its graphs are others from here on.

        Args:
            added: by weight file, blobs that the message refers to by offsets past its end.
        """
        self.added, self.edited = added, True
        self._decode()

    @paused_collector()
    def _decode(self) -> None:
        self._parts = [
            (model, MilProto(model.mlProgram, name, self.open_blobs, self.prefix))
            for name, model in ml_programs(self.spec, self.prefix.rstrip("/"), self.path)
        ]

    def place_of(self, constant: ir.Constant) -> tuple[str, Hashable]:
        """Returns the weight file of a constant, as its message names it, and where it is there."""
        assert constant.storage is not None
        name, place = constant.storage
        return name.removeprefix(self.prefix), place

    def open_blobs(self, file_name: str) -> BlobFile | GrownBlobs:
        """Returns the weight file of that name in the program."""
        if file_name not in self._files:
            path = self.blob_path(file_name)
            if not path.is_file():
                raise ModelFormatError(f"its weight file {file_name!r} is missing, or not a file")
            if path == self.model_path:
                raise ModelFormatError(f"its weight file {file_name!r} is the model itself")
            blobs = BlobFile(path)
            self._closing.callback(blobs.close)
            self._files[file_name] = blobs
        file, added = self._files[file_name], self.added.get(file_name)
        return GrownBlobs(file, added) if added else file

    def blob_path(self, file_name: str) -> Path:
        """Returns where the weight file of that name in the program is."""
        if not file_name.startswith(_MODEL_PATH):
            raise ModelFormatError(f"weight file name {file_name!r} is not below {_MODEL_PATH!r}")
        return inside(self.model_path.parent, file_name.removeprefix(_MODEL_PATH), self.path)


def package_nbytes(path: Path) -> int:
    """Returns the sizes of all files of a package together."""
    return sum(file.stat().st_size for file in _contents(path)[1])


class Rewriter:
    """A package being written: see `Package.rewrite`.

    Attributes:
        nbytes: the sizes of all files that were written.
        weights_nbytes: those of the weight files.
    """

    _holds: Ensures | None = None
    nbytes: int = 0
    weights_nbytes: int = 0

    def __init__(self, package: Package, root: Path) -> None:
        """Begins to write `package` to the empty directory `root`."""
        self._package = package
        self._root = root
        self._closing = ExitStack()
        self._writers: dict[str, BlobWriter] = {}
        self._places: dict[Hashable, int] = {}
        self._changed = package.edited

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

    def ensure(self, holds: Ensures) -> None:
        """Has what was written looked at before it gets its name.

        Args:
            holds: given the package that was read, the folder that was written, and what that is
                to be called, raises where it does not hold what it should.
        """
        self._holds = holds

    def replace(self, op: ir.Op, new_ops: Sequence[ir.Op]) -> None:
        """Puts `new_ops` in the place of `op`; the last makes values of the same names.

        Their constants are written at once, and each only once however many ops share it.
        """
        for _, part in self._package.parts:
            if part.owns(op):
                part.replace(op, new_ops, self._store)
                self._changed = True

    def _store(self, constant: ir.Constant) -> tuple[str, int]:
        assert constant.storage is not None
        file_name, _ = self._package.place_of(constant)
        if constant.storage not in self._places:
            pieces = (constant.load(),) if constant.pieces is None else constant.pieces()
            offset = self._writer(file_name).write_pieces(pieces, constant.dtype, constant.size)
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
        for file_name in self._package.added:
            self._writer(file_name)
        for _, part in self._package.parts:
            for op, made in part.other_halves():
                self.replace(op, [encode.dense(op, ir.Constant.of(made.read(), made))])
            self._move_blobs(part)
        written = {self._target(self._package.blob_path(name)) for name in self._writers}
        if self._changed:
            for model, part in self._package.parts:
                older = sorted(part.sparse)
                raise_functions(model, part, older, encode.FIRST_SPARSE_OPSET, self._placed)
            raise_pipelines(self._package.spec)
            model_target = self._target(self._package.model_path)
            model_target.parent.mkdir(parents=True, exist_ok=True)
            model_target.write_bytes(self._package.spec.SerializeToString(deterministic=True))
            written.add(model_target)
        directories, files = _contents(self._package.path)
        for directory in directories:  # those that hold nothing, too: the manifest may list them
            self._target(directory).mkdir(parents=True, exist_ok=True)
        for source in files:
            target = self._target(source)
            if target not in written:
                shutil.copyfile(source, target)

    def _move_blobs(self, part: MilProto) -> None:
        """Copies what is still used of the weight files that are written anew."""
        for constant, message in part.blobs.items():
            file_name, old_offset = self._package.place_of(constant)
            if file_name not in self._writers or constant.storage is None:
                continue
            if constant.storage not in self._places:
                self._places[constant.storage] = self._writers[file_name].copy(
                    self._package.open_blobs(file_name),
                    cast(int, old_offset),
                    constant.dtype,
                    constant.size,
                )
            message.blobFileValue.offset = self._places[constant.storage]

    def _placed(self, constant: ir.Constant) -> tuple[str, int]:
        """Returns where a constant of a weight file is, now that all are moved."""
        file_name, place = self._package.place_of(constant)
        assert constant.storage is not None
        return file_name, self._places.get(constant.storage, cast(int, place))

    def _target(self, source: Path) -> Path:
        return self._root / source.relative_to(self._package.path)


def _parse(path: Path) -> Message:
    spec: Message = Model()
    try:
        with naming(path):
            spec.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise ModelFormatError(
            f"{path}: is not a Core ML model message: {error}; copy or convert the model again"
        ) from None
    return spec


def _contents(package: Path) -> tuple[list[Path], list[Path]]:
    """Returns every directory below a package, and every file.

    Raises:
        ModelFormatError: there is something else in it: a link that leads out, a device.
    """
    all_directories, files = [], []
    for directory, directories, names in os.walk(package, onerror=_give_up):
        for name in directories + names:
            path = Path(directory, name)
            if path.is_symlink() and (path.is_dir() or not is_within(path, package)):
                raise ModelFormatError(f"{path}: is a link that leads out of the package")
            if not path.is_dir() and not path.is_file():
                raise ModelFormatError(f"{path}: is not a regular file")
        all_directories += [Path(directory, name) for name in directories]
        files += [Path(directory, name) for name in names]
    return sorted(all_directories), sorted(files)


def _give_up(error: OSError) -> NoReturn:
    """For os.walk, which leaves out what it cannot list."""
    raise error
