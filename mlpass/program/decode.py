"""MIL's protobuf form, decoded into the graph of `ir.py`."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping
from functools import partial
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from mlpass.errors import ModelFormatError
from mlpass.program import ir
from mlpass.program.dtypes import BY_NAME, BY_PROTO, DType
from mlpass.program.messages import OpList, stated_tensor

if TYPE_CHECKING:
    from mlpass.program.proto import Message

# What nests here is never deeper than protobuf parses (100 messages), so recursion is safe.
_MOST_ELEMENTS = 1 << 48  # more than any file holds, and few enough for numpy to count their bytes
_HIGHEST_RANK = 64  # numpy's
_STRING = BY_NAME["string"].proto


class BlobReader(Protocol):
    """Where blobs are read: see `blobs.BlobFile`."""

    def read(
        self, offset: int, dtype: DType, count: int, start: int = 0, stop: int | None = None
    ) -> ir.Raw:
        """Returns the stored bytes of a blob, or those of a run of its elements."""

    def check(self, offset: int, dtype: DType, count: int) -> None:
        """Raises ModelFormatError where there is no such blob."""


class Place(NamedTuple):
    """Where the message of an op is."""

    ops: OpList
    number: int
    message: Message
    function: str


class Decoded(NamedTuple):
    """What a program's message says.

    Attributes:
        functions: by name.
        blocks: by function, those of all opsets that it is written for.
        places: of all ops in them.
        blobs: every constant that is stored in a weight file, with its message.
    """

    functions: dict[str, ir.Function]
    blocks: dict[str, list[ir.Block]]
    places: dict[ir.Op, Place]
    blobs: dict[ir.Constant, Message]


def decode(message: Message, open_blobs: Callable[[str], BlobReader], prefix: str = "") -> Decoded:
    """Returns what `message`, a MIL.proto Program, says.

    Args:
        message: of the program.
        open_blobs: opens the weight file that a message names.
        prefix: goes before the names of weight files where constants say what they are in.

    Raises:
        ModelFormatError: the message is not a program that can be read; nothing is half-read.
    """
    decoder = _Decoder(open_blobs, prefix)
    decoder.attributes(message.attributes, "the program")
    functions = {key: decoder.function(key, value) for key, value in _ordered(message.functions)}
    return Decoded(functions, decoder.blocks, decoder.places, decoder.blobs)


class _Decoder:
    """A program being decoded, part by part; the methods take where they are, for errors."""

    def __init__(self, open_blobs: Callable[[str], BlobReader], prefix: str) -> None:
        self._open_blobs, self._prefix = open_blobs, prefix
        self._types: dict[bytes, ir.ValueType] = {}
        self._stated: set[ir.Value] = set()
        self._function = ""
        self.blocks: dict[str, list[ir.Block]] = {}
        self.places: dict[ir.Op, Place] = {}
        self.blobs: dict[ir.Constant, Message] = {}

    def function(self, name: str, message: Message) -> ir.Function:
        where = f"function {name!r}"
        opset = opset_number(message.opset)
        if message.opset not in message.block_specializations:
            raise ModelFormatError(f"{where}: has no block for its opset {message.opset!r}")
        inputs = tuple(self._named(named, where) for named in message.inputs)
        self.attributes(message.attributes, where)
        self._function = name
        blocks = {}
        for other, block in _ordered(message.block_specializations):  # all of them keep their blobs
            scope = {value.name: value for value in inputs}
            blocks[other] = self._block(block, inputs, scope, where)
        self.blocks[name] = [*blocks.values()]
        return ir.Function(name, blocks[message.opset], opset)

    def attributes(self, attributes: Mapping[str, Message], where: str) -> None:
        """Checks what is stated beside a program's, a function's or a block's content."""
        for key, value in _ordered(attributes):
            self._constant(value, f"{where}, {key}")

    def _block(
        self, message: Message, inputs: tuple[ir.Value, ...], scope: dict[str, ir.Value], where: str
    ) -> ir.Block:
        self.attributes(message.attributes, where)
        listed = OpList(message.operations)
        ops = tuple(
            [self._op(op, listed, at, scope, where) for at, op in enumerate(message.operations)]
        )
        outputs = tuple(_lookup(scope, name, f"{where}, its outputs") for name in message.outputs)
        return ir.Block(inputs, ops, outputs)

    def _op(
        self,
        message: Message,
        listed: OpList,
        number: int,
        scope: dict[str, ir.Value],
        where: str,
    ) -> ir.Op:
        kind, made = message.type, message.outputs
        where = f"{where}, op {made[0].name if made else kind!r} ({kind})"
        name = ""
        inputs: dict[str, tuple[ir.Argument, ...]] = {}
        attributes, given = message.attributes, message.inputs
        for parameter in sorted(attributes):
            if parameter == "name":
                name = self._text(attributes[parameter], where)
            else:
                stated = self._constant(attributes[parameter], f"{where}, {parameter}")
                inputs[parameter] = (stated,)
        for parameter in sorted(given):
            inputs[parameter] = tuple(
                [
                    _lookup(scope, binding.name, where)
                    if binding.name or binding.WhichOneof("binding") == "name"
                    else self._constant(binding.value, where)
                    for binding in given[parameter].arguments
                ]
            )
        blocks = []
        for nested in message.blocks:
            values = tuple(self._named(named, where) for named in nested.inputs)
            inner = {**scope, **{value.name: value for value in values}}
            blocks.append(self._block(nested, values, inner, where))
        outputs = tuple([self._named(named, where) for named in made])
        for value in outputs:
            scope[value.name] = value
        op = ir.Op(kind, name, inputs, outputs, tuple(blocks))
        if kind == "const":
            _check_const(op, where)
        elif kind.startswith("constexpr_"):
            self._check_constexpr(op, where)
        if kind.startswith("const"):
            self._stated.update(outputs)
        self.places[op] = Place(listed, number, message, self._function)
        return op

    def _check_constexpr(self, op: ir.Op, where: str) -> None:
        """Raises ModelFormatError where an op cannot be run before all else."""
        if not op.outputs or not all(isinstance(v.type, ir.TensorType) for v in op.outputs):
            raise ModelFormatError(f"{where}: must make tensors")
        for parameter, arguments in op.inputs.items():
            if len(arguments) != 1:
                raise ModelFormatError(f"{where}: has {len(arguments)} arguments for {parameter!r}")
            if isinstance(arguments[0], ir.Value) and arguments[0] not in self._stated:
                raise ModelFormatError(f"{where}: its {parameter!r} is not a constant")

    def _text(self, message: Message, where: str) -> str:
        """Returns an op's name."""
        stated, kind = message.immediateValue.tensor.strings.values, message.type.tensorType
        if len(stated) == 1 and kind.dataType == _STRING and not kind.dimensions:
            return str(stated[0])
        value = self._constant(message, f"{where}, name").read()
        if not isinstance(value, str):
            raise ModelFormatError(f"{where}: its name is not text")
        return value

    def _named(self, message: Message, where: str) -> ir.Value:
        name = message.name
        return ir.Value(name, self._type(message.type, where, name))

    def _type(self, message: Message, where: str, name: str | None = None) -> ir.ValueType:
        """Returns a type; most of a program's are a few, each of which is decoded once."""
        stated = message.SerializeToString()
        known = self._types.get(stated)
        if known is None:
            where = where if name is None else f"{where}, {name!r}"
            known = self._types[stated] = _decode_type(message, where)
        return known

    def _constant(self, message: Message, where: str) -> ir.Constant:
        value_type = self._type(message.type, where)
        if message.WhichOneof("value") != "blobFileValue":
            return ir.Constant(value_type, self._immediate(message, value_type, where))
        if not isinstance(value_type, ir.TensorType) or None in value_type.shape:
            raise ModelFormatError(f"{where}: a weight file cannot hold a {value_type}")
        file_name, offset = message.blobFileValue.fileName, message.blobFileValue.offset
        dtype, count = BY_NAME[value_type.dtype], value_type.size
        try:
            reader = self._open_blobs(file_name)
            reader.check(offset, dtype, count)
        except ModelFormatError as error:
            raise ModelFormatError(f"{where}: {error}") from None
        read = partial(reader.read, offset, dtype, count)
        place = (self._prefix + file_name, offset)
        constant = ir.Constant(value_type, read, place, in_file=True, part=read)
        self.blobs[constant] = message
        return constant

    def _immediate(
        self, message: Message, value_type: ir.ValueType, where: str
    ) -> Callable[[], Any]:
        """Returns what reads a value from the message; what it is made of is decoded at once."""
        kind = message.immediateValue.WhichOneof("value")
        value: Any = getattr(message.immediateValue, kind) if kind else None
        if kind == "tensor" and isinstance(value_type, ir.TensorType):
            return lambda: stated_tensor(value, value_type, where)
        if kind in ("list", "tuple"):
            items = [self._constant(item, where) for item in value.values]
            return lambda: [item.read() for item in items]
        if kind == "dictionary":
            pairs = [
                (self._constant(item.key, where), self._constant(item.value, where))
                for item in value.values
            ]
            if any(getattr(key.type, "shape", None) != () for key, _ in pairs):
                raise ModelFormatError(f"{where}: its keys are not single values")
            return lambda: {_key(key.read()): value.read() for key, value in pairs}
        raise ModelFormatError(f"{where}: states no value of its type {value_type}")


