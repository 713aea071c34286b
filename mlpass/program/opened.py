"""An `.mlpackage`, open for reading, as graphs."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeVar

from google.protobuf.message import DecodeError

from mlpass.collector import paused_collector
from mlpass.errors import ModelFormatError
from mlpass.files import naming
from mlpass.program import ir
from mlpass.program.blobs import BlobFile, GrownBlobs
from mlpass.program.manifest import find_model, inside, is_within
from mlpass.program.milproto import MilProto
from mlpass.program.pipelines import ml_programs
from mlpass.program.proto import Model

if TYPE_CHECKING:
    from mlpass.program.proto import Message

_MODEL_PATH = "@model_path/"
Opened = TypeVar("Opened", bound="OpenPackage")


class OpenPackage:
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

    def __enter__(self: Opened) -> Opened:
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
    def files(self) -> list[Path]:
        """All its files."""
        return contents_of(self.path)[1]

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

    def message_digest(self) -> str:
        """Returns a digest of its message, of which its files do not tell where it was edited."""
        return sha256(self.spec.SerializeToString(deterministic=True)).hexdigest()

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
    return sum(file.stat().st_size for file in contents_of(path)[1])


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


def contents_of(package: Path) -> tuple[list[Path], list[Path]]:
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
