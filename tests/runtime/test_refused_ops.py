"""Ops that cannot run are named before anything runs; custom ones run."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from programs import FIXTURES

from mlpass.errors import ExecutionError, ModelFormatError, UnsupportedOpError
from mlpass.program import ir
from mlpass.runtime.backends.base import open_backend
from mlpass.runtime.constants import Constants
from mlpass.runtime.execute import execute
from mlpass.runtime.function_plan import plan_function
from mlpass.runtime.interpreter import Interpreter
from mlpass.runtime.kernels.registry import kernel


def strange_program(*op_types: str) -> ir.Function:
    """Returns a function of ops of one parameter, one after another."""
    kind = ir.TensorType("fp32", (2,))
    values = [ir.Value("x", kind)]
    ops = []
    for number, op_type in enumerate(op_types):
        values.append(ir.Value(f"v{number}", kind))
        ops.append(ir.Op(op_type, f"op{number}", {"x": (values[-2],)}, (values[-1],)))
    return ir.Function("main", ir.Block((values[0],), tuple(ops), (values[-1],)), 17)


def test_unsupported_ops_are_all_named_before_anything_runs() -> None:
    open_backend("numpy")
    function = strange_program(
        "frobnicate", "relu", "twiddle", "frobnicate", "read_state", "linear"
    )
    text = (
        r"function 'main' \(iOS17, numpy\): no kernel for frobnicate \('op0', 'op3'\), "
        r"read_state before iOS18 \('op4'\), twiddle \('op2'\)\. "
        r"A kernel of your own is registered with .*kernel\(.*\); linear 'op5': lacks weight"
    )
    with pytest.raises(UnsupportedOpError) as caught:
        plan_function(function, "numpy")
    assert re.search(text, str(caught.value)), str(caught.value)


def test_malformed_ops_are_all_named() -> None:
    open_backend("numpy")
    with pytest.raises(ModelFormatError, match="conv 'op0': lacks weight; matmul 'op1': lacks y"):
        plan_function(strange_program("conv", "matmul"), "numpy")
    extra = strange_program("relu")
    (op,) = extra.block.ops
    op = ir.Op("relu", "op0", {**op.inputs, "slope": op.inputs["x"]}, op.outputs)
    block = ir.Block(extra.block.inputs, (op,), op.outputs)
    with pytest.raises(ModelFormatError, match="relu 'op0': has no parameter slope"):
        plan_function(ir.Function("main", block, 17), "numpy")
    with pytest.raises(ModelFormatError, match="cond 'op0': .*has 0 nested blocks, not 2"):
        plan_function(strange_program("cond"), "numpy")


def test_custom_kernel_is_used(forget_kernels: None) -> None:
    backend = open_backend("numpy")

    @kernel("twiddle")
    def twiddle(xp: Any, *, x: Any) -> Any:
        """x (...) -> x + 1."""
        return x + 1

    function = strange_program("twiddle", "twiddle")
    plan = plan_function(function, "numpy")
    constants = Constants(plan, backend, {})
    made = execute(plan, constants, backend, {function.block.inputs[0]: np.zeros(2)})
    assert made[function.block.outputs[0]].tolist() == [2, 2]


def custom_layer() -> ir.Function:
    kind, text = ir.TensorType("fp32", (2,)), ir.TensorType("string", ())
    x, out = ir.Value("x", kind), ir.Value("out", kind)
    inputs: dict[str, tuple[ir.Argument, ...]] = {
        "x": (x,),
        "class_name": (ir.Constant(text, lambda: "Sharpen"),),
        "description": (ir.Constant(text, lambda: "of a filter"),),
    }
    op = ir.Op("custom_layer", "mine", inputs, (out,))
    return ir.Function("main", ir.Block((x,), (op,), (out,)), 17)


def test_custom_layer_goes_by_its_class_name(forget_kernels: None) -> None:
    backend, function = open_backend("numpy"), custom_layer()
    with pytest.raises(
        UnsupportedOpError, match=r"custom layer 'Sharpen' \('mine'\)\. A kernel of"
    ):
        plan_function(function, "numpy")

    @kernel("Sharpen")
    def sharpen(xp: Any, *, x: Any) -> Any:
        return 3 * x

    plan = plan_function(function, "numpy")
    ones = {function.block.inputs[0]: np.ones(2)}
    made = execute(plan, Constants(plan, backend, {}), backend, ones)
    assert made[function.block.outputs[0]].tolist() == [3, 3]


def test_kernel_that_fails_says_where(forget_kernels: None) -> None:
    backend = open_backend("numpy")

    @kernel("twiddle")
    def twiddle(xp: Any, *, x: Any) -> Any:
        return 1 // 0

    @kernel("twaddle")
    def twaddle(xp: Any, *, x: Any) -> Any:
        return x, x

    for op_type, text in (
        ("twiddle", r"twiddle 'op0': ZeroDivisionError: .* \(arguments: x=\(2,\) \[0.0, 0.0\]\)"),
        ("twaddle", "twaddle 'op0': its kernel makes 2 results, the program expects 1"),
    ):
        function = strange_program(op_type)
        plan = plan_function(function, "numpy")
        zeros = {function.block.inputs[0]: np.zeros(2)}
        with pytest.raises(ExecutionError, match=text):
            execute(plan, Constants(plan, backend, {}), backend, zeros)


def test_pipeline_part_that_is_no_program() -> None:
    from mlpass.program.mlpackage import Package

    with Package(FIXTURES / "digits_pipeline.mlpackage") as package:
        package.spec.pipeline.models.add().wordTagger.SetInParent()
        with pytest.raises(UnsupportedOpError, match="a pipeline with parts of kind wordTagger"):
            Interpreter(package)


def test_problems_of_all_parts_of_a_pipeline_are_one_error() -> None:
    from mlpass.program.mlpackage import Package

    path = FIXTURES / "digits_pipeline.mlpackage"
    with Package(path) as package:
        spec = package.spec
    for model, old in zip(spec.pipeline.models, ("max_pool", "linear"), strict=True):
        for block in model.mlProgram.functions["main"].block_specializations.values():
            for operation in block.operations:
                if operation.type == old:
                    operation.type = f"odd_{old}"
    with Package(path, spec) as edited, pytest.raises(UnsupportedOpError) as caught:
        Interpreter(edited)
    assert re.search("no kernel for odd_max_pool .*no kernel for odd_linear", str(caught.value))
