"""Whatever can be run, as functions with their descriptions."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mlpass.errors import ConfigError, UnsupportedOpError
from mlpass.program.ir import Function, Program
from mlpass.program.mlmodel import open_package
from mlpass.program.mlpackage import Package, pipeline_of
from mlpass.runtime.agreement import check_agreement
from mlpass.runtime.description import (
    Description,
    choose_function,
    describe_function,
    describe_message,
)


@dataclass(frozen=True, eq=False)
class Runnable:
    """A model to run.

    Attributes:
        description: of the whole.
        parts: the functions to run one after another: one, or several of a pipeline.
        package: the open package that they are in; None for a pymil program.
    """

    description: Description
    parts: tuple[tuple[Description, Function], ...]
    package: Package | None


def open_source(model: Any, function_name: str | None) -> Runnable:
    """Returns `model` ready to be planned.

    Args:
        model: path of an `.mlpackage`, an `MLModel`, an open `Package`, a pymil `Program`, or a
            program's graph.
        function_name: of a model with several functions; its default one where None.

    Raises:
        ConfigError: there is no such function.
        ModelFormatError: the model cannot be read, or its description does not agree with it.
        UnsupportedOpError: a part of a pipeline is not an ML Program.
        OSError: its files cannot be read.
    """
    if is_pymil(model):
        from mlpass.program.pymil import read_program

        named = function_name or getattr(model, "default_function_name", None)
        return _of_program(read_program(model), named)
    if isinstance(model, Program):
        return _of_program(model, function_name)
    if isinstance(model, Package):
        return _of_package(model, function_name)
    package = open_package(model)
    if function_name is None:  # an MLModel has chosen one, maybe
        function_name = getattr(model, "function_name", None)
    try:
        return _of_package(package, function_name)
    except BaseException:
        package.close()
        raise


def _of_program(program: Program, function_name: str | None) -> Runnable:
    function = program.functions[choose_function(None, program.functions, function_name)]
    description = describe_function(function)
    return Runnable(description, ((description, function),), None)


def _of_package(package: Package, function_name: str | None) -> Runnable:
    if strange := sorted(set(_strange_parts(package.spec))):
        raise UnsupportedOpError(
            f"{package.path}: a pipeline with parts of kind {', '.join(strange)}; "
            "mlpass only runs ML Programs"
        )
    if len(package.parts) > 1 and function_name is not None:
        raise ConfigError(f"function_name: a pipeline has no functions. Got {function_name!r}.")
    parts = []
    for message, part in package.parts:
        label = part.program.name and f"part {part.program.name!r}"
        functions = part.program.functions
        function = functions[choose_function(message, functions, function_name)]
        description = describe_message(message, function)
        check_agreement(description, function, " ".join(filter(None, (str(package.path), label))))
        parts.append((description, function))
    whole = describe_message(package.spec, parts[-1][1])
    return Runnable(whole, tuple(parts), package)


def is_pymil(model: Any) -> bool:
    """Returns whether `model` is a pymil `Program`, without importing coremltools."""
    return any(
        kind.__module__ == "coremltools.converters.mil.mil.program" and kind.__name__ == "Program"
        for kind in type(model).__mro__
    )


def close_with(owner: object, package: Package) -> None:
    """Lets a package's files be closed when `owner` is gone."""
    weakref.finalize(owner, package.close)


def _strange_parts(model: Any) -> Iterator[str]:
    pipeline = pipeline_of(model)
    if pipeline is not None:
        for part in pipeline.models:
            yield from _strange_parts(part)
    elif model.WhichOneof("Type") != "mlProgram":
        yield str(model.WhichOneof("Type"))
