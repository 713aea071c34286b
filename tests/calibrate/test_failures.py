"""Ops with senseless arguments: a calibrated run says which op and sample, as a prediction does."""

from __future__ import annotations

import re

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil.mil import Builder as mb

import mlpass
from mlpass import Percentile
from mlpass.errors import ExecutionError, ModelFormatError
from tests.program.packages import copy_fixture, edit_spec, first_of, operations
from tests.runtime.programs import convert, truth

ALL = mlpass.Config(global_config=Percentile(0.5), weight_threshold=0)


def _stated(spec, name):
    """Returns the value message of a const op by the name of what it makes."""
    (found,) = (op for op in operations(spec) if op.outputs and op.outputs[0].name == name)
    return found.attributes["val"]


def steering(op_type, parameter, *numbers):
    """Returns an edit that has the first op of a type be steered otherwise."""

    def edit(spec):
        (binding,) = first_of(spec, op_type).inputs[parameter].arguments
        value = _stated(spec, binding.name) if binding.name else binding.value
        tensor = value.immediateValue.tensor
        tensor.ClearField("value")
        tensor.ints.values.extend(numbers)

    return edit


def without(op_type, parameter):
    def edit(spec):
        del first_of(spec, op_type).inputs[parameter].arguments[:]

    return edit


# Each with the op that fails.
SENSELESS = {
    "strides of 0": (steering("conv", "strides", 0, 0), "conv"),
    "negative strides": (steering("conv", "strides", -1, -1), "conv"),
    "dilations of -1": (steering("conv", "dilations", -1, -1), "conv"),
    "dilations beyond the sample": (steering("conv", "dilations", 99, 99), "conv"),
    "negative padding": (steering("conv", "pad", -3, -3, -3, -3), "conv"),
    "three groups": (steering("conv", "groups", 3), "conv"),
    "no groups": (steering("conv", "groups", 0), "conv"),
    "groups below none": (steering("conv", "groups", -1), "conv"),
    "a window beyond the sample": (steering("max_pool", "kernel_sizes", 99, 99), "max_pool"),
    "a window of -1": (steering("max_pool", "kernel_sizes", -1, -1), "max_pool"),
    "pooling strides of 0": (steering("max_pool", "strides", 0, 0), "max_pool"),
}


def _sample_data(name, count=3):
    return [truth(name)[0]] * count


def _custom_padding(spec):
    """Lets a fixture's pad count: it is read where the type is custom alone."""
    (binding,) = first_of(spec, "conv").inputs["pad_type"].arguments
    value = _stated(spec, binding.name) if binding.name else binding.value
    value.immediateValue.tensor.strings.values[0] = "custom"


@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize("case", SENSELESS)
def test_a_senseless_argument_is_told_with_op_and_sample(case, backend, tmp_path):
    edit, op_type = SENSELESS[case]
    package = copy_fixture("digits_ios15", tmp_path)
    if case == "negative padding":
        edit_spec(package, _custom_padding)
    edit_spec(package, edit)
    samples = _sample_data("digits_ios15")
    with pytest.raises(ExecutionError) as predicted:
        mlpass.Interpreter(package, backend=backend).predict(samples[0])
    with pytest.raises(ExecutionError) as raised:
        mlpass.prune(
            package,
            tmp_path / "o.mlpackage",
            Percentile(0.5),
            sample_data=samples,
            backend=backend,
        )
    named = re.match(rf"{op_type} '([^']+)': ", str(predicted.value))
    assert named
    assert str(raised.value).startswith(f"sample 0: {op_type} {named[1]!r}: ")


