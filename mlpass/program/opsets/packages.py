"""Raising a whole package: all functions of all its programs."""

from __future__ import annotations

import os
from collections.abc import Hashable
from pathlib import Path

from mlpass.errors import ConfigError, UnsupportedOpError
from mlpass.program.ir import Constant
from mlpass.program.mlmodel import ModelLike, open_single
from mlpass.program.mlpackage import Package
from mlpass.program.opsets.raising import raise_functions, refusals
from mlpass.program.opsets.targets import opset_of
from mlpass.program.pipelines import raise_pipelines
from mlpass.program.pte_paths import host_of

_FIRST_OFFSET = 1 << 48  # of a blob that is not in its file yet: no file is so long


def raise_package(package: Package, opset: int) -> None:
    """Raises every function of a package to `opset`, in memory: its graphs are others afterwards.

    Raises:
        ConfigError: one of them is for a newer one.
        UnsupportedOpError: `opset` cannot say what some ops do; all are named.
        ModelFormatError: a constant that decides about an op is broken.
    """
    for chunk in package.chunks:
        _raise(chunk, opset)


def _raise(package: Package, opset: int) -> None:
    functions = [one for program in package.programs for one in program.functions.values()]
    newest = max(function.opset for function in functions)
    if newest > opset:
        raise ConfigError(
            f"minimum_deployment_target: {package.name} is for iOS{newest}, and a model cannot be "
            f"lowered to iOS{opset}: convert its source again for that"
        )
    if all(function.opset == opset for function in functions):
        return
    found = dict.fromkeys(text for function in functions for text in refusals(function, opset))
    if found:
        raise UnsupportedOpError(
            f"{package.name} cannot be raised to iOS{opset}: {'; '.join(found)}. Convert its "
            f"source again with minimum_deployment_target=coremltools.target.iOS{opset}"
        )
    added = {name: dict(blobs) for name, blobs in package.added.items()}
    first = _FIRST_OFFSET + 64 * sum(map(len, added.values()))
    offsets: dict[tuple[str, Hashable], int] = {}

    def store(constant: Constant) -> tuple[str, int]:
        file_name, place = package.place_of(constant)
        assert constant.storage is not None  # it is in a file
        if isinstance(place, int):  # it is there already
            return file_name, place
        if constant.storage not in offsets:
            offsets[constant.storage] = offset = first + 64 * len(offsets)
            added.setdefault(file_name, {})[offset] = constant
        return file_name, offsets[constant.storage]

    for model, part in package.parts:
        raise_functions(model, part, sorted(part.program.functions), opset, store)
    raise_pipelines(package.spec)
    package.edit(added)


def path_of(model: ModelLike, folder: Path, target: object = None) -> tuple[str, str, str | None]:
    """Returns the absolute path of a model, its name as given, and the function it was given with.

    An `MLModel`, whose message may have been edited since it was loaded, is written to `folder`,
    and so are a model in a `.pte` and what is to be raised to a deployment target.

    Raises:
        ConfigError: there is no such target, or the model is for a newer one.
        ModelFormatError: it is neither, or not one with an ML Program.
        UnsupportedOpError: it has ops that cannot be raised.
    """
    if isinstance(model, str | os.PathLike) and target is None and host_of(model) is None:
        return os.path.abspath(model), os.fspath(model), None
    path = folder / "model.mlpackage"
    with open_single(model) as package:
        if target is not None:
            raise_package(package, opset_of(target))
        with package.rewrite(path):
            pass
        name = os.fspath(model) if isinstance(model, str | os.PathLike) else package.name
    return str(path), name, package.function_name
