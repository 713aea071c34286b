"""Raising an iOS15 program to iOS16, the first opset with sparse weights.

Four ops gained parameters in iOS16. Their defaults mean what the iOS15 ops did; they are stated
outright, as coremltools does when it raises a program.
"""

from __future__ import annotations

from typing import Any

from mlpass.program.milproto import all_operations, opset_number
from mlpass.program.proto import MIL

_SPARSE_OPSET = 16
_SPARSE_OPSET_NAME = "CoreML6"
_SPARSE_SPECIFICATION_VERSION = 7

_NEW_PARAMETERS: dict[str, dict[str, tuple[str, bool | int | float]]] = {
    "crop_resize": {"pad_value": ("float", 0.0)},
    "gather": {"batch_dims": ("int", 0)},
    "gather_nd": {"batch_dims": ("int", 0)},
    "topk": {"sort": ("bool", True), "return_indices": ("bool", True)},
}


def raise_to_sparse(model: Any, program: Any) -> bool:
    """Raises a model message and its program to iOS16 where they are older; returns whether so."""
    raised = False
    for name in list(program.functions):
        function = program.functions[name]
        if opset_number(function.opset) >= _SPARSE_OPSET:
            continue
        block = function.block_specializations[_SPARSE_OPSET_NAME]
        block.CopyFrom(function.block_specializations[function.opset])
        del function.block_specializations[function.opset]
        function.opset = _SPARSE_OPSET_NAME
        _state_defaults(block)
        raised = True
    if raised:
        model.specificationVersion = max(model.specificationVersion, _SPARSE_SPECIFICATION_VERSION)
    return raised


def _state_defaults(block: Any) -> None:
    for container, operation in list(all_operations(block)):
        for parameter, (kind, value) in _NEW_PARAMETERS.get(operation.type, {}).items():
            if parameter in operation.inputs or not operation.outputs:
                continue
            label = f"{operation.outputs[0].name}_{parameter}_default"
            dtype, index = operation.outputs[0].type.tensorType.dataType, 0
            if kind == "float" and dtype == MIL.FLOAT16:
                kind = "half"
            index = next(i for i, other in enumerate(container) if other is operation)
            container.insert(index, _scalar_const(label, kind, value))
            operation.inputs[parameter].arguments.add(name=label)


def _scalar_const(name: str, kind: str, value: bool | int | float) -> Any:
    """Returns a const operation message that makes one scalar."""
    operation = MIL.Operation(type="const")
    label = operation.attributes["name"]
    label.type.tensorType.dataType = MIL.STRING
    label.immediateValue.tensor.strings.values.append(name)
    stated = operation.attributes["val"]
    tensor = stated.immediateValue.tensor
    if kind == "int":
        stated.type.tensorType.dataType = MIL.INT32
        tensor.ints.values.append(value)
    elif kind == "bool":
        stated.type.tensorType.dataType = MIL.BOOL
        tensor.bools.values.append(value)
    elif kind == "float":
        stated.type.tensorType.dataType = MIL.FLOAT32
        tensor.floats.values.append(value)
    else:
        stated.type.tensorType.dataType = MIL.FLOAT16
        tensor.bytes.values = bytes(2)  # only ever 0.0
    operation.outputs.add(name=name).type.CopyFrom(stated.type)
    return operation
