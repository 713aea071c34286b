"""Samples of several lengths in one run, of a language model that coremltools converted so."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import mlpass
from mlpass import ADMM, Config, Magnitude, Percentile, Regions, SparseGPT
from mlpass.cli import main
from mlpass.errors import CalibrationError, InputError
from mlpass.finetune import finetune
from tests.runtime.flexible import LENGTHS, convert, texts

pytestmark = [
    pytest.mark.conversion,
    # coremltools leaves the directory of its weights to the garbage collector.
    pytest.mark.filterwarnings("ignore:Implicitly cleaning up:ResourceWarning"),
]

SAMPLES, UNSEEN = texts(*[8, 16, 24] * 8), texts(*[24, 8, 16] * 3)[1:]
CONFIG = Config(global_config=Percentile(0.5), weight_threshold=0)


@pytest.fixture(scope="module", params=LENGTHS)
def flexible(request, tmp_path_factory):
    return convert(request.param, tmp_path_factory.mktemp("flexible") / "lm.mlpackage")


@pytest.fixture(scope="module")
def path(flexible):
    return flexible[0]


def snr(path, other):
    (output,) = mlpass.compare(path, other, UNSEEN).outputs
    return output.snr


@pytest.fixture(scope="module")
def plain(path, tmp_path_factory):
    """The model pruned by magnitude, and its SNR."""
    out = tmp_path_factory.mktemp("plain") / "out.mlpackage"
    mlpass.prune(path, out, CONFIG)
    return out, snr(path, out)


@pytest.mark.slow_but_every(2)
def test_predictions_of_every_length_are_torchs(flexible, tmp_path):
    path, model = flexible
    for number, sample in enumerate(texts(8, 24, 16)):
        inputs, output = tmp_path / f"{number}.npz", tmp_path / f"{number}-made.npz"
        np.savez(inputs, **sample)
        assert main(["predict", str(path), "--inputs", str(inputs), "-o", str(output)]) == 0
        with torch.no_grad(), np.load(output) as made:
            wanted = model(torch.tensor(sample["tokens"])).numpy()
            np.testing.assert_allclose(made["logits"], wanted, atol=0.01)


@pytest.mark.slow_but_every(7)
@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize(
    "options", [{}, {"target": "dense"}, {"method": ADMM()}], ids=["sparsegpt", "dense", "admm"]
)
def test_a_calibrated_run_takes_all_lengths(path, plain, options, backend, tmp_path):
    out = tmp_path / "out.mlpackage"
    report = mlpass.prune(path, out, CONFIG, sample_data=SAMPLES, backend=backend, **options)
    solved = [layer for layer in report.layers if layer.error is not None]
    lengths = sum(sample["tokens"].size for sample in SAMPLES)
    assert {(layer.samples, layer.tokens) for layer in solved} == {(len(SAMPLES), lengths)}
    assert snr(path, out) > plain[1] + 0.2


@pytest.mark.slow_but_every(2)
def test_studies_judge_by_all_lengths(path, tmp_path):
    methods = [Magnitude(), SparseGPT()]
    report = mlpass.sweep(path, SAMPLES, [CONFIG], method=methods, test_data=UNSEEN)
    assert [trial.failed for trial in report.trials] == [None, None]
    assert report.trials[0].outputs[0].snr < report.trials[1].outputs[0].snr
    curves = mlpass.sensitivity(path, SAMPLES, [0.0, 0.5]).layers
    assert any(layer.errors and layer.errors[1] > 0 for layer in curves)


@pytest.mark.slow
def test_choosing_and_training_within_it_take_all_lengths(path, tmp_path):
    out = tmp_path / "out.mlpackage"
    mlpass.choose(path, out, sample_data=SAMPLES, max_size="0.9x", test_data=UNSEEN)
    assert snr(path, out) > 15


@pytest.mark.slow_but_every(4)
@pytest.mark.parametrize("batch_size", [1, 8])
def test_training_takes_all_lengths_in_one_step(path, plain, batch_size, tmp_path):
    out = tmp_path / "out.mlpackage"
    steps = 64 // batch_size
    options = {"steps": steps, "batch_size": batch_size, "learning_rate": 1e-3}
    finetune(plain[0], out, None, SAMPLES, dense=path, **options)
    assert snr(path, out) > plain[1] + 0.2


@pytest.mark.slow
def test_regions_take_all_lengths(path, plain, tmp_path):
    out = tmp_path / "out.mlpackage"
    options = Regions(epochs=3, learning_rate=3e-3)
    report = mlpass.finetune.tune(plain[0], out, path, SAMPLES, options)
    assert snr(path, out) > plain[1] + 0.2
    assert report.notes


USES = {
    "prune": lambda path, data, out: mlpass.prune(path, out, CONFIG, sample_data=data),
    "compare": lambda path, data, out: mlpass.compare(path, path, data),
    "check": lambda path, data, out: mlpass.check(path, data),
    "sweep": lambda path, data, out: mlpass.sweep(path, data, [CONFIG]),
    "finetune": lambda path, data, out: finetune(path, out, CONFIG, data, steps=1),
    "tune": lambda path, data, out: mlpass.finetune.tune(path, out, path, data),
}


@pytest.mark.slow_but_every(3)
@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("length", [1, 25])
def test_a_length_that_is_not_allowed_is_told_with_its_sample(flexible, use, length, tmp_path):
    path, _ = flexible
    data = texts(8, 16, length)
    with pytest.raises((CalibrationError, InputError)) as told:
        USES[use](path, data, tmp_path / "out.mlpackage")
    text = str(told.value)
    assert "sample 2: input 'tokens': must be of shape (1, " in text
    assert f"Got (1, {length})" in text and "24)" in text
