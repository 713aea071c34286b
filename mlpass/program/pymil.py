"""A coremltools pymil `Program` as a graph, to be read."""

from __future__ import annotations

from typing import Any

import numpy as np

from mlpass.errors import ModelFormatError
from mlpass.program.dtypes import BY_NAME, pack_elements
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

_OLDEST_OPSET = 13


def read_program(program: Any) -> Program:
    """Returns a pymil program as a graph that reads the program's own arrays.

    Raises:
        ModelFormatError: it has a type that MIL does not.
    """
    functions = {name: _function(name, function) for name, function in program.functions.items()}
    opset = max((function.opset for function in functions.values()), default=_OLDEST_OPSET)
    return Program("", functions, opset)


def _function(name: str, function: Any) -> Function:
    target = function.opset_version
    opset = _OLDEST_OPSET if target is None else int(target.name.removeprefix("iOS"))
    values: dict[Any, Value] = {}
    inputs = []
    for input_name, variable in function.inputs.items():
        values[variable] = Value(input_name, _type(variable.sym_type))
        inputs.append(values[variable])
    return Function(name, _block(function, tuple(inputs), values), opset)


def _block(block: Any, inputs: tuple[Value, ...], values: dict[Any, Value]) -> Block:
    ops = tuple(_op(op, values) for op in block.operations)
    return Block(inputs, ops, tuple(values[variable] for variable in block.outputs))


def _op(op: Any, values: dict[Any, Value]) -> Op:
    blocks = []
    for nested in op.blocks:
        inputs = []
        for variable in nested.inputs:
            values[variable] = Value(variable.name, _type(variable.sym_type))
            inputs.append(values[variable])
        blocks.append(_block(nested, tuple(inputs), values))
    arguments: dict[str, tuple[Argument, ...]] = {}
    if op.op_type == "const":
        arguments["val"] = (_constant(op.outputs[0]),)
    else:
        for parameter, given in op.inputs.items():
            if given is None or parameter.startswith("_"):
                continue
            several = given if isinstance(given, list | tuple) else (given,)
            arguments[parameter] = tuple(
                values[variable] if variable in values else _constant(variable)
                for variable in several
            )
    for variable in op.outputs:
        values[variable] = Value(variable.name, _type(variable.sym_type))
    outputs = tuple(values[variable] for variable in op.outputs)
    return Op(op.op_type, op.name, arguments, outputs, tuple(blocks))


def _constant(variable: Any) -> Constant:
    """Returns the value of a variable that is known before the program runs."""
    kind = _type(variable.sym_type)
    if variable.val is None:
        raise ModelFormatError(f"{variable.name!r} is read before it is made, and is no constant")
    if isinstance(kind, TensorType) and kind.dtype != "string":
        dtype = BY_NAME[kind.dtype]
        return Constant(kind, lambda: pack_elements(_array(variable.val, kind.dtype), dtype))
    return Constant(kind, lambda: _plain(variable.val))


def _array(value: Any, dtype: str) -> Any:
    return np.asarray(value).astype(str(BY_NAME[dtype].numpy), copy=False)


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return str(value)
    if isinstance(value, np.ndarray):
        return value.tolist()
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _type(builtin: Any) -> ValueType:
    from coremltools.converters.mil.mil import types

    if types.is_tensor(builtin):
        dtype = types.builtin_to_string(builtin.get_primitive())
        shape = tuple(
            size if isinstance(size, int) else _size(size) for size in builtin.get_shape()
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
        raise ModelFormatError(f"type {name!r} is none of MIL's")
    return TensorType(name, ())


def _size(size: Any) -> int | None:
    """Returns a size that is a number of numpy's; a symbol is an unknown size."""
    return int(size) if isinstance(size, np.integer) else None
