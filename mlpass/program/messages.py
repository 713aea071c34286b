"""Ops as messages of MIL's protobuf form: those there are, and new ones; `milproto.py` decodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from mlpass.program import ir
from mlpass.program.dtypes import BY_NAME
from mlpass.program.proto import MIL

# Where a message states elements; those of all other types are in its bytes.
_FIELDS = {
    "bool": "bools",
    "fp32": "floats",
    **dict.fromkeys(("int16", "int32", "uint16"), "ints"),
    "string": "strings",
}
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
    """Returns a new op as a message.

    Args:
        op: the op, without blocks of its own.
        opset: iOS version; from 18 on, the parameters of a `constexpr_*` are inputs.
        store: writes a constant to a weight file and returns (file name, offset); needed where the
            op has one that goes there.
    """
    message = MIL.Operation(type=op.type)
    name = message.attributes["name"]
    name.type.tensorType.dataType = MIL.STRING
    name.immediateValue.tensor.strings.values.append(op.name)
    older = op.type.startswith("constexpr_") and opset < _FIRST_OPSET_WITH_CONSTEXPR_INPUTS
    for parameter, arguments in op.inputs.items():
        if op.type == "const" or (older and isinstance(arguments[0], ir.Constant)):
            (stated,) = arguments
            assert isinstance(stated, ir.Constant)  # a const has no other
            _encode_constant(stated, message.attributes[parameter], store)
        else:
            encode_arguments(arguments, message.inputs[parameter], store)
    for output in op.outputs:
        named = message.outputs.add(name=output.name)
        _encode_type(output.type, named.type)
    return message


def encode_arguments(
    arguments: Sequence[ir.Argument],
    message: Any,
    store: Callable[[ir.Constant], tuple[str, int]] | None = None,
) -> None:
    """Adds arguments to the message of one of an op's inputs."""
    for argument in arguments:
        if isinstance(argument, ir.Value):
            message.arguments.add(name=argument.name)
        else:
            _encode_constant(argument, message.arguments.add().value, store)


def _encode_type(value_type: ir.ValueType, message: Any) -> None:
    assert isinstance(value_type, ir.TensorType)  # all that a new op can have
    tensor = message.tensorType
    tensor.dataType = BY_NAME[value_type.dtype].proto
    tensor.rank = len(value_type.shape)
    for size in value_type.shape:
        dimension = tensor.dimensions.add()
        if size is None:
            dimension.unknown.SetInParent()
        else:
            dimension.constant.size = size


def _encode_constant(
    constant: ir.Constant, message: Any, store: Callable[[ir.Constant], tuple[str, int]] | None
) -> None:
    _encode_type(constant.type, message.type)
    if constant.in_file and store is not None:
        file_name, offset = store(constant)
        message.blobFileValue.fileName = file_name
        message.blobFileValue.offset = offset
        return
    tensor, kind = message.immediateValue.tensor, constant.dtype.name
    if kind not in _FIELDS:
        tensor.bytes.values = constant.load().tobytes()
        return
    field, value = getattr(tensor, _FIELDS[kind]), constant.read()
    field.SetInParent()  # marks which field holds the values, even of an empty one
    field.values.extend([value] if kind == "string" else value.reshape(-1).tolist())
