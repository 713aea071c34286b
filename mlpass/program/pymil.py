"""A coremltools pymil `Program` as a graph; `pymil_edit.py` edits it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mlpass.errors import ModelFormatError
from mlpass.program.dtypes import BY_NAME, pack_elements
from mlpass.program.folding import fold_program
from mlpass.program.ir import (
    Argument,
    Block,
    Constant,
    DictionaryType,
    Function,
    ListType,
    Op,
    Program,
    StateType,
    TensorType,
    TupleType,
    Value,
    ValueType,
)
from mlpass.program.pymil_images import images_of, layout_of, preprocess

if TYPE_CHECKING:
    from mlpass.program.pymil_types import (
        Builtin,
        PymilBlock,
        PymilFunction,
        PymilOp,
        PymilProgram,
        Variable,
    )

_OLDEST_OPSET = 13
_SMALLEST_IN_FILE = 10  # elements; coremltools states fewer in the program's text
_FIRST_OPSET_WITH_ALL_IN_FILE = 18
_IN_FILE = frozenset({"fp16", "fp32", "int8", "uint8"})
_IN_FILE_FROM_IOS18 = _IN_FILE.union(
    {"int4", "int16", "int32", "uint1", "uint2", "uint3", "uint4", "uint6", "uint16", "uint32"}
)


@dataclass(frozen=True, eq=False)
class LiveProgram:
    """A pymil program with its graph.

    Attributes:
        graph: the program as a graph that reads the program's own arrays.
        ops: the pymil op that each op of the graph stands for.
        variables: the pymil variable that each value and each constant stands for.
    """

    graph: Program
    ops: Mapping[Op, PymilOp]
    variables: Mapping[Argument, Variable]


def read_program(program: PymilProgram) -> Program:
    """Returns a pymil program as a graph that reads the program's own arrays.

    Raises:
        ModelFormatError: it has a type that MIL does not.
    """
    return open_program(program).graph


def open_program(program: PymilProgram) -> LiveProgram:
    """Returns a pymil program with its graph, ready to be edited: see `pymil_edit`.

    Raises:
        ModelFormatError: it has a type that MIL does not.
    """
    ops: dict[Op, PymilOp] = {}
    variables: dict[Argument, Variable] = {}
    functions = {
        name: _Reader(opset_of(function), ops, variables).function(name, function)
        for name, function in program.functions.items()
    }
    opset = max((function.opset for function in functions.values()), default=_OLDEST_OPSET)
    graph, origins = fold_program(Program("", functions, opset))
    ops.update((new, ops[old]) for new, old in origins.items())
    return LiveProgram(graph, ops, variables)


def opset_of(function: PymilFunction) -> int:
    """Returns the iOS version of a pymil function's op set."""
    target = function.opset_version
    return _OLDEST_OPSET if target is None else int(target.name.removeprefix("iOS"))


