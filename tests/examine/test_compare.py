"""Comparing two models: figures that numpy gives for the same outputs, and labels."""

from __future__ import annotations

import json
import math
from dataclasses import astuple

import numpy as np
import pytest

import mlpass
from mlpass import CalibrationError, Interpreter, Percentile
from mlpass.cli import main
from mlpass.examine.compare import Made, tally_outputs
from mlpass.examine.predict import predict_to_file


@pytest.fixture
def samples(fixtures):
    with np.load(fixtures / "tiny_lm.npz") as truth:
        tokens = truth["input:tokens"]
    return [{"tokens": tokens}, {"tokens": tokens[:, ::-1].copy()}]


def test_the_figures_are_numpys_own(fixtures, tmp_path, samples):
    model, other = fixtures / "tiny_lm.mlpackage", tmp_path / "pruned.mlpackage"
    mlpass.prune(model, other, Percentile(0.5))
    (record,) = mlpass.compare(model, other, samples).outputs
    first, second = (
        np.stack([Interpreter(path).predict(sample)["logits"] for sample in samples])
        for path in (model, other)
    )
    noise = np.abs(first.astype(np.float64) - second)
    assert record.name == "logits"
    assert record.snr == pytest.approx(
        10 * math.log10(np.sum(first.astype(np.float64) ** 2) / np.sum(noise**2)), rel=1e-9
    )
    assert record.max_error == pytest.approx(noise.max())
    assert record.mean_error == pytest.approx(noise.mean())
    assert record.top1 == pytest.approx(np.mean(first.argmax(-1) == second.argmax(-1)))
    assert 0 < record.snr < 60


@pytest.mark.parametrize("shape", [(), (0, 3), (5, 0), (7,), (9, 1), (3, 4, 5), (50,), (2, 50)])
def test_large_outputs_are_looked_at_in_blocks(shape, monkeypatch):
    """Of rows longer than a block, and of any shape, the same comes out as of all at once."""
    generator = np.random.default_rng(0)
    wanted, made = (generator.standard_normal(shape).round(1) for _ in range(2))
    whole = tally_outputs({None: ["y"]}, [({"y": wanted}, Made(None, {"y": made}))])
    monkeypatch.setattr("mlpass.examine.compare._BLOCK", 10)
    (record,) = tally_outputs({None: ["y"]}, [({"y": wanted}, Made(None, {"y": made}))])
    assert astuple(record) == pytest.approx(astuple(whole[0]))
    if len(shape) > 1 and shape[-1] > 1 and wanted.size:
        assert record.top1 == np.mean(wanted.argmax(-1) == made.argmax(-1))


def test_a_model_against_itself(fixtures, samples):
    model = fixtures / "tiny_lm.mlpackage"
    comparison = mlpass.compare(model, model, samples)
    (record,) = comparison.outputs
    assert (record.snr, record.max_error, record.top1) == (math.inf, 0.0, 1.0)
    assert comparison.to_dict()["outputs"][0]["snr"] is None
    assert "2 samples" in str(comparison)


def test_labels_and_probabilities_of_a_classifier(fixtures, tmp_path):
    model, other = fixtures / "digits_classifier.mlpackage", tmp_path / "pruned.mlpackage"
    mlpass.prune(model, other, Percentile(0.9))
    rng = np.random.default_rng(0)
    images = [{"image": rng.integers(0, 256, (1, 1, 28, 28)).astype(np.float32)} for _ in range(4)]
    label, probabilities = mlpass.compare(model, other, images).outputs
    assert label.snr is None
    assert label.top1 == probabilities.top1


def test_models_that_share_no_output(fixtures, samples):
    with pytest.raises(
        CalibrationError, match="the models have no output in common: one has logits"
    ):
        mlpass.compare(fixtures / "tiny_lm.mlpackage", fixtures / "basic_pitch.mlpackage", samples)


def test_outputs_of_different_shapes(fixtures, tmp_path):
    short = np.zeros((1, 16), np.int32)
    with pytest.raises((CalibrationError, mlpass.InputError)):
        mlpass.compare(
            fixtures / "tiny_lm.mlpackage",
            fixtures / "stateful_lm.mlpackage",
            [{"tokens": short}],
        )


def test_the_commands(fixtures, tmp_path, capsys, samples):
    model = fixtures / "tiny_lm.mlpackage"
    inputs, output = tmp_path / "x.npz", tmp_path / "y.npz"
    np.savez(inputs, **samples[0])
    assert main(["predict", str(model), "--inputs", str(inputs), "-o", str(output)]) == 0
    assert "logits (1, 64, 256)" in capsys.readouterr().out
    with np.load(output) as written:
        assert np.array_equal(written["logits"], Interpreter(model).predict(samples[0])["logits"])
    assert main(["predict", str(model), "--inputs", str(inputs), "-o", str(output)]) == 1
    assert (
        "already exists; pass --force to replace it, or name another file"
        in capsys.readouterr().err
    )

    stacked = tmp_path / "samples.npz"
    np.savez(stacked, tokens=np.stack([sample["tokens"] for sample in samples]))
    arguments = ["compare", str(model), str(model), "--sample-data", str(stacked), "--json"]
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["outputs"][0]["top1"] == 1.0

    np.savez(stacked, token=np.zeros((1, 1, 64)))
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("mlpass: error: ")
    assert "'token'" in error


def test_a_prediction_of_a_classifier_is_written_with_its_labels(fixtures, tmp_path):
    inputs = tmp_path / "x.npz"
    np.savez(inputs, image=np.zeros((1, 1, 28, 28), np.float32))
    written = predict_to_file(
        fixtures / "digits_classifier.mlpackage", inputs, tmp_path / "y.npz", force=True
    )
    assert written["classLabel_probs"] == written["classLabel_probs.labels"] == (10,)
    assert written["classLabel"] == ()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.npz", "y.npz"]
