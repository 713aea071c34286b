"""Samples that fit and cannot be meant: each kind warns once, and right ones never do."""

from __future__ import annotations

import warnings

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil.mil import Builder as mb
from PIL import Image

import mlpass
from mlpass.cli import main
from mlpass.errors import SampleWarning
from mlpass.examine.predict import predict_to_file
from mlpass.runtime.doubts import doubts
from mlpass.runtime.interpreter import Interpreter
from tests.conftest import FIXTURES, PACKAGES
from tests.runtime.programs import program

RNG = np.random.default_rng(0)


def told(model, samples):
    interpreter = Interpreter(FIXTURES / f"{model}.mlpackage" if isinstance(model, str) else model)
    return list(doubts(interpreter, samples))


def truth(model):
    """Returns a fixture's own inputs."""
    with np.load(FIXTURES / f"{model}.npz") as arrays:
        return {
            name.removeprefix("input:"): arrays[name]
            for name in arrays.files
            if name.startswith("input:")
        }


def image(shape=(1, 1, 28, 28), high=255.0):
    return RNG.uniform(0, high, shape).astype(np.float32)


def test_an_image_in_zero_to_one():
    (text,) = told("digits_classifier", [{"image": image(high=1.0)} for _ in range(4)])
    assert "input 'image': is an image, of 0 to 255, and all values lie in" in text
    assert "multiply them by 255, or give PIL images" in text
    assert not told("digits_classifier", [{"image": image()} for _ in range(4)])


def test_an_image_that_was_normalised():
    (text,) = told("digits_classifier", [{"image": image(high=2.0) - 1} for _ in range(4)])
    assert "is an image, of 0 to 255" in text


