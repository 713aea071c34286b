"""Raising an iOS15 program to iOS16, the first opset with sparse weights.

Four ops gained parameters in iOS16. Their defaults mean what the iOS15 ops did; they are stated
outright, as coremltools does when it raises a program.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mlpass.program.dtypes import BY_PROTO
from mlpass.program.ir import Constant, Op, Value
from mlpass.program.messages import all_operations, encode_op
from mlpass.program.milproto import MilProto, opset_number
from mlpass.program.names import free_name

_SPARSE_OPSET = 16
_SPARSE_OPSET_NAME = "CoreML6"
_SPARSE_SPECIFICATION_VERSION = 7

_NEW_PARAMETERS: dict[str, dict[str, bool | int | float]] = {
    "crop_resize": {"pad_value": 0.0},
    "gather": {"batch_dims": 0},
    "gather_nd": {"batch_dims": 0},
    "topk": {"sort": True, "return_indices": True},
}


def raise_to_sparse(model: Any, part: MilProto) -> None:
    """Raises the functions of a program that got sparse weights to iOS16, where they are older.

    Args:
        model: the message that the program is in; its specification version is raised along.
        part: the program.
    """
    for name in sorted(part.sparse):
        function = part.message.functions[name]
        if opset_number(function.opset) >= _SPARSE_OPSET:
            continue
        block = function.block_specializations[_SPARSE_OPSET_NAME]
        block.CopyFrom(function.block_specializations[function.opset])
        del function.block_specializations[function.opset]
        function.opset = _SPARSE_OPSET_NAME
        _state_defaults(block, part.names[name])
        model.specificationVersion = max(model.specificationVersion, _SPARSE_SPECIFICATION_VERSION)


def _state_defaults(block: object, taken: set[str]) -> None:
    for container, operation in list(all_operations(block)):
        for parameter, value in _NEW_PARAMETERS.get(operation.type, {}).items():
            if parameter in operation.inputs or not operation.outputs:
                continue
            (name, value_type) = operation.outputs[0].name, operation.outputs[0].type
            label = free_name(f"{name}_{parameter}_default", taken)
            constant = _scalar(value, BY_PROTO[value_type.tensorType.dataType].name)
            const = Op("const", label, {"val": (constant,)}, (Value(label, constant.type),))
            index = next(i for i, other in enumerate(container) if other is operation)
            container.insert(index, encode_op(const, _SPARSE_OPSET))
            operation.inputs[parameter].arguments.add(name=label)


def _scalar(value: bool | int | float, float_dtype: str) -> Constant:
    """Returns a scalar constant: an int32, a bool, or a float of the given type."""
    if isinstance(value, float):
        return Constant.of(np.array(value, np.float16 if float_dtype == "fp16" else np.float32))
    return Constant.of(np.array(value, bool if isinstance(value, bool) else np.int32))
