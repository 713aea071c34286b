"""New ops in the place of an old one, and what a rewrite may know of the program around it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from mlpass.program.ir import Argument, Constant, Function, Op, TensorType, Value, ValueType

# A value of the program, or the element type and shape of a new one.
Result = Value | tuple[str, tuple[int | None, ...]]


class Refused(Exception):  # noqa: N818  (what names all such ops at once makes an error of it)
    """An op that cannot be said in the newer opset: its text says why."""


@dataclass(frozen=True)
class Facts:
    """What is known of the values of a function.

    Attributes:
        constants: those that the program states, and those that new ops do.
        makers: the op that makes each.
    """

    constants: dict[Value, Constant]
    makers: Mapping[Value, Op]

    @classmethod
    def of(cls, function: Function) -> Facts:
        """Returns the facts of a function."""
        constants: dict[Value, Constant] = {}
        makers: dict[Value, Op] = {}
        for op in function.block.walk():
            makers.update((value, op) for value in op.outputs)
            stated = op.inputs.get("val", (None,))[0] if op.type == "const" else None
            if isinstance(stated, Constant):
                constants[op.outputs[0]] = stated
        return cls(constants, makers)

    def constant(self, argument: Argument) -> Constant | None:
        """Returns the constant that an argument is, None where it is computed."""
        return argument if isinstance(argument, Constant) else self.constants.get(argument)


@dataclass(frozen=True)
class Builder:
    """New ops in the place of an old one.

    Attributes:
        op: the old one. Whatever makes one of its outputs keeps that one's name.
        facts: of the function that it is in.
        ops: the new ones, in order.
    """

    op: Op
    facts: Facts
    ops: list[Op] = field(default_factory=list)

    def input(self, parameter: str) -> Argument:
        """Returns the one argument of a parameter of the old op."""
        return self.op.inputs[parameter][0]

    def stated(self, parameter: str, default: Any = None) -> Any:
        """Returns the value of a parameter that the program states, as Python or numpy value.

        Raises:
            Refused: it is computed.
        """
        if parameter not in self.op.inputs:
            return default
        constant = self.facts.constant(self.input(parameter))
        if constant is None:
            raise Refused(f"its {parameter} is computed")
        value = constant.read()
        return value.item() if isinstance(value, np.ndarray) and value.shape == () else value

    def add(self, op_type: str, result: Result, **inputs: object) -> Value:
        """Adds an op, and returns its result.

        Args:
            op_type: of it.
            result: one of the old op's outputs, or the type and shape of a new value.
            **inputs: its arguments: values and constants of the program, or what becomes a
                constant: text, flags, whole numbers (int32) and numpy arrays.
        """
        return self.several(op_type, [result], **inputs)[0]

    def several(
        self, op_type: str, results: Sequence[Result], **inputs: object
    ) -> tuple[Value, ...]:
        """Adds an op of several results: see `add`."""
        name = f"{self.op.name or self.op.type}_{op_type}"
        arguments = {key: (self._argument(key, one),) for key, one in inputs.items()}
        outputs = tuple(
            one if isinstance(one, Value) else Value(f"{name}_{place}", TensorType(*one))
            for place, one in enumerate(results)
        )
        self.ops.append(Op(op_type, name, arguments, outputs))
        return outputs

    def again(self, **inputs: object) -> None:
        """Adds the old op itself, with other or further arguments, given as for `add`."""
        new = {key: (self._argument(key, one),) for key, one in inputs.items()}
        self.ops.append(replace(self.op, inputs={**self.op.inputs, **new}))

    def result(self) -> list[Op]:
        """Returns the new ops; the last has the old one's name."""
        return [*self.ops[:-1], replace(self.ops[-1], name=self.op.name)]

    def _argument(self, parameter: str, given: object) -> Argument:
        """Returns an argument; a const op states what is not a value yet, as in coremltools."""
        if isinstance(given, Value):
            return given
        constant = given if isinstance(given, Constant) else _constant(given)
        name = f"{self.op.outputs[0].name}_{parameter}"
        value = Value(name, constant.type)
        self.facts.constants[value] = constant
        self.ops.append(Op("const", name, {"val": (constant,)}, (value,)))
        return value


def like(argument: Argument) -> tuple[str, tuple[int | None, ...]]:
    """Returns the element type and shape of a tensor."""
    return dtype_of(argument), shape_of(argument)


def shape_of(argument: Argument) -> tuple[int | None, ...]:
    """Returns the shape of a tensor, None for each size that is unknown."""
    return _tensor_type(argument.type).shape


def dtype_of(argument: Argument) -> str:
    """Returns the element type of a tensor."""
    return _tensor_type(argument.type).dtype


def _tensor_type(value_type: ValueType) -> TensorType:
    if not isinstance(value_type, TensorType):
        raise Refused(f"it reads a {type(value_type).__name__} where a tensor is due")
    return value_type


def _constant(given: object) -> Constant:
    if isinstance(given, str):
        return Constant(TensorType("string", ()), lambda: given)
    array = np.asarray(given)
    return Constant.of(array.astype(np.int32) if array.dtype == np.int64 else array)
