"""What an op reads, whatever the parameter."""

from __future__ import annotations

from collections.abc import Iterator

from mlpass.program.ir import Argument, Constant, Op, Value


def arguments_of(op: Op) -> Iterator[Argument]:
    """Yields all arguments of an op."""
    for arguments in op.inputs.values():
        yield from arguments


def values_of(op: Op) -> Iterator[Value]:
    """Yields the values that an op reads, each as often as it does."""
    return (one for one in arguments_of(op) if isinstance(one, Value))


def constants_of(op: Op) -> Iterator[Constant]:
    """Yields the constants that an op states."""
    return (one for one in arguments_of(op) if isinstance(one, Constant))
