"""The Interpreter's own behaviour: what it takes, gives, keeps, frees and refuses."""

from __future__ import annotations

import re
import subprocess
import sys
import weakref
from collections.abc import Mapping
from typing import Any

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil.mil import Builder as mb
from coremltools.converters.mil.mil import types
from PIL import Image
from programs import FIXTURES, convert, program, truth

from mlpass.errors import (
    BackendError,
    ConfigError,
    ExecutionError,
    InputError,
    ModelFormatError,
    UnsupportedOpError,
)
from mlpass.program import ir
from mlpass.program.dtypes import BY_NAME
from mlpass.runtime.backends.base import open_backend
from mlpass.runtime.constants import Constants
from mlpass.runtime.execute import execute
from mlpass.runtime.interpreter import Interpreter
from mlpass.runtime.kernels import registry
from mlpass.runtime.kernels.registry import kernel
from mlpass.runtime.plan import plan_function

TINY = FIXTURES / "tiny_lm.mlpackage"


def chain(x: Any) -> Any:
    """x -> relu -> exp -> add with itself."""
    x = mb.relu(x=x, name="first")
    x = mb.exp(x=x, name="second")
    return mb.add(x=x, y=x, name="third")


@pytest.fixture
def forget_kernels() -> Any:
    """Takes kernels that a test registers out again."""
    before = registry.registered()
    yield
    registry._KERNELS.clear()
    registry._KERNELS.update(before)


# Sources


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_path_mlmodel_and_pymil_agree(backend: str, tmp_path: Any) -> None:
    source = program(chain, (2, 3))
    model = convert(source)
    model.save(str(tmp_path / "chain.mlpackage"))
    x = np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)
    expected = 2 * np.exp(np.maximum(x, 0))
    for one in (tmp_path / "chain.mlpackage", str(tmp_path / "chain.mlpackage"), model, source):
        made = Interpreter(one, backend=backend).predict({"x": x})
        np.testing.assert_allclose(made["third"], expected, rtol=1e-6)
        assert made["third"].dtype == np.float32


def test_pymil_program_of_every_kind_of_value() -> None:
    @mb.program(input_specs=[mb.TensorSpec((1,))], opset_version=ct.target.iOS17)
    def source(x: Any) -> Any:
        items = mb.make_list(init_length=1, elem_shape=(1,), dynamic_length=True)
        items = mb.list_write(ls=items, index=0, value=x)

        def go_on(count: Any, ls: Any) -> Any:
            return mb.less(x=count, y=3)

        def body(count: Any, ls: Any) -> Any:
            last = mb.list_read(ls=ls, index=mb.sub(x=count, y=1))
            doubled = mb.mul(x=last, y=2.0)
            return mb.add(x=count, y=1), mb.list_write(ls=ls, index=count, value=doubled)

        _, items = mb.while_loop(_cond=go_on, _body=body, loop_vars=(1, items))
        joined = mb.list_gather(ls=items, indices=[0, 1, 2], name="joined")
        positive = mb.squeeze(x=mb.greater(x=x, y=0.0))
        return mb.cond(
            pred=positive,
            _true_fn=lambda: mb.identity(x=joined),
            _false_fn=lambda: mb.mul(x=joined, y=0.0),
            name="out",
        )

    interpreter = Interpreter(source)
    (name,) = (feature.name for feature in interpreter.outputs)
    made = interpreter.predict({"x": np.array([3.0])})
    np.testing.assert_array_equal(made[name], [[3], [6], [12]])
    np.testing.assert_array_equal(interpreter.predict({"x": np.array([-3.0])})[name], 0)


def test_source_must_be_a_model() -> None:
    with pytest.raises(ModelFormatError, match="source: must be the path of an .mlpackage"):
        Interpreter(3)


# Inputs and outputs


def test_list_of_inputs_gives_a_list() -> None:
    interpreter = Interpreter(program(chain, (2,)))
    made = interpreter.predict([{"x": [0, 0]}, {"x": [1, 1]}])
    np.testing.assert_allclose([one["third"] for one in made], 2 * np.exp([[0, 0], [1, 1]]))


