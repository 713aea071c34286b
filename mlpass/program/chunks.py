"""Several packages that run one after another, as one: a model that was divided to fit a device.

What one makes is what the next takes, by name. Each keeps a state of its own.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from mlpass.errors import ConfigError, ModelFormatError
from mlpass.files import whole_folders
from mlpass.program import ir
from mlpass.program.mlpackage import Package
from mlpass.program.rewriter import Ensures, Rewriter
from mlpass.program.writing import Targets, each_of

if TYPE_CHECKING:
    from mlpass.program.milproto import MilProto
    from mlpass.program.proto import Message


class Chunks(Package):
    """Packages in a row, each an ML Program."""

    def __init__(self, packages: Sequence[Package]) -> None:
        """Takes packages, which are closed with it.

        Raises:
            ModelFormatError: one of them is not an ML Program by itself.
        """
        self._closing = ExitStack()
        for package in packages:
            self._closing.callback(package.close)
        self._chunks = tuple(packages)
        self.name = ", ".join(package.name for package in packages)
        self.edited = True  # so that its digest tells in which order they run
        for package in packages:
            if (kind := package.spec.WhichOneof("Type")) != "mlProgram":
                self.close()
                raise ModelFormatError(
                    f"{package.name}: is a {kind}; packages in a row must be ML Programs"
                )

    @property
    def parts(self) -> list[tuple[Message, MilProto]]:
        """The model message and decoded program of each."""
        return [part for chunk in self._chunks for part in chunk.parts]

    @property
    def chunks(self) -> Sequence[Package]:
        """The packages."""
        return self._chunks

    @property
    def files(self) -> list[Path]:
        """All their files."""
        return [path for chunk in self._chunks for path in chunk.files]

    @property
    def nbytes(self) -> int:
        """The sizes of all their files together."""
        return sum(chunk.nbytes for chunk in self._chunks)

    @property
    def weight_paths(self) -> list[Path]:
        """The weight files that their programs refer to."""
        return [path for chunk in self._chunks for path in chunk.weight_paths]

    def message_digest(self) -> str:
        """Returns a digest of their messages."""
        found = "".join(chunk.message_digest() for chunk in self._chunks)
        return sha256(found.encode()).hexdigest()

    def check_target(self, target: Targets, *, force: bool = False) -> Path:
        """Returns the absolute path of the first target."""
        return self._check_targets(target, force=force)[0]

    def _check_targets(self, target: Targets, *, force: bool) -> list[Path]:
        """Returns the absolute path of each target."""
        targets = each_of(target)
        if len(targets) != len(self._chunks):
            raise ConfigError(
                f"output: name a package to write for each of the {len(self._chunks)} that are "
                f"read. Got {len(targets)}."
            )
        for chunk in self._chunks:
            found = [chunk.check_target(each, force=force) for each in targets]
        own = [os.path.realpath(chunk.path) for chunk in self._chunks]
        for number, path in enumerate(found):  # nor may one replace another that is read
            if os.path.realpath(path) in (*own[:number], *own[number + 1 :]):
                raise ConfigError(
                    f"output: {path} is read, and another than it would take its place; name the "
                    "packages to write in the order of those that are read"
                )
        if repeated := [path for path, count in Counter(found).items() if count > 1]:
            raise ConfigError(f"output: {repeated[0]} is named twice; each package needs its own")
        return found

    @contextmanager
    def rewrite(
        self, target: Targets, *, force: bool = False, keep: bool = False
    ) -> Iterator[Rewriter]:
        """Writes a copy of each; all get their names, once all are whole, or none does."""
        targets = self._check_targets(target, force=force or keep)
        with whole_folders(targets, force=force, keep=keep) as built:
            with ExitStack() as writing:
                pairs = zip(self._chunks, built, targets, strict=True)
                rewriters = [
                    writing.enter_context(chunk.rewriting(folder, target))
                    for chunk, folder, target in pairs
                ]
                rewriter = Rewriters(rewriters)
                yield rewriter
            rewriter.nbytes = sum(each.nbytes for each in rewriters)
            rewriter.weights_nbytes = sum(each.weights_nbytes for each in rewriters)


class Rewriters(Rewriter):
    """Packages being written together."""

    def __init__(self, rewriters: Sequence[Rewriter]) -> None:
        """Takes those that write one package each."""
        self._rewriters = rewriters

    def ensure(self, holds: Ensures) -> None:
        """Has each look, before it gets its name, whether it is what it should be."""
        for each in self._rewriters:
            each.ensure(holds)

    def replace(self, op: ir.Op, new_ops: Sequence[ir.Op]) -> None:
        """Puts `new_ops` in the place of `op`, in the package that has it."""
        for each in self._rewriters:
            each.replace(op, new_ops)


def open_chunks(sources: Sequence[object], open_one: Callable[[object, str], Package]) -> Chunks:
    """Returns packages in a row as one.

    Raises:
        ModelFormatError: the list is empty, or one is not a package with an ML Program.
        OSError: one cannot be read.
    """
    if not sources:
        raise ModelFormatError("source: is an empty list; name the packages that run in a row")
    with ExitStack() as closing:
        packages = []
        for source, prefix in zip(sources, prefixes(sources), strict=True):
            packages.append(open_one(source, prefix))
            closing.callback(packages[-1].close)
        closing.pop_all()
    return Chunks(packages)


def prefixes(sources: Sequence[object]) -> list[str]:
    """Returns what to put before the names of each: its own name, or its number."""
    names = [
        Path(source).stem if isinstance(source, str | os.PathLike) else "" for source in sources
    ]
    if "" in names or len({*names}) < len(names):
        names = [str(number) for number in range(1, len(sources) + 1)]
    return [f"{name}/" for name in names]
