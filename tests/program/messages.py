"""Messages of small programs, to decode, to break and to encode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mlpass.errors import ModelFormatError
from mlpass.program import ir
from mlpass.program.dtypes import BY_NAME
from mlpass.program.milproto import MilProto
from mlpass.program.proto import MIL
from tests.program.packages import named, typed

FLOAT = BY_NAME["fp32"].proto


class NoBlobs:
    """A weight file in which every blob is broken."""

    def read(self, offset: int, dtype: object, count: int, first: int | None = None) -> ir.Raw:
        raise ModelFormatError("no such blob")

    def check(self, offset: int, dtype: object, count: int) -> None:
        raise ModelFormatError("no such blob")


def decode(program: Any) -> ir.Program:
    """Returns the graph of a program message whose weight files are all broken."""
    return MilProto(program, "part", lambda _: NoBlobs()).program


def small_program() -> Any:
    """Returns the message of `y = relu(x); return y`, with two constants: fp32 [2] and int32 []."""
    program = MIL.Program(version=1)
    function = program.functions["main"]
    function.opset = "CoreML7"
    block = function.block_specializations["CoreML7"]
    typed(function.inputs.add(name="x"), 2)
    constant = block.operations.add(type="const")
    named(constant, "weight")
    typed(constant.attributes["val"], 2).immediateValue.tensor.floats.values.extend([1.5, -2])
    typed(constant.outputs.add(name="weight"), 2)
    axis = block.operations.add(type="const")
    named(axis, "axis")
    typed(axis.attributes["val"], dtype="int32").immediateValue.tensor.ints.values.append(-1)
    typed(axis.outputs.add(name="axis"), dtype="int32")
    relu = block.operations.add(type="relu")
    named(relu, "relu_0")
    relu.inputs["x"].arguments.add(name="x")
    typed(relu.outputs.add(name="y"), 2)
    block.outputs.append("y")
    return program


def block_of(program: Any) -> Any:
    function = program.functions["main"]
    return function.block_specializations[function.opset]


def weight_of(program: Any) -> Any:
    return block_of(program).operations[0].attributes["val"]


def nested(kind: str) -> Callable[[Any], None]:
    """Returns an edit that gives the relu an attribute `extra`: ["a", "b"], as list or tuple."""

    def edit(program: Any) -> None:
        value = block_of(program).operations[2].attributes["extra"]
        for word in ("a", "b"):
            item = getattr(value.immediateValue, kind).values.add()
            typed(item, dtype="string").immediateValue.tensor.strings.values.append(word)
        if kind == "list":
            typed(value.type.listType, dtype="string")
            value.type.listType.length.constant.size = 2
        else:
            for _ in range(2):
                value.type.tupleType.types.add().tensorType.dataType = MIL.STRING

    return edit


def mapping(program: Any) -> Any:
    """Gives the relu an attribute `extra` of {"a": 1}, and returns its one pair."""
    value = block_of(program).operations[2].attributes["extra"]
    value.type.dictionaryType.keyType.tensorType.dataType = MIL.STRING
    value.type.dictionaryType.valueType.tensorType.dataType = MIL.INT32
    pair = value.immediateValue.dictionary.values.add()
    typed(pair.key, dtype="string").immediateValue.tensor.strings.values.append("a")
    typed(pair.value, dtype="int32").immediateValue.tensor.ints.values.append(1)
    return pair