def test_names_are_checked_all_at_once() -> None:
    interpreter = Interpreter(program(lambda image, mask: mb.add(x=image, y=mask), (2,), (2,)))
    text = (
        r"there is no input 'imgae', did you mean 'image'\?; "
        r"input 'image' \(fp32 \(2,\)\) is missing; input 'mask' \(fp32 \(2,\)\) is missing. "
        r"The inputs are 'image', 'mask'."
    )
    with pytest.raises(InputError, match=text):
        interpreter.predict({"imgae": [0, 0]})
    with pytest.raises(InputError, match="inputs: must be a dict by name. Got ndarray."):
        interpreter.predict(np.zeros(2))  # type: ignore[call-overload]


def test_shapes_are_checked() -> None:
    interpreter = Interpreter(program(chain, (2, 3)))
    with pytest.raises(InputError, match=r"input 'x': must be of shape \(2, 3\). Got \(3, 2\)."):
        interpreter.predict({"x": np.zeros((3, 2))})


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ([0.5, 1], r"must be int32. Got float64 with the value 0.5 at \(0,\), which does not fit"),
        ([1, 2**40], r"must be int32. Got int64 with the value 1099511627776 at \(1,\)"),
        ([0, np.nan], "with the value nan"),
        (["a", "b"], "must be int32 .*Got list of <U1"),
        ([[1], [1, 2]], "is no array"),
    ],
)
def test_values_that_do_not_fit(value: Any, text: str) -> None:
    @mb.program(input_specs=[mb.TensorSpec((2,), dtype=types.int32)])
    def source(x: Any) -> Any:
        return mb.identity(x=x, name="out")

    with pytest.raises(InputError, match=f"input 'x': .*{text}"):
        Interpreter(source).predict({"x": value})


@pytest.mark.parametrize("dtype", ["float64", "float32", "int64", "uint8", "int32", "bool"])
def test_values_that_fit_are_converted(dtype: str) -> None:
    @mb.program(input_specs=[mb.TensorSpec((2,), dtype=types.int32)])
    def source(x: Any) -> Any:
        return mb.add(x=x, y=1, name="out")

    made = Interpreter(source).predict({"x": np.array([0, 1], dtype)})["out"]
    assert made.dtype == np.int32
    assert made.tolist() == [1, 2]


def test_fp16_overflow_of_an_input_is_refused_and_of_an_output_is_inf() -> None:
    @mb.program(input_specs=[mb.TensorSpec((1,), dtype=types.fp16)], opset_version=ct.target.iOS17)
    def source(x: Any) -> Any:
        return mb.mul(x=x, y=np.float16(1000), name="out")

    interpreter = Interpreter(source)
    with pytest.raises(InputError, match="must be fp16. Got float32 with the value 1000000.0"):
        interpreter.predict({"x": np.float32([1e6])})
    made = interpreter.predict({"x": [100.0]})["out"]
    assert made.dtype == np.float16 and made[0] == np.inf


def test_scalars_are_of_shape_1_outside() -> None:
    interpreter = Interpreter(program(lambda x: mb.mul(x=mb.squeeze(x=x), y=2.0, name="out"), (1,)))
    for given in (3, [3], np.float32(3)):
        assert interpreter.predict({"x": given})["out"].tolist() == [6]
    assert interpreter.run({"x": 3}, ["out"])["out"].shape == ()


def test_torch_tensors_are_taken() -> None:
    torch = pytest.importorskip("torch")
    x = torch.ones(2, requires_grad=True)
    made = Interpreter(program(chain, (2,)), backend="torch").predict({"x": x})
    assert isinstance(made["third"], np.ndarray)