@pytest.mark.parametrize(
    ("model", "sample"),
    [
        ("digits_classifier", {"image": np.zeros((1, 1, 0, 28), np.float32)}),
        ("tiny_lm", {"tokens": np.zeros((1, 0), np.int32)}),
        ("tiny_lm", {"tokens": np.full((1, 64), np.inf)}),
        ("tiny_lm", {"tokens": np.full((1, 64), np.nan)}),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:.*NaN:mlpass.errors.SampleWarning")
def test_what_is_empty_or_not_an_index_is_told_where_it_is_read(model, sample, tmp_path):
    package = FIXTURES / f"{model}.mlpackage"
    np.savez(tmp_path / "x.npz", **{name: np.stack([value] * 2) for name, value in sample.items()})
    with pytest.raises(mlpass.CalibrationError, match="sample 0: input .*: must be "):
        mlpass.prune(
            package,
            tmp_path / "out.mlpackage",
            mlpass.Percentile(0.5),
            sample_data=tmp_path / "x.npz",
        )
    with pytest.raises(mlpass.InputError, match="sample 0: input .*: must be "):
        mlpass.compare(package, package, tmp_path / "x.npz")


def test_dark_pil_images_are_images():
    dark = [{"image": Image.fromarray(RNG.integers(0, 2, (28, 28), np.uint8))} for _ in "ab"]
    assert not told("digits_classifier", dark)


def test_one_bright_image_among_dark_ones_is_enough():
    samples = [{"image": image(high=1.0)} for _ in range(3)] + [{"image": image()}]
    assert not told("digits_classifier", samples)


def test_samples_that_are_all_alike():
    one = image()
    (text,) = told("digits_classifier", [{"image": one}, {"image": one.copy()}])
    assert text.startswith("the samples are all alike: they show nothing")
    assert not told("digits_classifier", [{"image": one}])  # one alone is like no other


def test_one_sample_of_one_value():
    (text,) = told("digits_classifier", [{"image": np.full((1, 1, 28, 28), 128.0, np.float32)}])
    assert text.startswith("the sample is of one value: it shows nothing")


def test_ids_of_another_tokenizer():
    tokens = truth("tiny_lm")["tokens"].copy()
    rows = 256
    for wrong in (rows, 50_000, -rows - 1):
        tokens[0, 3] = wrong
        (text,) = told("tiny_lm", [{"tokens": tokens}])
        assert f"picks rows of a table of {rows}, and holds {wrong}" in text
    for right in (rows - 1, 0, -rows):
        tokens[0, 3] = right
        assert not told("tiny_lm", [{"tokens": tokens}])


def linear(x):
    weight = np.random.default_rng(0).standard_normal((4, 32), np.float32)
    return mb.linear(x=x, weight=weight, name="y")


def test_values_that_are_not_numbers():
    model = program(linear, (1, 32), opset=ct.target.iOS17)
    samples = [{"x": RNG.random((1, 32), np.float32)} for _ in range(3)]
    samples[2]["x"][0, 5] = np.nan
    (text,) = told(model, samples)
    assert text == "input 'x': holds NaN, which spreads to all that is made of it"
    samples[2]["x"][0, 5] = -np.inf  # as masks of attention have
    assert not told(model, samples)


def test_what_is_no_array_is_left_to_those_who_read_it():
    model = program(linear, (1, 32), opset=ct.target.iOS17)
    for strange in ([[1.0], [1.0, 2.0]], "cat", np.array("cat")):
        assert not told(model, [{"x": strange}])


def test_bytes_for_floats():
    model = program(linear, (1, 32), opset=ct.target.iOS17)
    pixels = [{"x": RNG.integers(0, 256, (1, 32), np.uint8)} for _ in range(3)]
    (text,) = told(model, pixels)
    assert "input 'x': takes fp32, and is given uint8, 0 to 255 as pixels are" in text
    assert not told(model, [{"x": each["x"] / np.float32(255)} for each in pixels])


def test_an_axis_of_the_table_that_is_not_the_first():
    table = RNG.standard_normal((3, 7)).astype(np.float32)

    def columns(x):
        ids = mb.cast(x=x, dtype="int32")
        return mb.gather(x=table, indices=ids, axis=1, name="y")

    model = program(columns, (5,), opset=ct.target.iOS17)
    # ids that are cast from floats are not an int input: nothing is known of them
    assert not told(model, [{"x": np.arange(5, dtype=np.float32) + 9}])


def test_one_prediction_may_be_of_one_value_but_not_of_another_range(tmp_path):
    package = FIXTURES / "digits_classifier.mlpackage"
    np.savez(tmp_path / "grey.npz", image=np.full((1, 1, 28, 28), 128, np.float32))
    np.savez(tmp_path / "dark.npz", image=image(high=1.0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        predict_to_file(package, tmp_path / "grey.npz", tmp_path / "a.npz")
    with pytest.warns(SampleWarning, match="is an image, of 0 to 255"):
        predict_to_file(package, tmp_path / "dark.npz", tmp_path / "b.npz")


@pytest.mark.parametrize("name", [name.removesuffix(".mlpackage") for name in PACKAGES])
def test_what_the_fixtures_are_run_on_is_right(name):
    if not (FIXTURES / f"{name}.npz").exists():
        pytest.skip("it has no inputs of its own")
    given = truth(name)
    interpreter = Interpreter(FIXTURES / f"{name}.mlpackage")
    if {feature.name for feature in interpreter.inputs} != set(given):
        pytest.skip("its inputs are steps, or of several functions")
    assert not list(doubts(interpreter, [given]))


@pytest.mark.slow_but_every(5)
@pytest.mark.parametrize(
    "run",
    [
        lambda path, samples, out: mlpass.compare(path, path, samples),
        lambda path, samples, out: mlpass.locate(path, path, samples),
        lambda path, samples, out: mlpass.check(path, samples),
        lambda path, samples, out: mlpass.sensitivity(path, samples),
        lambda path, samples, out: mlpass.sweep(path, samples, [mlpass.Percentile(0.5)]),
        lambda path, samples, out: mlpass.choose(
            path, out, sample_data=samples, max_size="0.5x", up_to="data-free"
        ),
        lambda path, samples, out: mlpass.finetune.finetune(
            path, out, mlpass.Percentile(0.5), samples, steps=1
        ),
        lambda path, samples, out: mlpass.finetune.polish(
            path, out, path, samples, mlpass.finetune.Polish(steps=1)
        ),
        lambda path, samples, out: mlpass.finetune.tune(
            path, out, path, samples, mlpass.finetune.Regions(epochs=1)
        ),
        lambda path, samples, out: mlpass.prune(
            path, out, mlpass.Percentile(0.5), sample_data=samples
        ),
    ],
    ids=[
        "compare",
        "locate",
        "check",
        "sensitivity",
        "sweep",
        "choose",
        "finetune",
        "polish",
        "tune",
        "prune",
    ],
)
def test_whoever_runs_samples_warns(run, tmp_path):
    samples = [{"image": image(high=1.0)} for _ in range(3)]
    with pytest.warns(SampleWarning, match="is an image, of 0 to 255"):
        run(FIXTURES / "digits_classifier.mlpackage", samples, tmp_path / "out.mlpackage")


def test_the_command_says_it_in_a_line(tmp_path, capsys):
    np.savez(tmp_path / "x.npz", image=np.stack([image(high=1.0) for _ in range(3)]))
    model = str(FIXTURES / "digits_classifier.mlpackage")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert main(["compare", model, model, "--sample-data", str(tmp_path / "x.npz")]) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("mlpass")]
    assert len(said) == 1
    assert said[0].startswith("mlpass: warning: input 'image': is an image, of 0 to 255")
