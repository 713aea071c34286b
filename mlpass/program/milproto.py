"""MIL's protobuf form and the graph of `ir.py`: decode one into the other, and new ops back."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, MutableSequence, Sequence
from functools import partial
from math import prod
from typing import TYPE_CHECKING, Any, Protocol

from mlpass.errors import ModelFormatError
from mlpass.program import ir
from mlpass.program.dtypes import BY_NAME, BY_PROTO, DType
from mlpass.program.folding import fold_program
from mlpass.program.messages import encode_op, stated_tensor
from mlpass.program.names import names_in, with_free_names

if TYPE_CHECKING:
    from mlpass.program.proto import Message

# What nests here is never deeper than protobuf parses (100 messages), so recursion is safe.
_MOST_ELEMENTS = 1 << 48  # more than any file holds, and few enough for numpy to count their bytes
_HIGHEST_RANK = 64  # numpy's


class BlobReader(Protocol):
    """Where blobs are read: see `blobs.BlobFile`."""

    def read(
        self, offset: int, dtype: DType, count: int, start: int = 0, stop: int | None = None
    ) -> ir.Raw:
        """Returns the stored bytes of a blob, or those of a run of its elements."""

    def check(self, offset: int, dtype: DType, count: int) -> None:
        """Raises ModelFormatError where there is no such blob."""


class MilProto:
    """A MIL program message, with the graph decoded from it and the way back to the message.

    Attributes:
        message: the message.
        program: the graph.
        blobs: every constant of the graph that is stored in a weight file, with its message.
        names: by function, those that are taken in it.
        sparse: the functions that got ops which are not plain constants.
    """

    def __init__(
        self, message: Message, name: str, open_blobs: Callable[[str], BlobReader]
    ) -> None:
        """Decodes `message`, a MIL.proto Program.

        Args:
            message: kept, and edited by `replace`.
            name: which part of a pipeline it is.
            open_blobs: opens the weight file that a message names.

        Raises:
            ModelFormatError: the message is not a program that can be read; nothing is half-read.
        """
        self.message = message
        self._open_blobs = open_blobs
        self._places: dict[ir.Op, tuple[MutableSequence[Message], Message]] = {}
        self._functions: dict[ir.Op, str] = {}
        self._types: dict[bytes, ir.ValueType] = {}
        self._stated: set[ir.Value] = set()
        self.blobs: dict[ir.Constant, Message] = {}
        self.names: dict[str, set[str]] = {}
        self.sparse: set[str] = set()
        self._attributes(message.attributes, "the program")
        functions = {key: self._function(key, value) for key, value in _ordered(message.functions)}
        opset = max((function.opset for function in functions.values()), default=0)
        self.program, self._origins = fold_program(ir.Program(name, functions, opset))
        for new, old in self._origins.items():
            self._places[new], self._functions[new] = self._places[old], self._functions[old]
        self._stand_ins = {old: new for new, old in self._origins.items()}
        self._readers: Counter[ir.Value] = Counter()
        self._makers: dict[ir.Value, ir.Op] = {}
        self._halves: set[ir.Value] = set()
        for function in functions.values():
            self._note_readers(function.block)

    def owns(self, op: ir.Op) -> bool:
        """Returns whether `op` is one of this program's, and not replaced yet."""
        return op in self._places

    def replace(
        self,
        op: ir.Op,
        new_ops: Sequence[ir.Op],
        store: Callable[[ir.Constant], tuple[str, int]],
        opset: int | None = None,
    ) -> None:
        """Puts `new_ops` in the place of `op`, of this program.

        Args:
            op: what it makes keeps its names, as the last new op does; what only it reads goes.
            new_ops: in order of execution; all else about them gets names that are free.
            store: writes a constant to a weight file and returns (file name, offset).
            opset: that they are written for; None for the function's own.
        """
        container, message = self._places.pop(op)
        for arguments in op.inputs.values():
            for argument in arguments:
                self.blobs.pop(argument, None)  # type: ignore[arg-type]
        self._note_reads(new_ops)
        self._let_go(self._origins.get(op, op))
        function = self._functions[op]
        if any(new.type != "const" for new in new_ops):
            self.sparse.add(function)
        opset = opset or self.program.functions[function].opset
        named = with_free_names(new_ops, self.names[function], op.outputs)
        *before, last = (encode_op(new, opset, store) for new in named)
        if before:
            index = _index_of(message, container)
            for position, extra in enumerate(before):
                container.insert(index + position, extra)
        message.CopyFrom(last)

    def other_halves(self) -> list[tuple[ir.Op, ir.Constant]]:
        """Returns what still reads weights of which other parts were replaced, and what it makes.

        Stored by themselves, such slices take no more than they do in the whole.
        """
        found = []
        for op, origin in self._origins.items():
            (made,) = op.inputs.get("val", (None,))
            reads = {one for arguments in origin.inputs.values() for one in arguments}
            if isinstance(made, ir.Constant) and op in self._places and reads & self._halves:
                found += [(op, made)] if made.nbytes <= made.stored_nbytes else []
        return found

    def _note_readers(self, block: ir.Block) -> None:
        """Counts who reads each value."""
        for op in block.walk():
            self._makers.update((value, op) for value in op.outputs)
        self._note_reads(block.walk())
        for nested in block.walk_blocks():
            self._readers.update(nested.outputs)

    def _note_reads(self, ops: Iterable[ir.Op]) -> None:
        read = (one for op in ops for arguments in op.inputs.values() for one in arguments)
        self._readers.update(one for one in read if isinstance(one, ir.Value))

    def _let_go(self, op: ir.Op) -> None:
        """Takes what an op that was replaced reads out of the message, where nothing else does."""
        waiting = [op]
        while waiting:
            for arguments in waiting.pop().inputs.values():
                for argument in arguments:
                    self.blobs.pop(argument, None)  # type: ignore[arg-type]
                    if not isinstance(argument, ir.Value):
                        continue
                    self._readers[argument] -= 1
                    if getattr(argument.type, "dtype", "").startswith("fp"):
                        self._halves.add(argument)
                    maker = self._makers.get(argument)
                    if maker in self._places and not any(map(self._readers.get, maker.outputs)):
                        container, message = self._places.pop(maker)
                        self._places.pop(self._stand_ins.get(maker, maker), None)
                        del container[_index_of(message, container)]
                        waiting.append(maker)

    def _function(self, name: str, message: Message) -> ir.Function:
        where = f"function {name!r}"
        opset = opset_number(message.opset)
        if message.opset not in message.block_specializations:
            raise ModelFormatError(f"{where}: has no block for its opset {message.opset!r}")
        inputs = tuple(self._named(named, where) for named in message.inputs)
        self._attributes(message.attributes, where)
        blocks = {}
        for other, block in _ordered(message.block_specializations):  # all of them keep their blobs
            scope = {value.name: value for value in inputs}
            blocks[other] = self._block(block, inputs, scope, where)
        self._functions.update((op, name) for block in blocks.values() for op in block.walk())
        self.names[name] = names_in(blocks.values())
        return ir.Function(name, blocks[message.opset], opset)

    def _block(
        self, message: Message, inputs: tuple[ir.Value, ...], scope: dict[str, ir.Value], where: str
    ) -> ir.Block:
        self._attributes(message.attributes, where)
        ops = tuple(self._op(op, message.operations, scope, where) for op in message.operations)
        outputs = tuple(_lookup(scope, name, f"{where}, its outputs") for name in message.outputs)
        return ir.Block(inputs, ops, outputs)

    def _op(
        self,
        message: Message,
        container: MutableSequence[Message],
        scope: dict[str, ir.Value],
        where: str,
    ) -> ir.Op:
        label = message.outputs[0].name if message.outputs else message.type
        where = f"{where}, op {label!r} ({message.type})"
        name = ""
        inputs: dict[str, tuple[ir.Argument, ...]] = {}
        for parameter, constant in self._attributes(message.attributes, where).items():
            if parameter == "name":
                name = _text(constant, where)
            else:
                inputs[parameter] = (constant,)
        for parameter, argument in _ordered(message.inputs):
            inputs[parameter] = tuple(
                _lookup(scope, binding.name, where)
                if binding.WhichOneof("binding") == "name"
                else self._constant(binding.value, where)
                for binding in argument.arguments
            )
        blocks = []
        for nested in message.blocks:
            values = tuple(self._named(named, where) for named in nested.inputs)
            inner = {**scope, **{value.name: value for value in values}}
            blocks.append(self._block(nested, values, inner, where))
        outputs = tuple(self._named(named, where) for named in message.outputs)
        scope.update((value.name, value) for value in outputs)
        op = ir.Op(message.type, name, inputs, outputs, tuple(blocks))
        if op.type == "const":
            _check_const(op, where)
        elif op.type.startswith("constexpr_"):
            self._check_constexpr(op, where)
        if op.type.startswith("const"):
            self._stated.update(op.outputs)
        self._places[op] = (container, message)
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

    def _attributes(self, attributes: Mapping[str, Message], where: str) -> dict[str, ir.Constant]:
        return {
            key: self._constant(value, f"{where}, {key}") for key, value in _ordered(attributes)
        }

    def _named(self, message: Message, where: str) -> ir.Value:
        return ir.Value(message.name, self._type(message.type, f"{where}, {message.name!r}"))

    def _type(self, message: Message, where: str) -> ir.ValueType:
        """Returns a type; most of a program's are a few, each of which is decoded once."""
        stated = message.SerializeToString()
        if stated not in self._types:
            self._types[stated] = _decode_type(message, where)
        return self._types[stated]

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
        constant = ir.Constant(value_type, read, (file_name, offset), in_file=True, part=read)
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


