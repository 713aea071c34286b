"""A program as readable text: one line an op, constants by type and place, blocks indented."""

from __future__ import annotations

from collections.abc import Iterator

from mlpass.program.ir import (
    Argument,
    Block,
    Constant,
    DictionaryType,
    ListType,
    Op,
    Program,
    StateType,
    TensorType,
    TupleType,
    Value,
    ValueType,
)


def program_text(program: Program) -> str:
    """Returns a program as text, its functions in the order of their names."""
    lines: list[str] = []
    for name in sorted(program.functions):
        function = program.functions[name]
        lines.append(f"{name}({_values(function.block.inputs)}) [iOS{function.opset}]")
        lines += _block_lines(function.block, "  ")
    return "\n".join(lines) + "\n"


def type_text(value_type: ValueType) -> str:
    """Returns a type as text, e.g. "fp16[1, 64]"; an unknown size is "?"."""
    match value_type:
        case TensorType(dtype, shape):
            return f"{dtype}[{', '.join('?' if size is None else str(size) for size in shape)}]"
        case ListType(element, length):
            return f"list[{type_text(element)}, {'?' if length is None else length}]"
        case TupleType(elements):
            return f"tuple[{', '.join(map(type_text, elements))}]"
        case DictionaryType(key, value):
            return f"dict[{type_text(key)}, {type_text(value)}]"
        case StateType(tensor):
            return f"state[{type_text(tensor)}]"


def _block_lines(block: Block, indent: str) -> Iterator[str]:
    for op in block.ops:
        yield indent + _op_text(op)
        for nested in op.blocks:
            yield f"{indent}  ({_values(nested.inputs)}):"
            yield from _block_lines(nested, indent + "    ")
    yield f"{indent}-> {', '.join(value.name for value in block.outputs)}"


def _op_text(op: Op) -> str:
    inputs = ", ".join(
        f"{parameter}={', '.join(map(_argument_text, op.inputs[parameter]))}"
        for parameter in sorted(op.inputs)
    )
    return f"{_values(op.outputs)} = {op.type}({inputs})"


def _values(values: tuple[Value, ...]) -> str:
    return ", ".join(f"{value.name}: {type_text(value.type)}" for value in values)


def _argument_text(argument: Argument) -> str:
    """Returns a value's name, a small constant's value, or what a large one is."""
    if isinstance(argument, Value):
        return argument.name
    if argument.in_file:
        return f"<{type_text(argument.type)} in file>"
    return _constant_text(argument)


def _constant_text(constant: Constant) -> str:
    value = constant.read()
    return repr(value.tolist() if hasattr(value, "tolist") else value)
