"""The package in a Core ML delegate of an ExecuTorch program, opened and written like any other.

A path of one is that of the `.pte`, where it has one model, or goes on with the name of a delegate:
"model.pte/forward/0".
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from uuid import UUID

from mlpass.errors import ModelFormatError, brief
from mlpass.files import check_file, temporary_folder, whole_file
from mlpass.program.inmemoryfs import Content, Image, digest
from mlpass.program.manifest import check_items
from mlpass.program.mlpackage import Package
from mlpass.program.pte import Blob, Pte
from mlpass.program.pte_paths import PTE_SUFFIX, host_of
from mlpass.program.pte_writing import write_pte, written_nbytes
from mlpass.program.rewriter import Rewriter
from mlpass.program.writing import Targets, single

_METADATA = "metadata.json"


def models_of(source: object) -> dict[str, str]:
    """Returns the paths of all Core ML models in a `.pte` by name; none of anything else.

    Raises:
        ModelFormatError: it is broken.
        OSError: it cannot be read.
    """
    host = host_of(source)
    if host is None or host[1]:
        return {}
    return {name: f"{host[0]}/{name}" for name in Pte(host[0]).models.values()}


class HostedPackage(Package):
    """A package in a `.pte`, unpacked to a temporary folder until it is closed."""

    def __init__(self, path: Path, delegate: str = "") -> None:
        """Opens and checks the package in a delegate.

        Raises:
            ModelFormatError: there is no such delegate, or its model is not a package.
            OSError: it cannot be read.
        """
        self.pte = Pte(path)
        chosen = self.pte.delegates[_chosen(self.pte, delegate)]
        self.blob = chosen.blob
        with ExitStack() as closing:
            unpacked = closing.enter_context(temporary_folder())
            with self.pte.telling(unpacked, self.blob):
                image = self.pte.image(self.blob)
                folder = unpacked / _package_in(image)
                folder.mkdir()
                replace(image, items=image.below(folder.name)).unpack(folder)
                super().__init__(folder)
                self._check_functions()
            self._closing.push(closing.pop_all())
        self.name = f"{path}/{delegate}" if delegate else str(path)
        self.function_name = chosen.function if delegate else None

    def _check_functions(self) -> None:
        """Raises ModelFormatError where a method calls a function that its model does not have."""
        having = [name for program in self.programs for name in program.functions]
        for name, delegate in self.pte.delegates.items():
            if delegate.blob == self.blob and delegate.function not in (None, *having):
                self.close()
                raise ModelFormatError(
                    f"its delegate {name} calls the function {brief(delegate.function)}, and its "
                    f"model has {', '.join(map(repr, having))}; export it again"
                )

    @property
    def nbytes(self) -> int:
        """The size of the whole program."""
        return len(self.pte.data)

    def check_target(self, target: Targets, *, force: bool = False) -> Path:
        """Returns the absolute path of a target, a `.pte` or an `.mlpackage`."""
        target = Path(single(target)).absolute()
        if target.suffix != PTE_SUFFIX:
            return super().check_target(target, force=force)
        check_file(target, force=force)
        return target

    @contextmanager
    def rewrite(
        self, target: Targets, *, force: bool = False, keep: bool = False
    ) -> Iterator[Rewriter]:
        """Writes the program with a copy of the package in its place, or the package by itself."""
        target = self.check_target(target, force=force or keep)
        if target.suffix != PTE_SUFFIX:
            with super().rewrite(target, force=force, keep=keep) as rewriter:
                yield rewriter
            return
        with temporary_folder() as folder:
            written = folder / self.path.name
            with super().rewrite(written) as rewriter:
                yield rewriter
            write_hosts(self.pte, {self.blob: written}, target, force=force, keep=keep)
        rewriter.nbytes = target.stat().st_size

    @contextmanager
    def rewriting(self, building: Path, target: Path) -> Iterator[Rewriter]:
        """Writes a copy to an empty folder; what is missing in it is told by the program's name."""
        with self.pte.telling(self.path.parent, self.blob):
            check_items(self.path)
        with super().rewriting(building, target) as rewriter:
            yield rewriter


def write_hosts(
    pte: Pte, packages: Mapping[Blob, Path], target: Path, *, force: bool, keep: bool = False
) -> None:
    """Writes a program with other packages in the place of its own.

    Raises:
        ModelFormatError: the program is broken.
        OutputExistsError: `target` exists and `force` is False.
        OSError: it cannot be written.
    """
    images = _images(pte, packages)
    with whole_file(target, force=force, keep=keep) as building:
        with building.open("wb") as file:
            write_pte(pte, file, images)
        _check_written(pte, building, target)


def nbytes_in(host: str, package: Path) -> int:
    """Returns the size of the program that `write_copy` would write.

    Args:
        host: the path of the `.pte`, or of the model in it.
        package: that was made of the model.

    Raises:
        ModelFormatError: the program is broken, or there is no such model.
        OSError: a file cannot be read.
    """
    path, delegate = host_of(host) or (Path(host), "")
    pte = Pte(path)
    blob = pte.delegates[_chosen(pte, delegate)].blob
    return written_nbytes(pte, _images(pte, {blob: package}))


