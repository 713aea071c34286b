"""What the runtime asks of an op: its name for people, its kernel's name, its arguments."""

from __future__ import annotations

from collections.abc import Iterator

from mlpass.program.ir import Constant, Op, TensorType, Value, ValueType

Source = Value | Constant

CUSTOM_OP = "custom_layer"
_CUSTOM_ATTRIBUTES = frozenset(
    {"class_name", "input_order", "parameters", "weights", "description"}
)


def is_constant(op: Op) -> bool:
    """Returns whether an op states a constant, or decompresses one."""
    return op.type == "const" or op.type.startswith("constexpr_")


def label_of(op: Op) -> str:
    """Returns what to call an op: its name, else that of what it makes."""
    return op.name or (op.outputs[0].name if op.outputs else op.type)


def kernel_name(op: Op) -> str:
    """Returns the name that an op's kernel is registered by: a custom layer's is its class name."""
    if op.type != CUSTOM_OP or "class_name" not in op.inputs:
        return op.type
    (class_name,) = op.inputs["class_name"]
    return str(class_name.read()) if isinstance(class_name, Constant) else op.type


def parameters_of(op: Op) -> Iterator[tuple[str, tuple[Source, ...]]]:
    """Yields the parameters that an op's kernel is given, each with all its sources."""
    for parameter, sources in op.inputs.items():
        if op.type != CUSTOM_OP or parameter not in _CUSTOM_ATTRIBUTES:
            yield parameter, sources


def is_float(kind: ValueType) -> bool:
    """Returns whether values of this type are tensors of floats."""
    return isinstance(kind, TensorType) and kind.dtype.startswith(("fp", "bf"))