def _of_any_length(build, tmp_path, *shape):
    """Returns a package whose input `x` has an axis of any size, given as None in its shape."""
    symbol = ct.converters.mil.mil.get_new_symbol()
    spec = mb.TensorSpec(tuple(symbol if size is None else size for size in shape))
    program = mb.program(input_specs=[spec], opset_version=ct.target.iOS17)(build)
    length = ct.RangeDim(1, 64, default=16)
    sizes = tuple(length if size is None else size for size in shape)
    path = tmp_path / "in.mlpackage"
    convert(program, inputs=[ct.TensorType("x", sizes)]).save(str(path))

    def any_length(spec):
        for bounds in spec.description.input[0].type.multiArrayType.shapeRange.sizeRanges:
            bounds.lowerBound = 0 if bounds.lowerBound < bounds.upperBound else bounds.lowerBound

    edit_spec(path, any_length)
    return path


def test_the_sample_is_the_one_that_fails(tmp_path):
    """Of several, the one whose window does not fit."""
    weight = np.random.default_rng(0).standard_normal((8, 8, 5)).astype(np.float32)
    path = _of_any_length(
        lambda x: mb.conv(x=x, weight=weight, name="windows"), tmp_path, 1, 8, None
    )
    samples = [{"x": np.ones((1, 8, size), np.float32)} for size in (16, 9, 3, 12)]
    message = "^sample 2: conv 'windows': ValueError: a window"
    with pytest.raises(ExecutionError, match=message):
        mlpass.prune(path, tmp_path / "o.mlpackage", ALL, sample_data=samples)
    with pytest.raises(ExecutionError, match=message):
        mlpass.compare(path, path, samples)
    with pytest.raises(ExecutionError, match=message):
        mlpass.sweep(path, samples, [ALL])


@pytest.mark.parametrize("op_type", ["lstm", "gru", "rnn"])
@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_a_recurrent_layer_of_no_steps_is_told_or_skipped(op_type, backend, tmp_path):
    normal = np.random.default_rng(0).standard_normal
    gates = {"lstm": 4, "gru": 3, "rnn": 1}[op_type]

    def build(x):
        state = np.zeros((1, 8), np.float32)
        return getattr(mb, op_type)(
            x=x,
            initial_h=state,
            **({"initial_c": state} if op_type == "lstm" else {}),
            weight_ih=normal((gates * 8, 6)).astype(np.float32),
            weight_hh=normal((gates * 8, 8)).astype(np.float32),
            output_sequence=True,
            name="layer",
        )[0]

    path = _of_any_length(build, tmp_path, None, 1, 6)
    out = tmp_path / "o.mlpackage"
    some, none = {"x": np.ones((5, 1, 6), np.float32)}, {"x": np.ones((0, 1, 6), np.float32)}
    mlpass.prune(path, out, ALL, sample_data=[some], backend=backend)
    with pytest.raises(ExecutionError, match=f"^{op_type} '[^']+': "):
        mlpass.Interpreter(path, backend=backend).predict(none)
    with pytest.raises(ExecutionError, match=f"^sample 1: {op_type} '[^']+': "):
        mlpass.prune(path, out, ALL, sample_data=[some, none], backend=backend, force=True)


def test_inputs_that_are_none_of_the_weight_are_told(tmp_path):
    package = copy_fixture("digits_ios15", tmp_path)

    def narrow(spec):
        """The last layer reads what the first has made."""
        linear = [op for op in operations(spec) if op.type == "linear"][-1]
        linear.inputs["x"].arguments[0].name = first_of(spec, "conv").outputs[0].name

    edit_spec(package, narrow)
    with pytest.raises(ExecutionError, match=r"^sample 0: linear '[^']+': ValueError: "):
        mlpass.prune(
            package,
            tmp_path / "o.mlpackage",
            Percentile(0.5),
            sample_data=_sample_data("digits_ios15"),
        )


@pytest.mark.parametrize(
    ("op_type", "parameter"), [("conv", "weight"), ("conv", "x"), ("linear", "x")]
)
def test_what_is_given_nothing_is_told_before_anything_runs(op_type, parameter, tmp_path):
    package = copy_fixture("digits_ios15", tmp_path)
    edit_spec(package, without(op_type, parameter))
    with pytest.raises(ModelFormatError, match=rf"{op_type} '[^']+': lacks {parameter}"):
        mlpass.Interpreter(package)