def check_copy(source: object, package: Package, target: Targets, *, force: bool) -> None:
    """Raises what `write_copy` would, of a target, before anything is made to be written there."""
    if is_for_host(source, target):
        check_file(Path(single(target)).absolute(), force=force)
    else:
        package.check_target(target, force=force)


def write_copy(source: object, package: Path, target: Targets, *, force: bool) -> None:
    """Writes a package that was made of a model: a `.pte` with it in the place of a model in one.

    Args:
        source: the path of the model, or the model.
        package: what was made of it.
        target: an `.mlpackage`; or a `.pte`, where `source` is one, or in one.
        force: whether to replace a target that exists; else what is made is kept beside it.

    Raises:
        ModelFormatError: the program is broken.
        OutputExistsError: `target` exists and `force` is False.
        OSError: it cannot be written.
    """
    if not is_for_host(source, target):
        with Package(package) as made, made.rewrite(target, force=force, keep=True):
            return
    host = host_of(source)
    assert host is not None  # or it were not for one
    place, hosted = Path(single(target)).absolute(), HostedPackage(*host)
    with hosted:
        write_hosts(hosted.pte, {hosted.blob: package}, place, force=force, keep=True)


def is_for_host(source: object, target: Targets) -> bool:
    """Returns whether what is made of a model is written to a `.pte`, in the place of that."""
    return host_of(source) is not None and Path(single(target)).suffix == PTE_SUFFIX


def _images(pte: Pte, packages: Mapping[Blob, Path]) -> dict[Blob, Image]:
    """Returns the folders of delegates with other packages in them."""
    images = {}
    for blob, path in packages.items():
        with pte.telling(blob=blob):
            images[blob] = _renewed(pte.image(blob), path)
    return images


def _check_written(pte: Pte, written: Path, target: Path) -> None:
    """Raises ModelFormatError where a program that was written does not have the same delegates."""
    try:
        names = [*Pte(written).delegates]
    except ModelFormatError:
        names = []
    if names != [*pte.delegates]:
        raise ModelFormatError(
            f"{target}: was not written, since it would not be whole: {pte.path} is not built as "
            "ExecuTorch builds a program"
        )


def _chosen(pte: Pte, delegate: str) -> str:
    """Returns the name of the delegate that is meant."""
    if delegate in pte.delegates:
        return delegate
    for name in pte.delegates:  # a path has no empty parts, whatever a method is called
        if delegate == "/".join(part for part in name.split("/") if part not in ("", ".")):
            return name
    if delegate:
        raise ModelFormatError(
            f"{pte.path}: has no Core ML delegate {delegate!r}; it has {', '.join(pte.delegates)}"
        )
    names = [*pte.models.values()]
    if len(names) > 1:
        paths = ", ".join(f"{pte.path}/{name}" for name in names)
        raise ModelFormatError(f"{pte.path}: has {len(names)} Core ML models; name one: {paths}")
    return names[0]


def _package_in(image: Image) -> str:
    """Returns the name of the package in a delegate's folder."""
    found = [path for path in image.items if "/" not in path]
    packages = [path for path in found if path.endswith(".mlpackage")]
    if len(packages) == 1:
        return packages[0]
    compiled = any(path.endswith(".mlmodelc") for path in found)
    raise ModelFormatError(
        f"its Core ML model is {'compiled' if compiled else 'not a package'}; "
        "export with model_type=CoreMLBackend.MODEL_TYPE.MODEL"
    )


def _renewed(image: Image, package: Path) -> Image:
    """Returns a delegate's folder with another package, and an identifier that comes of that.

    By the identifier a device keeps what it compiled.
    """
    name = _package_in(image)
    new: dict[str, Content | None] = {
        path.relative_to(package).as_posix(): None if path.is_dir() else path
        for path in sorted(package.rglob("*"))
    }
    old, hashed = image.below(name), digest(new)
    if hashed == digest(old):
        return image
    kept = {path: content for path, content in image.items.items() if path.startswith(f"{name}/")}
    packed = {f"{name}/{path}": new[path] for path in dict.fromkeys([*old, *new]) if path in new}
    items: dict[str, Content | None] = {}
    for path, content in image.items.items():
        if path == name:
            items |= {**packed, name: None}
        elif path not in kept:
            items[path] = content
    items[_METADATA] = _identified(image, f"executorch_{UUID(bytes=hashed[:16], version=4)}")
    return replace(image, items=items)


def _identified(image: Image, identifier: str) -> bytes:
    """Returns a delegate's metadata with another identifier."""
    content = image.items.get(_METADATA)
    try:
        text = bytes(content or b"").decode()
        old = json.loads(text)["identifier"]
        before, after = text.split(json.dumps(old))
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise ModelFormatError(
            f"its Core ML model has no identifier in {_METADATA} by which a device knows it "
            f"({type(error).__name__})"
        ) from None
    return f"{before}{json.dumps(identifier)}{after}".encode()
