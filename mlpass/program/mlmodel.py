"""coremltools' `MLModel` as a package, and back."""

from __future__ import annotations

import os
import shutil
import weakref
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from mlpass.errors import ConfigError, ModelFormatError
from mlpass.files import check_apart, temporary_folder
from mlpass.program.chunks import open_chunks
from mlpass.program.hosted import HostedPackage
from mlpass.program.mlpackage import Package
from mlpass.program.proto import Model
from mlpass.program.pte_paths import host_of

if TYPE_CHECKING:
    from coremltools.converters.mil.mil import Program as MilProgram
    from coremltools.models import MLModel

    from mlpass.program.ir import Program

# What a model may be given as: a path, coremltools' own, or one that is open already.
One: TypeAlias = "str | os.PathLike[str] | MLModel"
ModelLike: TypeAlias = "One | Sequence[One] | MilProgram | Package | Program"


def open_single(source: object) -> Package:
    """Returns `source` as an open package, as `open_package` does, where it is one package.

    Raises:
        ConfigError: it is a list.
        ModelFormatError: it is not a package with an ML Program, or is broken.
        OSError: it cannot be read.
    """
    if isinstance(source, list | tuple):
        raise ConfigError(
            "model: must be one package. A list of those in a row is for prune, compare, inspect, "
            "check and the Interpreter"
        )
    return open_package(source)


def open_package(source: object, prefix: str = "") -> Package:
    """Returns `source` as an open package; one that is open already as it is.

    Args:
        source: path of an `.mlpackage`; of an ExecuTorch `.pte`, or of a delegate in it; or an
            `MLModel`, whose message may have been edited since it was loaded. Or a list of packages
            and `MLModel`s that run one after another.
        prefix: of its names, among those of others: see `Package`.

    Raises:
        ModelFormatError: it is neither, or not one with an ML Program.
        OSError: it cannot be read.
    """
    if isinstance(source, Package):
        return source
    if isinstance(source, list | tuple) and not prefix:
        return open_chunks(source, open_package)
    if isinstance(source, str | os.PathLike):
        host = host_of(source)
        if host is not None and prefix:
            raise ModelFormatError(f"{source}: is in a .pte; packages in a row must be .mlpackage")
        return Package(source, prefix=prefix) if host is None else HostedPackage(*host)
    if not (hasattr(source, "get_spec") and hasattr(source, "package_path")):
        raise ModelFormatError(
            f"source: must be the path of an .mlpackage or an MLModel. Got {type(source).__name__}."
        )
    if source.package_path is None:
        raise ModelFormatError(
            "source: this MLModel is not an ML Program; convert with convert_to='mlprogram'"
        )
    spec = Model()
    spec.CopyFrom(source.get_spec())
    package = Package(source.package_path, spec, prefix)
    package.owner = source  # with which a temporary package goes
    package.function_name = getattr(source, "function_name", None)
    return package


def check_outside(output: str | os.PathLike[str], source: Any, what: str) -> None:
    """Checks that writing `output` neither changes nor removes the package of a model.

    Args:
        output: a file or folder to be written.
        source: path of an `.mlpackage`, an `MLModel`, or a pymil `Program`, which has no package.
        what: it is, for the message.

    Raises:
        ModelFormatError: `output` is within the package, or holds it.
    """
    path = isinstance(source, str | os.PathLike)
    place = source if path else getattr(source, "package_path", None)
    if place is not None:
        check_apart(Path(output), Path(place), what)


def make_mlmodel(write: Callable[[Path], object], like: object) -> MLModel:
    """Returns the package that `write` writes to a path as an `MLModel`, and deletes it with that.

    Where that is kept until then, it goes when the interpreter exits.

    Args:
        write: given the path of a package that is not there yet.
        like: an `MLModel` whose settings the result gets.
    """
    with ExitStack() as closing:
        path = closing.enter_context(temporary_folder()) / "model.mlpackage"
        write(path)
        model = _load_mlmodel(path, like)
        weakref.finalize(model, closing.pop_all().close)
    return model


def _load_mlmodel(path: Path, like: Any) -> MLModel:
    """Returns the package at `path` as an `MLModel` with the settings of another.

    Where `like` carries its pymil program, as after `coremltools.convert`, the result does, too.
    """
    from coremltools.converters.mil.frontend.milproto.load import load
    from coremltools.models import MLModel

    model = MLModel(
        str(path),
        compute_units=like.compute_unit,
        function_name=like.function_name,
        skip_model_load=like.__proxy__ is None,
    )
    if like._mil_program is not None:
        spec = model.get_spec()
        model._mil_program = load(spec, spec.specificationVersion, model.weights_dir)
    return model


def submodel(model: MLModel, outputs: Sequence[str]) -> MLModel:
    """Returns the part of an `MLModel` that ends at `outputs`, any values within its program.

    Its package is temporary, and goes with it: coremltools would keep it until the end.
    """
    from coremltools.converters.mil.debugging_utils import extract_submodel

    part = extract_submodel(model, outputs=list(outputs))
    weakref.finalize(part, shutil.rmtree, part.package_path, ignore_errors=True)
    return part