@dataclass(frozen=True)
class _Reader:
    """Reads one function; `ops` and `variables` are those of `LiveProgram`, to be filled."""

    opset: int
    ops: dict[Op, PymilOp]
    variables: dict[Argument, Variable]
    values: dict[Variable, Value] = field(default_factory=dict)

    def function(self, name: str, function: PymilFunction) -> Function:
        inputs = {named: self._value(each, named) for named, each in function.inputs.items()}
        layouts, first = {}, []
        for named, image in images_of(function, name).items():
            variable = function.inputs[named]
            if layout := layout_of(image, inputs[named]):
                layouts[named] = layout
            for op in preprocess(image, variable, inputs[named]):
                self.values[variable] = op.outputs[0]
                first.append(op)
        block = self._block(function, tuple(inputs.values()))
        self.variables.update((value, variable) for variable, value in self.values.items())
        return Function(name, replace(block, ops=(*first, *block.ops)), self.opset, layouts)

    def _value(self, variable: Variable, name: str | None = None) -> Value:
        value = Value(name or variable.name, _type(variable.sym_type))
        self.values[variable] = value
        return value

    def _block(self, block: PymilBlock, inputs: tuple[Value, ...]) -> Block:
        ops = tuple(self._op(op) for op in block.operations if not _is_part(op))
        return Block(inputs, ops, tuple(self.values[variable] for variable in block.outputs))

    def _op(self, op: PymilOp) -> Op:
        blocks = tuple(
            self._block(nested, tuple(self._value(variable) for variable in nested.inputs))
            for nested in op.blocks
        )
        arguments: dict[str, tuple[Argument, ...]] = {}
        if op.op_type == "const":
            arguments["val"] = (self._constant(op.outputs[0]),)
        else:
            for parameter, given in op.inputs.items():
                if given is None or parameter.startswith("_"):
                    continue
                several = given if isinstance(given, list | tuple) else (given,)
                arguments[parameter] = tuple(self._argument(variable) for variable in several)
        outputs = tuple(self._value(variable) for variable in op.outputs)
        read = Op(op.op_type, op.name, arguments, outputs, blocks)
        self.ops[read] = op
        return read

    def _argument(self, variable: Variable) -> Argument:
        return self.values[variable] if variable in self.values else self._constant(variable)

    def _constant(self, variable: Variable) -> Constant:
        """Returns the value of a variable that is known before the program runs."""
        kind = _type(variable.sym_type)
        if variable.val is None:
            raise ModelFormatError(
                f"{variable.name!r} is read before it is made, and is not a constant"
            )
        if isinstance(kind, TensorType) and kind.dtype != "string":
            dtype = BY_NAME[kind.dtype]
            constant = Constant(
                kind,
                lambda: pack_elements(_array(variable.val, kind.dtype), dtype),
                ("", getattr(variable.op, "weight_id", None) or variable),
                self._goes_to_file(kind),
            )
        else:
            constant = Constant(kind, lambda: _plain(variable.val))
        self.variables[constant] = variable
        return constant

    def _goes_to_file(self, kind: TensorType) -> bool:
        """Returns whether coremltools will put a constant into a weight file."""
        dtypes = _IN_FILE if self.opset < _FIRST_OPSET_WITH_ALL_IN_FILE else _IN_FILE_FROM_IOS18
        return kind.size >= _SMALLEST_IN_FILE and kind.dtype in dtypes


def _is_part(op: PymilOp) -> bool:
    """Returns whether an op is a constant that only `constexpr_*` ops read: a part of those."""
    if op.op_type != "const" or op.outputs[0].consuming_blocks:
        return False
    readers = op.outputs[0].child_ops
    return bool(readers) and all(reader.op_type.startswith("constexpr_") for reader in readers)


def _array(value: object, dtype: str) -> NDArray[np.generic]:
    return np.asarray(value).astype(str(BY_NAME[dtype].numpy), copy=False)


def _plain(value: object) -> object:
    if isinstance(value, str):
        return str(value)
    if isinstance(value, np.ndarray):
        return value.tolist()
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _type(builtin: Builtin) -> ValueType:
    from coremltools.converters.mil.mil import types

    if types.is_tensor(builtin):
        dtype = types.builtin_to_string(builtin.get_primitive())
        # A size may be a number of numpy's; a symbol is an unknown one.
        shape = tuple(
            int(size) if isinstance(size, int | np.integer) else None
            for size in builtin.get_shape()
        )
        return TensorType("string" if dtype == "str" else dtype, shape)
    if types.is_state(builtin):
        return StateType(_type(builtin.wrapped_type()))
    if types.is_list(builtin):
        element, length, *_ = builtin.T
        return ListType(_type(element), length if isinstance(length, int) else None)
    if types.is_tuple(builtin):
        return TupleType(tuple(_type(element) for element in builtin.T))
    if types.is_dict(builtin):
        return DictionaryType(_type(builtin.T[0]), _type(builtin.T[1]))
    name = types.builtin_to_string(builtin)
    if name == "str":
        name = "string"
    if name not in BY_NAME:
        raise ModelFormatError(f"type {name!r} is not one of MIL's")
    return TensorType(name, ())
