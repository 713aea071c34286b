"""Ops as messages of MIL's protobuf form: those there are, and new ones; `milproto.py` decodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from mlpass.program import ir
from mlpass.program.dtypes import BY_NAME
from mlpass.program.proto import MIL

_FIRST_OPSET_WITH_CONSTEXPR_INPUTS = 18


def all_operations(block: Any) -> Iterator[tuple[Any, Any]]:
    """Yields (the list it is in, operation) for every operation message, nested ones included."""
    for operation in block.operations:
        yield block.operations, operation
        for nested in operation.blocks:
            yield from all_operations(nested)


def encode_op(
    op: ir.Op, opset: int, store: Callable[[ir.Constant], tuple[str, int]] | None = None
) -> Any:
    """Returns a new op, a `const` or a `constexpr_*`, as a message.

    Args:
        op: the op.
        opset: iOS version; from 18 on, the parameters of a `constexpr_*` are inputs.
        store: writes a constant to a weight file and returns (file name, offset); needed where the
            op has one that goes there.
    """
    message = MIL.Operation(type=op.type)
    name = message.attributes["name"]
    name.type.tensorType.dataType = MIL.STRING
    name.immediateValue.tensor.strings.values.append(op.name)
    as_attributes = op.type == "const" or opset < _FIRST_OPSET_WITH_CONSTEXPR_INPUTS
    for parameter, (argument,) in op.inputs.items():
        if isinstance(argument, ir.Value):
            message.inputs[parameter].arguments.add(name=argument.name)
            continue
        if as_attributes:
            value = message.attributes[parameter]
        else:
            value = message.inputs[parameter].arguments.add().value
        _encode_constant(argument, value, store)
    for output in op.outputs:
        named = message.outputs.add(name=output.name)
        _encode_type(output.type, named.type)
    return message


def _encode_type(value_type: ir.ValueType, message: Any) -> None:
    assert isinstance(value_type, ir.TensorType)  # all that a new op can have
    tensor = message.tensorType
    tensor.dataType = BY_NAME[value_type.dtype].proto
    tensor.rank = len(value_type.shape)
    for size in value_type.shape:
        tensor.dimensions.add().constant.size = size or 0


def _encode_constant(
    constant: ir.Constant, message: Any, store: Callable[[ir.Constant], tuple[str, int]] | None
) -> None:
    _encode_type(constant.type, message.type)
    if constant.in_file and store is not None:
        file_name, offset = store(constant)
        message.blobFileValue.fileName = file_name
        message.blobFileValue.offset = offset
        return
    tensor = message.immediateValue.tensor
    if constant.dtype.name == "fp32":
        tensor.floats.SetInParent()  # marks which field holds the values, even an empty one
        tensor.floats.values.extend(constant.read().reshape(-1).tolist())
    elif constant.dtype.name == "int32":
        tensor.ints.SetInParent()
        tensor.ints.values.extend(constant.read().reshape(-1).tolist())
    elif constant.dtype.name == "bool":
        tensor.bools.values.extend(constant.read().reshape(-1).tolist())
    else:
        tensor.bytes.values = constant.load().tobytes()