def test_flexible_shapes() -> None:
    shape = ct.Shape((ct.RangeDim(1, 4), 3))
    source = program(chain, (ct.converters.mil.mil.get_new_symbol(), 3))
    interpreter = Interpreter(convert(source, inputs=[ct.TensorType("x", shape)]))
    for rows in (1, 4):
        assert interpreter.predict({"x": np.zeros((rows, 3))})["third"].shape == (rows, 3)
    with pytest.raises(InputError, match=r"must be of shape \(1..4, 3\). Got \(5, 3\)"):
        interpreter.predict({"x": np.zeros((5, 3))})


def test_enumerated_shapes() -> None:
    shapes = ct.EnumeratedShapes([(1, 3), (2, 3)])
    source = program(chain, (ct.converters.mil.mil.get_new_symbol(), 3))
    interpreter = Interpreter(convert(source, inputs=[ct.TensorType("x", shapes)]))
    assert interpreter.predict({"x": np.zeros((2, 3))})["third"].shape == (2, 3)
    with pytest.raises(InputError, match=r"\(1, 3\) or \(2, 3\). Got \(3, 3\)"):
        interpreter.predict({"x": np.zeros((3, 3))})


def test_optional_input_has_its_default() -> None:
    source = program(chain, (2,))
    default = np.full(2, 1.5, np.float32)
    model = convert(source, inputs=[ct.TensorType("x", (2,), default_value=default)])
    made = Interpreter(model).predict({})
    np.testing.assert_allclose(made["third"], 2 * np.exp(default), rtol=1e-6)


# Images


def pixels(height: int = 4, width: int = 5) -> Any:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)


@pytest.mark.parametrize("layout", ["RGB", "BGR"])
def test_colour_images_in_and_out(layout: str) -> None:
    source = program(lambda x: mb.relu(x=x, name="out"), (1, 3, 4, 5))
    colour = getattr(ct.colorlayout, layout)
    model = convert(
        source,
        inputs=[ct.ImageType("x", (1, 3, 4, 5), color_layout=colour, scale=0.5, bias=[1, 2, 3])],
    )
    output = model._spec.description.output[0].type
    output.imageType.width, output.imageType.height = 5, 4
    output.imageType.colorSpace = output.imageType.ColorSpace.Value(layout)
    interpreter = Interpreter(model)
    made = interpreter.predict({"x": Image.fromarray(pixels())})["out"]
    bias = [1, 2, 3] if layout == "RGB" else [3, 2, 1]  # bias follows the model's own order
    np.testing.assert_array_equal(np.asarray(made), np.rint(pixels() * 0.5 + bias))


def test_grey_image_and_its_errors() -> None:
    source = program(lambda x: mb.relu(x=x, name="out"), (1, 1, 4, 5))
    grey = ct.colorlayout.GRAYSCALE
    model = convert(source, inputs=[ct.ImageType("x", (1, 1, 4, 5), color_layout=grey)])
    interpreter = Interpreter(model)
    image = Image.fromarray(pixels()[..., 0])
    expected = pixels()[None, None, ..., 0].astype(np.float32)
    for given in (image, expected):
        np.testing.assert_array_equal(interpreter.predict({"x": given})["out"], expected)
    text = r"must be a PIL image of mode 'L' \(GRAYSCALE\). Got mode 'RGB': convert it with"
    with pytest.raises(InputError, match=text):
        interpreter.predict({"x": Image.fromarray(pixels())})
    with pytest.raises(InputError, match=r"must be of \(height, width\) \(4, 5\). Got \(5, 4\)"):
        interpreter.predict({"x": image.transpose(Image.Transpose.ROTATE_90)})
    with pytest.raises(InputError, match=r"an array of shape \(1, 1, height, width\). Got shape"):
        interpreter.predict({"x": np.zeros((4, 5))})


# Intermediates, listeners, memory