def opset_number(name: str) -> int:
    """Returns the iOS version of an opset, e.g. 17 for "CoreML7".

    Raises:
        ModelFormatError: it is not an opset of Core ML.
    """
    match = re.fullmatch(r"CoreML(\d{1,3})", name)
    if not match:
        raise ModelFormatError(f"opset {name!r} is not one of Core ML's (CoreML5, CoreML6, ...)")
    number = int(match.group(1))
    return number + 10 if number <= 8 else number + 17  # after iOS18 came iOS26


def _ordered(mapping: Mapping[str, Message]) -> list[tuple[str, Message]]:
    """Returns the items of a protobuf map by key: its own order is another in every process."""
    return [(key, mapping[key]) for key in sorted(mapping)]


def _key(value: Any) -> Hashable:
    return value if isinstance(value, str) else value.item()


def _check_const(op: ir.Op, where: str) -> None:
    """Raises ModelFormatError where a const op does not state one value of its output's type."""
    (value,) = op.inputs.get("val", (None,))
    if not isinstance(value, ir.Constant) or len(op.inputs) != 1 or len(op.outputs) != 1:
        raise ModelFormatError(f"{where}: must state one value, its val")
    output = op.outputs[0].type
    if value.type is not output and isinstance(output, ir.TensorType) and value.type != output:
        raise ModelFormatError(f"{where}: states a {value.type}, its output is a {output}")


