"""Compressed weights as plain arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from mlpass.errors import ModelFormatError
from mlpass.program.ir import Constant, Op, Value
from mlpass.runtime.kernels import constexpr as _  # noqa: F401  (registers its kernels)
from mlpass.runtime.kernels.arguments import read
from mlpass.runtime.kernels.registry import find_kernel, find_kinds


def materialize(parts: Sequence[Op], opset: int) -> NDArray[np.generic]:
    """Returns the weight that a chain of `constexpr_*` ops makes.

    Args:
        parts: the ops in order of execution (constants among them are fine), the weight's own last.
        opset: iOS version.

    Raises:
        ModelFormatError: a part is broken, or of an unknown kind.
    """
    values: dict[Value, object] = {}
    for op in parts:
        arguments = {
            parameter: argument.read() if isinstance(argument, Constant) else values[argument]
            for parameter, (argument,) in op.inputs.items()
        }
        made = (arguments["val"],) if op.type == "const" else decompress(op, arguments, opset)
        values.update(zip(op.outputs, made, strict=True))
    return np.asarray(values[parts[-1].outputs[-1]])


def decompress(op: Op, arguments: Mapping[str, object], opset: int) -> tuple[object, ...]:
    """Returns what one `constexpr_*` op makes of its arguments, in the order of its outputs.

    Raises:
        ModelFormatError: the op is unknown in this opset, or broken: the text says how.
    """
    where = f"{op.outputs[-1].name}: broken {op.type}"
    function = find_kernel(op.type, opset)
    if function is None:
        raise ModelFormatError(f"{op.outputs[-1].name}: {op.type} is unknown in iOS{opset}")
    try:
        made = function(np, **read(find_kinds(op.type, opset), arguments))
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        raise ModelFormatError(f"{where}: {error}") from None
    results = made if isinstance(made, tuple) else (made,)
    shapes = [getattr(value.type, "shape", None) for value in op.outputs]
    if [np.shape(result) for result in results] != shapes:
        raise ModelFormatError(f"{where}: it does not make what its outputs say, {shapes}")
    return results
