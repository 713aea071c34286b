"""A package being written: what is not replaced comes out as it went in.

The model message is edited where an op is replaced; weight files are written anew, blob by blob;
every other file is copied.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Hashable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TypeAlias, cast

from mlpass.program import encode, ir
from mlpass.program.blobs import BlobWriter
from mlpass.program.milproto import MilProto
from mlpass.program.opened import OpenPackage, contents_of
from mlpass.program.opsets.raising import raise_functions
from mlpass.program.pipelines import raise_pipelines

# Given the package that was read, the folder that was written, and what that is to be called.
Ensures: TypeAlias = Callable[[OpenPackage, Path, Path], None]


class Rewriter:
    """A package being written: see `Package.rewrite`.

    Attributes:
        holds: looks at what was written before it gets its name; None where nobody does.
        nbytes: the sizes of all files that were written.
        weights_nbytes: those of the weight files.
    """

    holds: Ensures | None = None
    nbytes: int = 0
    weights_nbytes: int = 0

    def __init__(self, package: OpenPackage, root: Path) -> None:
        """Begins to write `package` to the empty directory `root`."""
        self._package = package
        self._root = root
        self._closing = ExitStack()
        self._writers: dict[str, BlobWriter] = {}
        self._places: dict[Hashable, int] = {}
        self._changed = package.edited

    def __enter__(self) -> Rewriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._closing:
            if kind is None:
                self._finish()

    def ensure(self, holds: Ensures) -> None:
        """Has what was written looked at before it gets its name.

        Args:
            holds: given the package that was read, the folder that was written, and what that is
                to be called, raises where it does not hold what it should.
        """
        self.holds = holds

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
        directories, files = contents_of(self._package.path)
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