def _lookup(scope: dict[str, ir.Value], name: str, where: str) -> ir.Value:
    value = scope.get(name)
    if value is None:
        raise ModelFormatError(f"{where}: reads {name!r}, which nothing before it makes")
    return value


def _decode_type(message: Message, where: str) -> ir.ValueType:
    kind = message.WhichOneof("type")
    if kind == "tensorType":
        tensor = message.tensorType
        if tensor.dataType not in BY_PROTO:
            raise ModelFormatError(f"{where}: unknown element type {tensor.dataType}")
        shape = tuple(
            dim.constant.size if dim.WhichOneof("dimension") == "constant" else None
            for dim in tensor.dimensions
        )
        most = prod(max(1, size or 1) for size in shape)
        if most > _MOST_ELEMENTS or len(shape) > _HIGHEST_RANK:
            raise ModelFormatError(f"{where}: no tensor can have the shape {shape}")
        return ir.TensorType(BY_PROTO[tensor.dataType].name, shape)
    if kind == "listType":
        known = message.listType.length.WhichOneof("dimension") == "constant"
        length = message.listType.length.constant.size if known else None
        return ir.ListType(_decode_type(message.listType.type, where), length)
    if kind == "tupleType":
        return ir.TupleType(tuple(_decode_type(item, where) for item in message.tupleType.types))
    if kind == "dictionaryType":
        dictionary = message.dictionaryType
        return ir.DictionaryType(
            _decode_type(dictionary.keyType, where), _decode_type(dictionary.valueType, where)
        )
    if kind == "stateType":
        return ir.StateType(_decode_type(message.stateType.wrappedType, where))
    raise ModelFormatError(f"{where}: has no type")
