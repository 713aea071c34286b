"""The real models agree with the frameworks they come from."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from programs import FIXTURES, truth

from mlpass.runtime.interpreter import Interpreter

BACKENDS = ("numpy", "torch")
FP32, FP16 = 1e-3, 2e-2

# by name: the relative error that is allowed
MODELS = {
    "basic_pitch": FP32,
    "efficientnet_lite0": FP16,
    "tiny_lm": FP16,
    "multifunction_lm": FP16,
    "digits_ios15": FP16,
    "digits_pipeline": FP16,
    "quantized_digits": FP16,
    "silero_vad": FP16,
}


def relative_error(got: Any, expected: Any) -> float:
    got, expected = np.asarray(got, np.float64), np.asarray(expected, np.float64)
    assert got.shape == expected.shape
    return float(np.linalg.norm(got - expected) / np.linalg.norm(expected))


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    if request.param == "torch":
        pytest.importorskip("torch").set_num_threads(1)
    return str(request.param)


def open_fixture(name: str, backend: str, **options: Any) -> Interpreter:
    return Interpreter(FIXTURES / f"{name}.mlpackage", backend=backend, **options)


@pytest.mark.slow_but_every(2)
@pytest.mark.parametrize("name", MODELS)
def test_agrees_with_its_source(name: str, backend: str) -> None:
    inputs, expected = truth(name)
    interpreter = open_fixture(name, backend)
    made = interpreter.predict(inputs)
    assert set(made) == {feature.name for feature in interpreter.outputs}
    for output, values in expected.items():
        got = made[output][:, : values.shape[1]] if name == "basic_pitch" else made[output]
        assert relative_error(got, values) < MODELS[name]
        if output in ("logits", "linear_1"):
            assert (got.argmax(-1) == values.argmax(-1)).all()


def test_every_function_of_a_model(backend: str) -> None:
    with np.load(FIXTURES / "multifunction_lm.npz") as arrays:
        inputs = {
            key.removeprefix("short/input:"): arrays[key]
            for key in arrays.files
            if key.startswith("short/input:")
        }
        expected = arrays["short/output:logits"]
    interpreter = open_fixture("multifunction_lm", backend, function_name="short")
    assert relative_error(interpreter.predict(inputs)["logits"], expected) < FP16


def test_palettes_change_little(backend: str) -> None:
    inputs, expected = truth("palettized_digits")
    made = open_fixture("palettized_digits", backend).predict(inputs)
    for output, values in expected.items():
        assert made[output].argmax(-1) == values.argmax(-1)


def test_classifier_gives_label_and_probabilities(backend: str) -> None:
    from PIL import Image

    inputs, expected = truth("digits_classifier")
    interpreter = open_fixture("digits_classifier", backend)
    picture = Image.fromarray(inputs["image"][0, 0].astype(np.uint8))
    for image in (picture, inputs["image"]):
        made = interpreter.predict({"image": image})
        assert made["classLabel"] == "0"
        assert list(made["classLabel_probs"]) == [str(digit) for digit in range(10)]
        probabilities = np.array([*made["classLabel_probs"].values()])
        assert relative_error(probabilities, expected["classLabel_probs"].reshape(-1)) < FP16


def test_state_lives_on_from_call_to_call(backend: str) -> None:
    inputs, expected = truth("stateful_lm")
    interpreter = open_fixture("stateful_lm", backend)
    state, other = interpreter.make_state(), interpreter.make_state()
    for call, logits in enumerate(expected["logits"]):
        given = {name: values[call] for name, values in inputs.items()}
        made = interpreter.predict(given, state)["logits"]
        assert relative_error(made, logits) < FP16
    assert np.abs(state.read_state("keys")).max() > 0
    assert np.abs(other.read_state("keys")).max() == 0
    assert state.read_state("keys").dtype == np.float16


def test_branches_run_alike_on_both_backends() -> None:
    pytest.importorskip("torch")
    generator = np.random.default_rng(0)
    path = FIXTURES / "branches.mlpackage"
    first, second = (Interpreter(path, backend=name) for name in BACKENDS)
    for sign in (1, -1):  # either branch of its cond
        inputs = {
            feature.name: sign * np.abs(generator.normal(size=feature.shape))
            for feature in first.inputs
        }
        ours, theirs = first.predict(inputs), second.predict(inputs)
        for name, values in ours.items():
            assert relative_error(theirs[name], values) < 1e-4