def test_run_gives_any_value_in_its_declared_type() -> None:
    inputs, _ = truth("tiny_lm")
    interpreter = Interpreter(TINY)
    names = [
        value.name for step in interpreter.parts[0].plan.block.steps for value in step.op.outputs
    ]
    made = interpreter.run(inputs, [*names[:3], "logits"])
    assert list(made) == [*names[:3], "logits"]
    full = interpreter.predict(inputs)["logits"]
    np.testing.assert_array_equal(made["logits"], full)
    declared = interpreter.parts[0].plan.names[names[2]].type
    assert isinstance(declared, ir.TensorType)
    assert made[names[2]].dtype == BY_NAME[declared.dtype].numpy
    with pytest.raises(
        InputError, match="outputs: there is no value 'logit', did you mean 'logits'"
    ):
        interpreter.run(inputs, ["logit"])


class Recorder:
    def __init__(self) -> None:
        self.seen: list[str] = []

    def before(self, op: ir.Op, inputs: Mapping[str, Any]) -> None:
        self.seen.append(f"before {op.name}: {', '.join(inputs)}")

    def after(self, op: ir.Op, outputs: tuple[Any, ...]) -> None:
        self.seen.append(f"after {op.name}: {outputs[0].shape}")


def test_listeners_see_every_op_in_order() -> None:
    interpreter, recorder = Interpreter(program(chain, (2,))), Recorder()
    interpreter.listeners.append(recorder)
    interpreter.predict({"x": [0, 0]})
    assert recorder.seen == [
        "before first: x",
        "after first: (2,)",
        "before second: x",
        "after second: (2,)",
        "before third: x, y",
        "after third: (2,)",
    ]


def test_run_stops_when_it_has_what_was_asked_for() -> None:
    interpreter, recorder = Interpreter(program(chain, (2,))), Recorder()
    interpreter.listeners.append(recorder)
    interpreter.run({"x": [0, 0]}, ["first"])
    assert recorder.seen == ["before first: x", "after first: (2,)"]


class Watch:
    """Holds weak references to results, and counts how many live when the next op starts."""

    def __init__(self) -> None:
        self.alive: list[int] = []
        self._results: list[weakref.ref[Any]] = []

    def before(self, op: ir.Op, inputs: Mapping[str, Any]) -> None:
        self.alive.append(sum(result() is not None for result in self._results))

    def after(self, op: ir.Op, outputs: tuple[Any, ...]) -> None:
        self._results += [weakref.ref(output) for output in outputs]


def test_values_are_freed_at_last_use() -> None:
    def deep(x: Any) -> Any:
        for _ in range(6):
            x = mb.exp(x=x)
        return mb.identity(x=x, name="out")

    interpreter, watch = Interpreter(program(deep, (2,))), Watch()
    interpreter.listeners.append(watch)
    interpreter.predict({"x": [0, 0]})
    assert watch.alive == [0, 1, 1, 1, 1, 1, 1]


def test_values_that_nothing_reads_are_freed_at_once() -> None:
    def wasteful(x: Any) -> Any:
        low, _ = mb.split(x=x, num_splits=2, axis=0)
        return mb.exp(x=mb.exp(x=low), name="out")

    interpreter, watch = Interpreter(program(wasteful, (2,))), Watch()
    interpreter.listeners.append(watch)
    interpreter.predict({"x": [0, 0]})
    assert watch.alive == [0, 1, 1]


def test_weights_are_read_when_used_and_shared_by_blob() -> None:
    interpreter = Interpreter(TINY)
    constants = interpreter.parts[0].constants
    assert not constants._arrays
    inputs, _ = truth("tiny_lm")
    interpreter.predict(inputs)
    gathers = [step for step in interpreter.parts[0].plan.block.steps if step.op.type == "gather"]
    linears = [step for step in interpreter.parts[0].plan.block.steps if step.op.type == "linear"]
    embedding = constants[dict(gathers[0].arguments)["x"]]  # type: ignore[index]
    assert embedding.dtype == np.float32
    assert any(constants[dict(step.arguments)["weight"]] is embedding for step in linears)  # type: ignore[index]


