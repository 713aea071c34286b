"""A model whose description and function do not agree is refused, and all that differs is told."""

from __future__ import annotations

import pytest

import mlpass
from mlpass.errors import ModelFormatError
from mlpass.program.proto import Model
from tests.program.packages import (
    copy_fixture,
    edit_spec,
    main_block,
    main_function,
    typed,
)


def _state(spec):
    value = main_function(spec).inputs[0]
    kept = type(value.type)()
    kept.CopyFrom(value.type)
    value.type.stateType.wrappedType.CopyFrom(kept)


def _twice(spec):
    spec.description.input.add().CopyFrom(spec.description.input[0])


def _output(spec):
    return main_block(spec).outputs[0]


EDITS = {
    "an output that the program does not give": (
        lambda s: setattr(s.description.output[0], "name", "other"),
        "the function has no output 'other'",
    ),
    "no outputs": (
        lambda s: main_block(s).outputs.__delitem__(slice(None)),
        "the function has no output '",
    ),
    "another value as output": (
        lambda s: main_block(s).outputs.__setitem__(
            0, main_block(s).operations[-2].outputs[0].name
        ),
        "the function has no output '",
    ),
    "an output twice": (
        lambda s: main_block(s).outputs.append(_output(s)),
        "there are several outputs '",
    ),
    "an input without a type": (
        lambda s: s.description.input[0].ClearField("type"),
        r"'image' is of no type; a function takes arrays and images alone",
    ),
    "an input of text": (
        lambda s: s.description.input[0].type.stringType.SetInParent(),
        r"'image' is a string; a function takes arrays and images alone",
    ),
    "an input of another name": (
        lambda s: setattr(s.description.input[0], "name", "other"),
        r"the function has no input 'other'; the description has no input 'image'",
    ),
    "an input twice": (_twice, "there are several inputs 'image'"),
    "an input that is a state": (
        _state,
        r"the function has no input 'image'; the description has no state 'image'",
    ),
    "a state that the program has not": (
        lambda s: s.description.state.add(name="memory").type.stateType.arrayType.shape.append(1),
        "the function has no state 'memory'",
    ),
    "an input that is a list": (
        lambda s: typed(main_function(s).inputs[0].type.listType, 1, dtype="fp32"),
        "the function's input 'image' is not a tensor",
    ),
    "a negative size": (
        lambda s: s.description.input[0].type.multiArrayType.shape.append(-4),
        r"'image' has the shape \(1, 1, 28, 28, -4\)",
    ),
}


@pytest.mark.parametrize("case", EDITS)
def test_what_does_not_agree_is_told(case, tmp_path):
    edit, message = EDITS[case]
    package = copy_fixture("digits_ios15", tmp_path)
    edit_spec(package, edit)
    with pytest.raises(ModelFormatError, match=f"do not agree: .*{message}"):
        mlpass.Interpreter(package)


def test_a_state_that_is_no_tensor_is_told(tmp_path):
    package = copy_fixture("stateful_lm", tmp_path)

    def edit(spec: Model) -> None:
        for value in main_function(spec).inputs:
            if value.type.WhichOneof("type") == "stateType":
                typed(value.type.stateType.wrappedType.listType, 1, dtype="fp32")

    edit_spec(package, edit)
    with pytest.raises(ModelFormatError, match="the function's state 'keys' is not a tensor"):
        mlpass.Interpreter(package)


def test_the_part_of_a_pipeline_is_named(tmp_path):
    package = copy_fixture("digits_pipeline", tmp_path)
    edit_spec(
        package, lambda s: setattr(s.pipeline.models[0].description.input[0], "name", "other")
    )
    with pytest.raises(ModelFormatError, match=r"digits_pipeline.mlpackage part '.+': function"):
        mlpass.Interpreter(package)
