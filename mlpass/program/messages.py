"""Messages of MIL's protobuf form: ops, old and new, and the tensors that they state."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, MutableSequence, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mlpass.errors import ModelFormatError
from mlpass.program import ir
from mlpass.program.dtypes import BY_NAME, DType, pack_elements, unpack_elements
from mlpass.program.proto import MIL

if TYPE_CHECKING:
    from mlpass.program.proto import Message

# Where a message states elements; those of all other types are in its bytes.
_FIELDS = {
    "bool": "bools",
    "fp32": "floats",
    **dict.fromkeys(("int16", "int32", "uint16"), "ints"),
    "string": "strings",
}
_FIRST_OPSET_WITH_CONSTEXPR_INPUTS = 18


def all_operations(block: Message) -> Iterator[tuple[MutableSequence[Message], Message]]:
    """Yields (the list it is in, operation) for every operation message, nested ones included."""
    for operation in block.operations:
        yield block.operations, operation
        for nested in operation.blocks:
            yield from all_operations(nested)


class OpList:
    """The messages of a block's ops, each of which is found at once however much was edited.

    An op is known by its number: its place in the list as it was read. New ones get that of the op
    that they come before.
    """

    def __init__(self, messages: MutableSequence[Message]) -> None:
        """Numbers `messages`, the list of a block."""
        self._messages = messages
        self._numbers = list(range(len(messages)))

    def insert_before(self, number: int, new: Sequence[Message]) -> None:
        """Puts new ops, in order, right before the one of that number."""
        index = self._index(number)
        for position, message in enumerate(new, index):
            self._messages.insert(position, message)
        self._numbers[index:index] = [number] * len(new)

    def remove(self, number: int) -> None:
        """Takes out the op of that number."""
        index = self._index(number)
        del self._messages[index], self._numbers[index]

    def _index(self, number: int) -> int:
        return bisect_right(self._numbers, number) - 1


def encode_op(
    op: ir.Op, opset: int, store: Callable[[ir.Constant], tuple[str, int]] | None = None
) -> Message:
    """Returns a new op as a message.

    Args:
        op: the op, without blocks of its own.
        opset: iOS version; from 18 on, the parameters of a `constexpr_*` are inputs.
        store: writes a constant to a weight file and returns (file name, offset); needed where the
            op has one that goes there.
    """
    message: Message = MIL.Operation(type=op.type)
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
    message: Message,
    store: Callable[[ir.Constant], tuple[str, int]] | None = None,
) -> None:
    """Adds arguments to the message of one of an op's inputs."""
    for argument in arguments:
        if isinstance(argument, ir.Value):
            message.arguments.add(name=argument.name)
        else:
            _encode_constant(argument, message.arguments.add().value, store)


def _encode_type(value_type: ir.ValueType, message: Message) -> None:
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
    constant: ir.Constant, message: Message, store: Callable[[ir.Constant], tuple[str, int]] | None
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


def stated_tensor(message: Message, value_type: ir.TensorType, where: str) -> object:
    """Returns what the message of a tensor states: stored bytes; of strings, these.

    Raises:
        ModelFormatError: that is not what its type says; the text begins with `where`.
    """
    kind = message.WhichOneof("value")
    values: Any = getattr(message, kind).values if kind else ()
    dtype, count = BY_NAME[value_type.dtype], value_type.size
    if kind and (kind == "strings") != (dtype.name == "string"):
        raise ModelFormatError(f"{where}: its values are {kind}, not {dtype.name}")
    if dtype.name == "string":
        if len(values) != count:
            raise ModelFormatError(f"{where}: states {len(values)} strings where there are {count}")
        return values[0] if value_type.shape == () else list(values)
    if kind == "bytes":
        raw = np.frombuffer(values, np.uint8)
    elif dtype.numpy is None:
        raise ModelFormatError(f"{where}: {dtype.name} values are not stated as bytes")
    else:
        try:
            raw = pack_elements(_cast(np.asarray(values), dtype), dtype)
        except (ArithmeticError, ValueError, TypeError) as error:
            raise ModelFormatError(f"{where}: its values are not {dtype.name}: {error}") from None
    if raw.size != dtype.nbytes(count):
        raise ModelFormatError(
            f"{where}: states {raw.size} bytes where {count} elements of {dtype.name} "
            f"take {dtype.nbytes(count)}"
        )
    return raw


def _cast(values: NDArray[np.generic], dtype: DType) -> NDArray[np.generic]:
    """Returns stated values as elements of `dtype`, which floats may round to."""
    with np.errstate(over="raise"):
        elements: NDArray[np.generic] = values.astype(dtype.numpy)
    lost = elements.dtype.kind in "iu" and not np.array_equal(elements, values)
    if lost or (dtype.bits < 8 and not np.array_equal(elements, _trim(elements, dtype))):
        raise OverflowError("one is out of range")
    return elements


def _trim(elements: NDArray[np.generic], dtype: DType) -> NDArray[np.generic]:
    return unpack_elements(pack_elements(elements, dtype), dtype, elements.size)
