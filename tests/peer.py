"""coremltools as the judge: what it reads in a package that mlpass wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

_PIPELINES = ("pipeline", "pipelineClassifier", "pipelineRegressor")


def load_programs(package: Path) -> list[Any]:
    """Returns the pymil programs of a package, as coremltools loads them."""
    from coremltools.converters.mil.frontend.milproto.load import load
    from coremltools.models import MLModel

    model = MLModel(str(package), skip_model_load=True)
    return [
        load(part, part.specificationVersion, model.weights_dir) for part in parts(model.get_spec())
    ]


def parts(spec: Any) -> list[Any]:
    """Returns the model messages with an ML Program, pipelines taken apart."""
    kind = spec.WhichOneof("Type")
    if kind == "mlProgram":
        return [spec]
    assert kind in _PIPELINES
    return [inner for part in getattr(spec, kind).models for inner in parts(part)]


def walk(block: Any) -> list[Any]:
    """Returns the ops of a pymil block, nested ones after the op they belong to."""
    ops = []
    for op in block.operations:
        ops.append(op)
        for nested in op.blocks:
            ops += walk(nested)
    return ops


def all_ops(programs: list[Any]) -> list[Any]:
    """Returns the ops of all functions of pymil programs."""
    return [
        op
        for program in programs
        for function in program.functions.values()
        for op in walk(function)
    ]


def is_constant(var: Any) -> bool:
    """Returns whether a const or constexpr op makes a variable."""
    return var.op is not None and (
        var.op.op_type == "const" or var.op.op_type.startswith("constexpr_")
    )


def running_ops(ops: list[Any]) -> list[Any]:
    """Returns the ops that a program runs: all but const and constexpr."""
    return [op for op in ops if op.op_type != "const" and not op.op_type.startswith("constexpr_")]


def described(op: Any) -> tuple[Any, ...]:
    """Returns an op's type, and its results with their types."""
    return op.op_type, [(out.name, out.shape, out.dtype) for out in op.outputs]


def inputs(op: Any) -> list[tuple[str, Any]]:
    """Returns (parameter, variable) of all inputs of an op, variadic ones one by one."""
    pairs = []
    for parameter, value in sorted(op.inputs.items()):
        values = value if isinstance(value, tuple | list) else [value]
        pairs += [(parameter, var) for var in values if var is not None]
    return pairs


def value_of(op: Any) -> Any:
    """Returns what a const or constexpr op makes, compressed ones decoded by coremltools."""
    if op.op_type == "const":
        return op.outputs[0].val
    value = op.materialized_val_inference()
    return value[-1] if isinstance(value, tuple) else value


def same(first: Any, second: Any) -> bool:
    """Returns whether two constants are equal to the bit; for -0 and NaN, too."""
    if isinstance(first, np.ndarray) or isinstance(second, np.ndarray):
        first, second = np.asarray(first), np.asarray(second)
        return (
            first.dtype == second.dtype
            and first.shape == second.shape
            and first.tobytes() == second.tobytes()
        )
    return bool(first == second)


def key_of(var: Any) -> tuple[str, tuple[int, ...]]:
    """Returns a variable's name and shape; lists and words have none."""
    from coremltools.converters.mil.mil import ListVar

    return var.name, () if isinstance(var, ListVar) else tuple(var.shape)