def test_constants_can_be_replaced_and_forgotten() -> None:
    source = program(lambda x: mb.mul(x=x, y=np.float32([2, 3]), name="out"), (2,))
    interpreter = Interpreter(source)
    ((_, weight),) = (
        item for item in interpreter.parts[0].plan.block.steps[0].arguments if item[0] == "y"
    )
    constants = interpreter.parts[0].constants
    constants.replace(weight, np.float32([5, 7]))  # type: ignore[arg-type]
    assert interpreter.predict({"x": [1, 1]})["out"].tolist() == [5, 7]
    constants.forget(weight)  # type: ignore[arg-type]
    assert interpreter.predict({"x": [1, 1]})["out"].tolist() == [2, 3]


def test_forgotten_weights_are_let_go() -> None:
    inputs, _ = truth("tiny_lm")
    interpreter = Interpreter(TINY)
    interpreter.predict(inputs)
    constants = interpreter.parts[0].constants
    arrays = [weakref.ref(array) for array in constants._shared.values()]
    assert len(arrays) > 5
    for source in list(constants._arrays):
        constants.forget(source)
    assert not any(array() is not None for array in arrays)


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_data_come_as_arrays_and_the_rest_as_python_values(backend: str) -> None:
    array = pytest.importorskip("torch").Tensor if backend == "torch" else np.ndarray
    seen: dict[str, dict[str, Any]] = {}

    class Look:
        def before(self, op: ir.Op, inputs: Mapping[str, Any]) -> None:
            seen[op.type] = dict(inputs)

        def after(self, op: ir.Op, outputs: tuple[Any, ...]) -> None: ...

    def build(x: Any) -> Any:
        shifted = mb.add(x=mb.rsqrt(x=x, epsilon=np.float32(0.5)), y=np.float32(2))
        return mb.reduce_sum(x=shifted, axes=[0, 1], keep_dims=True, name="out")

    interpreter = Interpreter(program(build, (2, 2)), backend=backend)
    interpreter.listeners.append(Look())
    for _ in range(2):
        interpreter.predict({"x": np.ones((2, 2))})
        assert seen["reduce_sum"]["axes"] == [0, 1]
        assert seen["reduce_sum"]["keep_dims"] is True
        assert type(seen["rsqrt"]["epsilon"]) is float
        assert type(seen["add"]["y"]) is array  # data, though of one number
        assert type(seen["rsqrt"]["x"]) is array


def test_gradients_flow_through_a_torch_run() -> None:
    torch = pytest.importorskip("torch")
    interpreter = Interpreter(program(chain, (2,)), backend="torch")
    (part,), backend = interpreter.parts, interpreter.backend
    x = torch.tensor([0.5, 1.0], requires_grad=True)
    (value,) = part.plan.block.inputs
    assert backend is not None
    with backend.session(True):
        made = execute(part.plan, part.constants, backend, {value: x})
    made[part.plan.block.outputs[0]].sum().backward()
    np.testing.assert_allclose(x.grad, 2 * np.exp([0.5, 1.0]), rtol=1e-6)


# States


def counter() -> Any:
    @mb.program(
        input_specs=[mb.TensorSpec((2,)), mb.StateTensorSpec((2,))],
        opset_version=ct.target.iOS18,
    )
    def source(x: Any, total: Any) -> Any:
        added = mb.add(x=mb.read_state(input=total), y=x)
        return mb.coreml_update_state(state=total, value=added, name="out")

    return source


def test_state_from_a_pymil_program() -> None:
    interpreter = Interpreter(counter())
    state = interpreter.make_state()
    interpreter.predict({"x": [1, 2]}, state)
    assert interpreter.predict({"x": [1, 2]}, state)["out"].tolist() == [2, 4]
    assert state.read_state("total").tolist() == [2, 4]
    state.write_state("total", [10, 10])
    assert interpreter.predict({"x": [1, 2]}, state)["out"].tolist() == [11, 12]