def _index_of(message: Message, container: Iterable[Message]) -> int:
    return next(index for index, candidate in enumerate(container) if candidate is message)


def _ordered(mapping: Mapping[str, Message]) -> list[tuple[str, Message]]:
    """Returns the items of a protobuf map by key: its own order is another in every process."""
    return [(key, mapping[key]) for key in sorted(mapping)]


def _text(constant: ir.Constant, where: str) -> str:
    value = constant.read()
    if not isinstance(value, str):
        raise ModelFormatError(f"{where}: its name is not text")
    return value


def _key(value: Any) -> Hashable:
    return value if isinstance(value, str) else value.item()


def _check_const(op: ir.Op, where: str) -> None:
    """Raises ModelFormatError where a const op does not state one value of its output's type."""
    (value,) = op.inputs.get("val", (None,))
    if not isinstance(value, ir.Constant) or len(op.inputs) != 1 or len(op.outputs) != 1:
        raise ModelFormatError(f"{where}: must state one value, its val")
    output = op.outputs[0].type
    if isinstance(output, ir.TensorType) and value.type != output:
        raise ModelFormatError(f"{where}: states a {value.type}, its output is a {output}")


def _lookup(scope: dict[str, ir.Value], name: str, where: str) -> ir.Value:
    if name not in scope:
        raise ModelFormatError(f"{where}: reads {name!r}, which nothing before it makes")
    return scope[name]


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
