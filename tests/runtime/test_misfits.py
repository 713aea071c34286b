"""Shapes that do not fit: the axis is named, and numpy makes of the cure what the model takes."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from PIL import Image

import mlpass
from mlpass.cli import main
from mlpass.errors import CalibrationError, InputError
from mlpass.finetune import to_module
from mlpass.runtime.misfits import misfit
from tests.conftest import FIXTURES

DIGITS, CLASSIFIER = FIXTURES / "digits_ios15.mlpackage", FIXTURES / "digits_classifier.mlpackage"
TALKER = FIXTURES / "stateful_lm.mlpackage"
MISSING = r"Got \(1, 28, 28\): the first axis \(batch, 1\) is missing; add it with x\[None\]"


@pytest.mark.parametrize(
    ("given", "taken", "text"),
    [
        ((3, 224, 224), (1, 3, 224, 224), "the first axis (batch, 1) is missing; add it with"),
        ((64,), (1, 64), "the first axis (batch, 1) is missing; add it with x[None]"),
        ((28, 28), (1, 1, 28, 28), "the first two axes (1, 1) are missing"),
        ((8, 28, 28), (8, 1, 28, 28), "axis 1 (1) is missing"),
        ((2, 64), (2, 64, 1), "the last axis (1) is missing"),
        ((1, 1, 3, 8, 8), (1, 3, 8, 8), "the first axis (1) is one too many; take it off with"),
        ((1, 64, 1), (1, 64), "the last axis (1) is one too many"),
        ((9, 1, 3, 8, 8), (1, 3, 8, 8), "the first axis (9) is one too many; where it counts"),
        ((9, 3, 8, 8), (1, 3, 8, 8), "the first axis (batch) is 9, too many; give one sample"),
        ((1, 224, 224, 3), (1, 3, 224, 224), "the channels are last; x.transpose(0, 3, 1, 2)"),
        ((20, 10, 3), (1, 3, 20, 10), "the first axis (batch, 1) is missing, and the channels"),
        ((64, 1), (1, 64), "the axes are in another order; x.transpose(1, 0) has"),
        ((1, 3, 20, 10), (1, 3, 10, 20), "the axes are in another order; x.transpose(0, 1, 3, 2)"),
        ((3, 20, 10), (1, 3, 10, 20), "the first axis (batch, 1) is missing, and the axes are in"),
    ],
)
def test_the_axis_is_named_and_the_cure_cures(given, taken, text):
    said = misfit(given, lambda shape: shape == taken)
    assert said.startswith(f": {text}")
    cure = re.search(r"(x\[[^]]*\]|np\.\w+\(.*?\)|x\.transpose\(.*?\)(\[None\])?)", said)
    assert cure is not None
    assert eval(cure[0], {"x": np.zeros(given), "np": np}).shape == taken


@pytest.mark.parametrize(
    ("given", "taken"),
    [((3, 223, 224), (1, 3, 224, 224)), ((), (2, 2)), ((0, 1, 28, 28), (1, 1, 28, 28))],
)
def test_nothing_is_said_where_nothing_stands_out(given, taken):
    assert misfit(given, lambda shape: shape == taken) == ""


def test_a_batch_that_is_too_large():
    said = misfit((5, 3), lambda shape: len(shape) == 2 and shape[0] <= 4 and shape[1] == 3)
    assert said.startswith(": the first axis (batch) is 5, too many")


def stacked(folder, arrays):
    np.savez(folder / "x.npz", **{name: np.stack([array] * 3) for name, array in arrays.items()})
    return folder / "x.npz"


def in_a_folder(folder, arrays):
    (folder / "samples").mkdir()
    np.savez(folder / "samples" / "0.npz", **arrays)
    return folder / "samples"


def in_steps(folder, arrays):
    (folder / "samples" / "talk").mkdir(parents=True)
    np.savez(folder / "samples" / "talk" / "0.npz", **arrays)
    return folder / "samples"


WAYS = [stacked, in_a_folder, lambda _, arrays: [arrays], lambda _, arrays: iter([dict(arrays)])]


@pytest.mark.parametrize("way", WAYS, ids=["npz", "folder", "dicts", "iterator"])
@pytest.mark.parametrize(
    "command",
    [
        lambda data, out: mlpass.compare(DIGITS, DIGITS, data),
        lambda data, out: mlpass.locate(DIGITS, DIGITS, data),
        lambda data, out: mlpass.check(DIGITS, data),
        lambda data, out: mlpass.prune(DIGITS, out, mlpass.Percentile(0.5), sample_data=data),
        lambda data, out: mlpass.sweep(DIGITS, data, [mlpass.Percentile(0.5)]),
    ],
    ids=["compare", "locate", "check", "prune", "sweep"],
)
def test_samples_of_every_form_name_the_axis(way, command, tmp_path):
    data = way(tmp_path, {"image": np.zeros((1, 28, 28), np.float32)})
    with pytest.raises((InputError, CalibrationError), match=MISSING):
        command(data, tmp_path / "out.mlpackage")


@pytest.mark.parametrize("way", [in_steps, lambda _, arrays: [[arrays]]], ids=["folder", "dicts"])
def test_steps_of_sequences_name_the_axis(way, tmp_path):
    step = {"tokens": np.zeros(1, np.int32).reshape(1, 1, 1), "position": np.zeros(1, np.int32)}
    with pytest.raises(InputError, match=r"Got \(1, 1, 1\): the first axis \(1\) is one too many"):
        mlpass.compare(TALKER, TALKER, way(tmp_path, step))


def test_images_name_the_axis():
    predict = mlpass.Interpreter(CLASSIFIER).predict
    pixels = np.asarray(Image.new("L", (28, 28)))
    for given, text in {
        (28, 28): "the first two axes (1, 1) are missing",
        (1, 28, 28): "the first axis (batch, 1) is missing",
        (1, 28, 28, 1): "the channels are last",
    }.items():
        with pytest.raises(InputError, match=r"must be a PIL image, or an array of shape") as told:
            predict({"image": pixels.reshape(given)})
        assert text in str(told.value)


def test_a_prediction_given_all_samples_is_told_so(tmp_path, capsys):
    np.savez(tmp_path / "x.npz", image=np.zeros((3, 1, 1, 28, 28), np.float32))
    words = [str(DIGITS), "--inputs", str(tmp_path / "x.npz"), "-o", str(tmp_path / "y.npz")]
    assert main(["predict", *words]) == 1
    assert "the first axis (3) is one too many; where it counts" in capsys.readouterr().err


def test_modules_name_the_axis():
    module = to_module(DIGITS)
    with pytest.raises(InputError, match=r"along the leading axis. " + MISSING):
        module(image=torch.zeros(1, 28, 28))