def test_state_errors() -> None:
    interpreter = Interpreter(counter())
    with pytest.raises(
        InputError, match=r"state: this model keeps one; pass state=interpreter.make_"
    ):
        interpreter.predict({"x": [1, 2]})
    with pytest.raises(
        InputError, match="must be from this model's make_state, with 'total'. Got 3."
    ):
        interpreter.predict({"x": [1, 2]}, 3)  # type: ignore[call-overload]
    state = interpreter.make_state()
    with pytest.raises(InputError, match="there is no state 'totl', did you mean 'total'"):
        state.read_state("totl")
    with pytest.raises(InputError, match=r"input 'total': must be of shape \(2,\). Got \(3,\)"):
        state.write_state("total", [1, 2, 3])
    with pytest.raises(InputError, match="a list of inputs runs without state"):
        interpreter.predict([{"x": [1, 2]}], state)  # type: ignore[call-overload]
    with pytest.raises(InputError, match="make_state: this model keeps no state"):
        Interpreter(program(chain, (2,))).make_state()
    assert repr(state) == "State(total: fp32 (2,))"


# What cannot be run


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
        package.spec.pipeline.models.add().glmRegressor.SetInParent()
        with pytest.raises(UnsupportedOpError, match="a pipeline with parts of kind glmRegressor"):
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


# Backends and functions


def test_backend_names_and_devices() -> None:
    with pytest.raises(
        ConfigError, match="backend: must be one of .*Got 'nunpy', did you mean 'numpy'"
    ):
        Interpreter(TINY, backend="nunpy")
    with pytest.raises(
        ConfigError, match="device: the numpy backend runs on the cpu alone. Got 'mps'"
    ):
        Interpreter(TINY, device="mps")
    pytest.importorskip("torch")
    with pytest.raises(BackendError, match="device 'nowhere': torch cannot use it here"):
        Interpreter(TINY, backend="torch", device="nowhere")


@pytest.mark.skipif(sys.platform == "darwin", reason="Core ML is there")
def test_core_ml_is_on_macos_alone() -> None:
    with pytest.raises(BackendError, match="backend 'coreml' runs on macOS alone: use"):
        Interpreter(TINY, backend="coreml")


class FakeCoreML:
    """Stands in for an `MLModel` on macOS."""

    package_path = str(TINY)
    function_name = None

    def get_spec(self) -> Any:
        from mlpass.program.mlpackage import Package

        with Package(TINY) as package:
            return package.spec

    def predict(self, inputs: Any, state: Any = None) -> Any:
        return {"logits": (sorted(inputs), state)}

    def make_state(self) -> str:
        return "state"


def test_core_ml_predicts_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    interpreter = Interpreter(FakeCoreML(), backend="coreml")
    assert interpreter.backend is None and interpreter.parts == ()
    assert interpreter.predict({"tokens": 1}, "state") == {"logits": (["tokens"], "state")}  # type: ignore[call-overload]
    assert interpreter.make_state() == "state"
    with pytest.raises(
        ConfigError, match="device: is torch's; Core ML chooses for itself. Got 'cpu'"
    ):
        Interpreter(FakeCoreML(), backend="coreml", device="cpu")


def test_torch_missing_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlpass.runtime.backends.torch", None)
    with pytest.raises(
        BackendError, match=r"backend 'torch' needs .*: pip install 'mlpass\[torch\]'"
    ):
        Interpreter(TINY, backend="torch")


def test_function_names() -> None:
    path = FIXTURES / "multifunction_lm.mlpackage"
    with pytest.raises(ConfigError, match="must be one of .*Got 'shrt', did you mean 'short'"):
        Interpreter(path, function_name="shrt")
    with pytest.raises(ConfigError, match="a pipeline has no functions. Got 'short'."):
        Interpreter(FIXTURES / "digits_pipeline.mlpackage", function_name="short")


def test_numpy_runs_without_torch_and_coremltools_loaded() -> None:
    code = (
        "import sys; from mlpass.runtime.interpreter import Interpreter; "
        f"Interpreter({str(TINY)!r}); "
        "print(sorted({'torch', 'coremltools'} & set(sys.modules)))"
    )
    root = str(FIXTURES.parent)
    made = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root
    )
    assert made.stdout.strip() == "[]"
