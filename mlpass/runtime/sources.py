"""Whatever can be run, as functions with their descriptions."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeGuard

from mlpass.errors import ConfigError, UnsupportedOpError
from mlpass.program.ir import Function, Op, Program
from mlpass.program.mlmodel import ModelLike, open_package
from mlpass.program.mlpackage import Package
from mlpass.program.pipelines import pipeline_of
from mlpass.runtime.agreement import check_agreement
from mlpass.runtime.chain import in_a_row
from mlpass.runtime.description import (
    Description,
    choose_function,
    describe_function,
    describe_message,
)
from mlpass.runtime.suppression import SUPPRESSION, Suppression
from mlpass.runtime.tabular import TABULAR, Tabular

if TYPE_CHECKING:
    from mlpass.program.proto import Message
    from mlpass.program.pymil_types import PymilProgram


@dataclass(frozen=True, eq=False)
class Runnable:
    """A model to run.

    Attributes:
        description: of the whole.
        stages: what to run one after another: a function with its description, or another part of
            a pipeline.
        package: the open package that they are in; None for a pymil program.
    """

    description: Description
    stages: tuple[tuple[Description, Function] | Suppression | Tabular, ...]
    package: Package | None


def open_source(model: ModelLike, function_name: str | None, *, partial: bool = False) -> Runnable:
    """Returns `model` ready to be planned.

    Args:
        model: path of an `.mlpackage` or into a `.pte`, an `MLModel`, an open `Package`, a pymil
            `Program`, or a program's graph.
        function_name: of a model with several functions; its default one where None.
        partial: whether to take of a pipeline only what samples are run through: the ML Programs,
            and parts for tables before them, that no other part comes before; its outputs are then
            what they make of its own, and what they give to the parts after.

    Raises:
        ConfigError: there is no such function.
        ModelFormatError: the model cannot be read, or its description does not agree with it.
        UnsupportedOpError: a part of a pipeline cannot be run; the first one, where `partial`.
        OSError: its files cannot be read.
    """
    if is_pymil(model):
        from mlpass.program.pymil import read_program

        named = function_name or getattr(model, "default_function_name", None)
        return _of_program(read_program(model), named)
    if isinstance(model, Program):
        return _of_program(model, function_name)
    if isinstance(model, Package):
        return _of_package(model, function_name, partial)
    package = open_package(model)
    try:
        return _of_package(package, function_name, partial)
    except BaseException:
        package.close()
        raise


def _of_program(program: Program, function_name: str | None) -> Runnable:
    function = program.functions[choose_function(None, program.functions, function_name)]
    description = describe_function(function)
    return Runnable(description, ((description, function),), None)


def _of_package(package: Package, function_name: str | None, partial: bool) -> Runnable:
    if package.chunks[0] is package:
        return _of_one(package, function_name, partial)
    found = [
        (chunk, *each) for chunk in package.chunks for each in functions_of(chunk, function_name)
    ]
    whole = in_a_row([(chunk.name, description) for chunk, description, _ in found])
    stages = ((replace(each, prefix=chunk.prefix), function) for chunk, each, function in found)
    return Runnable(whole, tuple(stages), package)


def _of_one(package: Package, function_name: str | None, partial: bool) -> Runnable:
    function_name = function_name or package.function_name  # chosen with the model, maybe
    leaves, programs = list(_leaves(package.spec)), functions_of(package, function_name)
    kinds = [_kind(leaf) for leaf in leaves]
    count = _count_replayed(kinds)
    strange = sorted({*kinds} - {"mlProgram", SUPPRESSION, *TABULAR})
    if partial and count == 0:
        strange = [kind for kind in kinds if kind not in TABULAR][:1] or kinds[:1]
    if strange and not (partial and count):
        raise UnsupportedOpError(
            f"{package.name}: a pipeline with parts of kind {', '.join(strange)}; "
            "mlpass only runs ML Programs"
        )
    left = leaves[count:] if partial else []
    described = iter(programs)
    stages = tuple(
        next(described)
        if kind == "mlProgram"
        else (Suppression if kind == SUPPRESSION else Tabular).of(leaf)
        for leaf, kind in zip(leaves[:count] if partial else leaves, kinds, strict=False)
    )
    whole = describe_message(package.spec, programs[-1][1])
    if len(leaves) > 1:
        run = [each[0] if isinstance(each, tuple) else each.description for each in stages]
        whole = _of_stages(whole, run, left)
    return Runnable(whole, stages, package)


def _count_replayed(kinds: Sequence[str]) -> int:
    """Returns how many parts samples are run through: as far as the last program of them."""
    known = ("mlProgram", *TABULAR)
    count = next((n for n, kind in enumerate(kinds) if kind not in known), len(kinds))
    return max((n + 1 for n, kind in enumerate(kinds[:count]) if kind == "mlProgram"), default=0)


def _of_stages(
    whole: Description, run: Sequence[Description], left: Sequence[Message]
) -> Description:
    """Returns the description of what is run of a pipeline."""
    needed = {each.name for part in run for each in part.inputs if not each.optional}
    made = {each.name: each for part in run for each in part.outputs}
    inputs = tuple(
        each if each.name in needed else replace(each, optional=True) for each in whole.inputs
    )
    if not left:
        return replace(whole, inputs=inputs)
    taken = [each.name for leaf in left for each in leaf.description.input]
    names = dict.fromkeys([*(each.name for each in whole.outputs), *taken])
    outputs = tuple(made[name] for name in names if name in made)
    return Description(inputs, outputs, whole.states)


def functions_of(
    package: Package, function_name: str | None
) -> tuple[tuple[Description, Function], ...]:
    """Returns the function of each ML Program of a package that runs, with its description.

    Raises:
        ConfigError: there is no such function.
    """
    if len(package.parts) > 1 and function_name is not None:
        raise ConfigError(f"function_name: a pipeline has no functions. Got {function_name!r}.")
    parts = []
    for message, part in package.parts:
        label = part.program.name and f"part {part.program.name!r}"
        functions = part.program.functions
        function = functions[choose_function(message, functions, function_name)]
        description = describe_message(message, function)
        check_agreement(description, function, " ".join(filter(None, (package.name, label))))
        parts.append((description, function))
    return tuple(parts)


def unreached(model: object) -> Mapping[Op, str]:
    """Returns the ops of the programs that no sample is run through, each with the reason.

    Args:
        model: an open package, or a program's graph, which has no such ops.
    """
    if not isinstance(model, Package):
        return {}
    reasons: dict[Op, str] = {}
    if model.chunks[0] is not model:
        return {}  # all are programs
    programs, other = iter(model.programs), ""
    for kind in map(_kind, _leaves(model.spec)):
        if kind != "mlProgram":
            other = other or ("" if kind in TABULAR else kind)
            continue
        for function in next(programs).functions.values():
            reason = f"it is behind the pipeline's {other}, through which no sample is run"
            reasons.update((op, reason) for op in function.block.walk() if other)
    return reasons


def is_pymil(model: object) -> TypeGuard[PymilProgram]:
    """Returns whether `model` is a pymil `Program`, without importing coremltools."""
    return any(
        kind.__module__ == "coremltools.converters.mil.mil.program" and kind.__name__ == "Program"
        for kind in type(model).__mro__
    )


def close_with(owner: object, package: Package) -> None:
    """Lets a package's files be closed when `owner` is gone."""
    weakref.finalize(owner, package.close)


def _leaves(model: Message) -> Iterator[Message]:
    """Yields the messages of a model's parts, those of nested pipelines one by one."""
    pipeline = pipeline_of(model)
    if pipeline is None:
        yield model
    for part in pipeline.models if pipeline is not None else ():
        yield from _leaves(part)


def _kind(model: Message) -> str:
    return str(model.WhichOneof("Type"))
