"""MIL's messages as they are decoded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlpass.errors import ModelFormatError
from mlpass.program import ir
from mlpass.program.decode import opset_number
from mlpass.program.dtypes import BY_NAME
from mlpass.program.ir import Op, TensorType, Value
from mlpass.program.mlpackage import Package
from tests.program.messages import (
    FLOAT,
    block_of,
    decode,
    mapping,
    nested,
    small_program,
    weight_of,
)
from tests.program.packages import FIXTURES, first_of, main_block, operations, read_spec, typed


def test_a_program_is_decoded() -> None:
    program = decode(small_program())
    function = program.functions["main"]
    weight, axis, relu = function.block.ops

    assert (program.name, program.opset, function.name, function.opset) == ("part", 17, "main", 17)
    assert [value.name for value in function.block.inputs] == ["x"]
    assert (weight.type, weight.name, relu.type, relu.name) == ("const", "weight", "relu", "relu_0")
    assert weight.inputs["val"][0].read().tolist() == [1.5, -2]
    assert axis.inputs["val"][0].read() == -1
    assert axis.inputs["val"][0].shape == ()
    assert relu.inputs["x"] == function.block.inputs
    assert relu.outputs == function.block.outputs
    assert relu.outputs[0].type == TensorType("fp32", (2,))


STATED = [
    ("bool", "bools", [True, False]),
    ("fp16", "bytes", np.array([1.5, -2], np.float16)),
    ("fp32", "floats", [1.5, -2]),
    ("fp64", "doubles", [1e300, -2]),
    ("int4", "bytes", np.array([0x7F], np.uint8)),
    ("int8", "bytes", np.array([1, -2], np.int8)),
    ("int32", "ints", [1, -(1 << 31)]),
    ("int64", "longInts", [1, -(1 << 63)]),
    ("uint1", "bytes", np.array([0b01], np.uint8)),
    ("uint16", "bytes", np.array([1, 65535], np.uint16)),
]


@pytest.mark.parametrize(("dtype", "kind", "values"), STATED, ids=[row[0] for row in STATED])
def test_a_stated_tensor_is_read(dtype: str, kind: str, values: Any) -> None:
    program = small_program()
    tensor = weight_of(program).immediateValue.tensor
    tensor.Clear()
    if kind == "bytes":
        tensor.bytes.values = values.tobytes()
    else:
        getattr(tensor, kind).values.extend(values)
    for message in (weight_of(program), block_of(program).operations[0].outputs[0]):
        message.type.tensorType.dataType = BY_NAME[dtype].proto
    expected = {"int4": [-1, 7], "uint1": [1, 0]}.get(dtype, list(values))

    constant = decode(program).functions["main"].block.ops[0].inputs["val"][0]
    assert constant.dtype.name == dtype
    assert constant.read().tolist() == [getattr(v, "item", lambda v=v: v)() for v in expected]


def test_lists_tuples_and_dictionaries_are_read() -> None:
    for edit, expected in (
        (nested("list"), ["a", "b"]),
        (nested("tuple"), ["a", "b"]),
        (mapping, {"a": 1}),
    ):
        program = small_program()
        edit(program)
        relu = decode(program).functions["main"].block.ops[2]
        assert relu.inputs["extra"][0].read() == expected


def test_a_state_is_a_type() -> None:
    program = small_program()
    state = program.functions["main"].inputs.add(name="cache")
    state.type.stateType.wrappedType.tensorType.dataType = FLOAT

    cache = decode(program).functions["main"].block.inputs[1]
    assert cache.type == ir.StateType(TensorType("fp32", ()))


def test_an_unknown_size_is_none() -> None:
    program = small_program()
    program.functions["main"].inputs[0].type.tensorType.dimensions[0].unknown.variadic = False

    x = decode(program).functions["main"].block.inputs[0]
    assert x.type == TensorType("fp32", (None,))


def test_a_nested_block_reads_what_is_around_it_and_keeps_its_own_to_itself() -> None:
    program = small_program()
    block = block_of(program)
    outer = block.operations.add(type="cond")
    typed(outer.outputs.add(name="z"), 2)
    for word in ("inner", "inner"):  # each branch has values of the same names
        inner = outer.blocks.add()
        relu = inner.operations.add(type="relu")
        relu.inputs["x"].arguments.add(name="y")
        typed(relu.outputs.add(name=word), 2)
        inner.outputs.append(word)

    graph = decode(program).functions["main"].block
    cond = graph.ops[-1]
    first, second = (nested.ops[0] for nested in cond.blocks)
    assert first.inputs["x"] == second.inputs["x"] == graph.outputs
    assert first.outputs[0] is not second.outputs[0]
    assert list(graph.walk()) == [*graph.ops, first, second]
    block.outputs.append("inner")
    with pytest.raises(ModelFormatError, match="reads 'inner', which nothing before it makes"):
        decode(program)


def test_opsets_are_counted_by_ios_version() -> None:
    assert [opset_number(f"CoreML{n}") for n in (5, 6, 7, 8, 9, 10)] == [15, 16, 17, 18, 26, 27]
    for name in ("", "CoreML", "CoreMLx", "CoreML7 ", "CoreML7\n", "CoreML-7", "CoreML9999"):
        with pytest.raises(ModelFormatError, match="is not one of Core ML's"):
            opset_number(name)


def test_fixtures_are_decoded_op_by_op(package: Path) -> None:
    """Every op of every fixture is there, in order, with its name and the names it reads."""
    spec = read_spec(package)
    with Package(package) as opened:
        ops = [op for p in opened.programs for f in p.functions.values() for op in f.block.walk()]
    messages = operations(spec)

    assert sorted(_digest(op) for op in ops) == sorted(_digest_message(m) for m in messages)


def _digest(op: Op) -> tuple[object, ...]:
    reads = [
        (parameter, argument.name)
        for parameter, arguments in op.inputs.items()
        for argument in arguments
        if isinstance(argument, Value)
    ]
    return op.type, op.name, tuple(value.name for value in op.outputs), tuple(sorted(reads))


def _digest_message(message: Any) -> tuple[object, ...]:
    reads = [
        (parameter, binding.name)
        for parameter, argument in message.inputs.items()
        for binding in argument.arguments
        if binding.WhichOneof("binding") == "name"
    ]
    names = message.attributes["name"].immediateValue.tensor.strings.values
    return message.type, names[0], tuple(o.name for o in message.outputs), tuple(sorted(reads))


def test_the_helpers_find_what_they_should() -> None:
    spec = read_spec(FIXTURES / "branches.mlpackage")
    assert first_of(spec, "cond") in main_block(spec).operations
    assert len(operations(spec)) > len(main_block(spec).operations)
