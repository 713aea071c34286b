"""The Interpreter: what it takes, what it gives back, and where it runs."""

from __future__ import annotations

import io
import subprocess
import sys
from typing import Any

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil.mil import Builder as mb
from coremltools.converters.mil.mil import types
from PIL import Image
from programs import FIXTURES, TINY, chain, convert, program

import mlpass
from mlpass import Percentile
from mlpass.errors import (
    BackendError,
    CalibrationError,
    ConfigError,
    InputError,
    ModelFormatError,
)
from mlpass.runtime.digests import digest_of
from mlpass.runtime.interpreter import Interpreter

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
    with pytest.raises(
        InputError, match=r"input 'x': must be of shape \(2, 3\). Got \(3, 2\): the axes"
    ):
        interpreter.predict({"x": np.zeros((3, 2))})


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ([0.5, 1], r"must be int32. Got float64 with the value 0.5 at \(0,\), which does not fit"),
        ([1, 2**40], r"must be int32. Got int64 with the value 1099511627776 at \(1,\)"),
        ([0, np.nan], "with the value nan"),
        (["a", "b"], "must be int32 .*Got list of <U1"),
        ([[1], [1, 2]], "is not an array"),
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
    samples = [{"x": torch.nn.Parameter(one)} for one in torch.randn(3, 2, dtype=torch.bfloat16)]
    interpreter = Interpreter(program(chain, (2,)))
    for sample in samples:
        wanted = 2 * sample["x"].detach().float().relu().exp()
        np.testing.assert_allclose(interpreter.predict(sample)["third"], wanted, rtol=1e-6)
    assert len({digest_of([], {}, [one]) for one in samples}) == 3


@pytest.mark.filterwarnings("ignore:Implicitly cleaning up:ResourceWarning")
def test_what_is_not_an_array_is_told_by_calibration_too(tmp_path: Any) -> None:
    torch = pytest.importorskip("torch")
    weight = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    model = convert(program(lambda x: mb.linear(x=x, weight=weight, name="out"), (1, 64)))
    path, output = tmp_path / "a.mlpackage", tmp_path / "b.mlpackage"
    model.save(str(path))
    x = torch.ones(1, 64)
    for value in ([[1], [2, 3]], x.to("meta"), x.to_sparse()):
        with pytest.raises(InputError, match="input 'x': is not an array: "):
            Interpreter(path).predict({"x": value})
        with pytest.raises(CalibrationError, match="sample 0: input 'x': is not an array: "):
            mlpass.prune(path, output, Percentile(0.5), sample_data=[{"x": value}])
    with pytest.raises(CalibrationError, match=r"sample 0: there is no input 1\."):
        mlpass.prune(path, output, Percentile(0.5), sample_data=[{"x": x, 1: x}])


def test_pictures_that_cannot_be_read() -> None:
    source = program(lambda x: mb.relu(x=x, name="out"), (1, 3, 4, 5))
    interpreter = Interpreter(convert(source, inputs=[ct.ImageType("x", (1, 3, 4, 5))]))
    closed, file = Image.fromarray(pixels()), io.BytesIO()
    closed.save(file, "PNG")
    closed.close()
    for picture in (closed, Image.open(io.BytesIO(file.getvalue()[:70]))):
        with pytest.raises(InputError, match="input 'x': cannot be read: "):
            interpreter.predict({"x": picture})
    with pytest.raises(InputError, match="must be fp32. Got float64 with the value 1e"):
        interpreter.predict({"x": np.full((1, 3, 4, 5), 1e300)})


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


def test_an_image_may_be_a_tensor() -> None:
    torch = pytest.importorskip("torch")
    source = program(lambda x: mb.relu(x=x, name="out"), (1, 3, 4, 5))
    interpreter = Interpreter(convert(source, inputs=[ct.ImageType("x", (1, 3, 4, 5))]))
    array = pixels().transpose(2, 0, 1)[None].copy()
    made = [interpreter.predict({"x": each})["out"] for each in (array, torch.tensor(array))]
    np.testing.assert_array_equal(*map(np.asarray, made))


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


# Backends and functions


def test_backend_names_and_devices() -> None:
    with pytest.raises(
        ConfigError, match="backend: must be one of .*Got 'nunpy', did you mean 'numpy'"
    ):
        Interpreter(TINY, backend="nunpy")
    with pytest.raises(
        ConfigError, match="device: the numpy backend only runs on the cpu. Got 'mps'"
    ):
        Interpreter(TINY, device="mps")
    pytest.importorskip("torch")
    with pytest.raises(BackendError, match="device 'nowhere': torch cannot use it here"):
        Interpreter(TINY, backend="torch", device="nowhere")


@pytest.mark.skipif(sys.platform == "darwin", reason="Core ML is there")
def test_core_ml_is_on_macos_alone() -> None:
    with pytest.raises(BackendError, match="backend 'coreml' only runs on macOS: use"):
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
        ConfigError, match="device: is for the torch backend; Core ML chooses its own. Got 'cpu'"
    ):
        Interpreter(FakeCoreML(), backend="coreml", device="cpu")


def test_torch_missing_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlpass.runtime.backends.torch", None)
    with pytest.raises(BackendError, match="backend 'torch' needs .*: pip install torch"):
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
