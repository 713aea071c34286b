"""Raising a program to a newer opset, in its message: what did not change stays as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from mlpass.errors import ModelFormatError
from mlpass.program.ir import Constant, Function, Op, Value
from mlpass.program.messages import all_operations
from mlpass.program.milproto import MilProto
from mlpass.program.opsets.building import Facts, Refused
from mlpass.program.opsets.changes import check, raised
from mlpass.program.opsets.targets import opset_name, specification_version
from mlpass.program.reads import values_of

if TYPE_CHECKING:
    from mlpass.program.proto import Message

Store = Callable[[Constant], tuple[str, int]]


def refusals(function: Function, opset: int) -> list[str]:
    """Returns which ops of a function cannot be said in `opset`, each with the reason.

    Raises:
        ModelFormatError: a constant that decides about an op is broken.
    """
    found, facts = [], Facts.of(function)
    for op in function.block.walk():
        name = op.name or (op.outputs[0].name if op.outputs else "")
        try:
            check(op, facts, function.opset, opset)
            raised(op, facts, function.opset, opset)
        except Refused as reason:
            found.append(f"{op.type} {name!r}: {reason}")
        except ModelFormatError as error:
            raise ModelFormatError(f"{op.type} {name!r}: {error}") from None
        except (ArithmeticError, LookupError, TypeError, ValueError):
            found.append(f"{op.type} {name!r}: it is not formed as iOS{function.opset} has it")
    return found


def raise_functions(
    model: Message, part: MilProto, names: Iterable[str], opset: int, store: Store
) -> None:
    """Raises functions of a program to `opset`, those that are older.

    Args:
        model: the message that the program is in; its specification version is raised along.
        part: the program; decode its message again afterwards.
        names: of the functions.
        opset: none of their ops is refused by it.
        store: returns (file name, offset) for a constant that is in a weight file, or goes there.
    """
    for name in names:
        function = part.program.functions[name]
        if function.opset >= opset:
            continue
        facts, unread = Facts.of(function), set[Value]()
        for op in function.block.walk():
            new_ops = raised(op, facts, function.opset, opset)
            if new_ops != [op] and part.owns(op):
                part.replace(op, new_ops, store, opset)
                unread |= _read([op]) - _read(new_ops)
        message = part.message.functions[name]
        block = message.block_specializations[message.opset]
        _drop(block, {value.name for value in unread if value in facts.constants})
        new_block = message.block_specializations[opset_name(opset)]
        new_block.CopyFrom(block)
        del message.block_specializations[message.opset]
        message.opset = opset_name(opset)
        version = specification_version(opset)
        model.specificationVersion = max(model.specificationVersion, version)


def _read(ops: Sequence[Op]) -> set[Value]:
    """Returns the values that ops read."""
    return {value for op in ops for value in values_of(op)}


def _drop(block: Message, names: set[str]) -> None:
    """Takes out the constants of those names that nothing in a block reads any more."""
    read = set(block.outputs)
    for _, operation in all_operations(block):
        read.update(name for nested in operation.blocks for name in nested.outputs)
        for argument in operation.inputs.values():
            read.update(binding.name for binding in argument.arguments)
    _drop_constants(block, names - read)


def _drop_constants(block: Message, names: set[str]) -> None:
    """Takes out the constants of those names."""
    for index, operation in reversed([*enumerate(block.operations)]):
        if operation.type == "const" and operation.outputs[0].name in names:
            del block.operations[index]
        for nested in operation.blocks:
            _drop_constants(nested, names)
