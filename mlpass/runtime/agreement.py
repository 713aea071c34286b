"""Whether what a model says of a function is what the function takes, keeps and makes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from mlpass.errors import ModelFormatError
from mlpass.program.ir import Function, StateType, TensorType, Value
from mlpass.runtime.description import Description, Feature


def check_agreement(description: Description, function: Function, where: str) -> None:
    """Checks that a function can be given what a model says it takes, and gives what it says.

    Raises:
        ModelFormatError: they differ; all that does is said at once.
    """
    if problems := list(_problems(description, function)):
        raise ModelFormatError(
            f"{where}: function {function.name!r} and the model's description do not agree: "
            f"{'; '.join(problems)}"
        )


def _problems(description: Description, function: Function) -> Iterator[str]:
    states = [value for value in function.block.inputs if isinstance(value.type, StateType)]
    inputs = [value for value in function.block.inputs if not isinstance(value.type, StateType)]
    yield from _differences("input", description.inputs, inputs)
    yield from _differences("state", description.states, states)
    outputs = [one.name for one in description.outputs]  # it may leave some out
    given = [value for value in function.block.outputs if value.name in outputs]
    yield from _differences("output", description.outputs, given)
    for feature in (*description.inputs, *description.states):
        if feature.kind not in ("array", "image"):
            kind = "of no type" if feature.kind == "other" else f"a {feature.kind}"
            yield f"{feature.name!r} is {kind}; a function takes arrays and images alone"
        elif any(size < 0 for size in feature.shape):
            yield f"{feature.name!r} has the shape {feature.shape}"
    for value in inputs:
        if not isinstance(value.type, TensorType):
            yield f"the function's input {value.name!r} is not a tensor"
    for value in states:
        assert isinstance(value.type, StateType)  # chosen by that
        if not isinstance(value.type.tensor, TensorType):
            yield f"the function's state {value.name!r} is not a tensor"


def _differences(what: str, features: Iterable[Feature], values: Iterable[Value]) -> Iterator[str]:
    """Yields how the names of features differ from those of values."""
    described, there = [one.name for one in features], [one.name for one in values]
    for names in (described, there):
        for name in sorted({name for name in names if names.count(name) > 1}):
            yield f"there are several {what}s {name!r}"
    if missing := [name for name in described if name not in there]:
        yield f"the function has no {what} {', '.join(map(repr, missing))}"
    if spare := [name for name in there if name not in described]:
        yield f"the description has no {what} {', '.join(map(repr, spare))}"
