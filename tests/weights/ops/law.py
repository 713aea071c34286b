"""The law of inputs: times the weight's matrix, they are what the op's own kernel computes."""

from __future__ import annotations

import array_api_strict
import numpy as np
import pytest
import torch
from array_api_compat import torch as torch_namespace

from mlpass.errors import NotApplicable
from mlpass.runtime.backends.base import load_kernels
from mlpass.runtime.kernels.arguments import read
from mlpass.runtime.kernels.registry import find_kernel, find_kinds
from mlpass.weights.ops.record import WEIGHT_OPS, layout_of

load_kernels("numpy")
load_kernels("torch")

RNG = np.random.default_rng(7)
# Each with what makes its arrays.
NAMESPACES = {
    "numpy": (np, np.asarray),
    "torch": (torch_namespace, lambda array: torch.from_numpy(np.array(array))),
    "strict": (array_api_strict, array_api_strict.asarray),
}
SCALARS = (str, int, np.integer)
over_namespaces = pytest.mark.parametrize("namespace", NAMESPACES)


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def given(arguments, namespace):
    """Returns arguments with their float arrays as the namespace's own."""
    make = NAMESPACES[namespace][1]

    def convert(value):
        if isinstance(value, tuple):
            return tuple(map(convert, value))
        is_data = isinstance(value, np.ndarray) and value.dtype == np.float32
        return make(value) if is_data else value

    return {name: convert(value) for name, value in arguments.items()}


def kernel_of(op_type, namespace, opset=18):
    backend = "torch" if namespace == "torch" else "numpy"
    function, kinds = find_kernel(op_type, opset, backend), find_kinds(op_type, opset, backend)
    return lambda xp, **arguments: function(xp, **read(kinds, arguments))


def chunks_of(op_type, parameter, arguments, xp=np, kernel=None, position=0):
    """Returns what a record makes of arguments."""
    return WEIGHT_OPS[op_type][parameter].inputs(xp, arguments, kernel, position)


def inputs_of(op_type, parameter, arguments, namespace, position=0, opset=18):
    """Returns the inputs of a weight as one numpy array, its chunks joined."""
    kernel = kernel_of(op_type, namespace, opset)
    own = given(arguments, namespace)
    chunks = chunks_of(op_type, parameter, own, NAMESPACES[namespace][0], kernel, position)
    return np.concatenate([np.asarray(chunk) for chunk in chunks], axis=1)


def matrix_of(op_type, parameter, arguments, position=0):
    """Returns a weight as (groups, rows, columns)."""
    weight = arguments[parameter]
    weight = weight[position] if isinstance(weight, tuple) else weight
    settings = {name: value for name, value in arguments.items() if isinstance(value, SCALARS)}
    layout = layout_of(op_type, parameter, position, weight.shape, settings)
    groups, rows, channels, positions = layout.sizes
    return layout.split(weight).reshape(groups, rows, channels * positions)


def check(op_type, parameter, arguments, namespace, rows_of, position=0):
    """Fails where inputs times matrix is not the kernel's output, as `rows_of` arranges it."""
    xp = NAMESPACES[namespace][0]
    inputs = inputs_of(op_type, parameter, arguments, namespace, position)
    matrix = matrix_of(op_type, parameter, arguments, position)
    output = kernel_of(op_type, namespace)(xp, **given(arguments, namespace))
    wanted = rows_of(np.asarray(output))
    found = inputs @ matrix.swapaxes(1, 2)
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
    outputs = WEIGHT_OPS[op_type][parameter].outputs
    if outputs is None:  # it is not linear in the weight
        return
    vector = any(np.ndim(arguments.get(name)) == 1 for name in ("x", "y") if op_type == "matmul")
    if vector:
        with pytest.raises(NotApplicable, match="matmul of a vector has no samples"):
            outputs(xp, output, given(arguments, namespace), position)
        return
    arranged = outputs(xp, output, given(arguments, namespace), position)
    np.testing.assert_array_equal(np.asarray(arranged), wanted)
