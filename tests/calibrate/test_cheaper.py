"""What a weight came to beside int8 without samples, by plain products over a layer's inputs."""

from __future__ import annotations

import shlex
from dataclasses import replace

import numpy as np
import pytest

import mlpass
from mlpass import Palette, Percentile, SparseGPT, Wanda
from mlpass.calibrate.cheaper import int8_instead, int8_way
from mlpass.cli import main
from mlpass.report.records import LayerRecord
from mlpass.solvers.gram import Gram
from tests.program.packages import FIXTURES

MODEL = FIXTURES / "tiny_lm.mlpackage"
NAME = "layers_0_up_weight_to_fp16"


@pytest.fixture(scope="module")
def samples():
    with np.load(MODEL.with_suffix(".npz")) as truth:
        return [{"tokens": truth["input:tokens"]}]


def layers_of(report):
    return {layer.name: layer for layer in report.layers}


def test_half_the_weights_zero_is_worse_than_int8(samples, tmp_path, monkeypatch):
    out = tmp_path / "out.mlpackage"
    report = mlpass.prune(MODEL, out, Percentile(0.5), method=Wanda(), sample_data=samples)
    layer = layers_of(report)[NAME]
    assert layer.int8_error < layer.error / 100
    # What int8 by row is, of rows alone: 1/127 of the largest, rounded; noise on a unit of signal.
    rng, weight = np.random.default_rng(0), None
    with mlpass.program.mlpackage.Package(MODEL) as package:
        sites = {site.name: site for site in mlpass.weights.sites.find_sites(package.programs)}
        weight = sites[NAME].constant.read().astype(np.float64)
    scale = np.abs(weight).max(axis=1, keepdims=True) / 127
    off = np.rint(weight / scale) * scale - weight
    inputs = rng.normal(size=(1000, weight.shape[1]))
    expected = np.sum((inputs @ off.T) ** 2) / np.sum((inputs @ weight.T) ** 2)
    assert layer.int8_error == pytest.approx(expected, rel=1.0)  # of the same size: other inputs
    note = next(note for note in report.notes if "int8" in note)
    assert note.startswith("22 of 22 weights take no fewer bytes than in int8 without samples")
    monkeypatch.chdir(tmp_path)
    assert main(shlex.split(note.partition("alone here: ")[2])[1:]) == 0
    better = tmp_path / "int8.mlpackage"
    assert mlpass.inspect(better).bytes_after < report.bytes_after
    before, after = (mlpass.compare(MODEL, each, samples).outputs[0].snr for each in (out, better))
    assert after > before + 20


@pytest.mark.slow
def test_what_is_smaller_than_int8_is_not_held_against_it(samples, tmp_path):
    for number, (config, storage) in enumerate(
        [(Percentile(0.8), None), (None, Palette(4, group_size=0))]
    ):
        report = mlpass.prune(
            MODEL,
            tmp_path / f"{number}.mlpackage",
            config,
            method=SparseGPT(),
            storage=storage,
            sample_data=samples,
        )
        assert {layer.int8_error for layer in report.layers} == {None}
        assert not any("int8" in note for note in report.notes)


def test_few_zeros_are_better_and_more_bytes(samples, tmp_path):
    """One weight in ten thousand: as it is in all but name."""
    config = mlpass.Config(op_name_configs={NAME: Percentile(0.0001)})
    report = mlpass.prune(
        MODEL, tmp_path / "out.mlpackage", config, method=SparseGPT(), sample_data=samples
    )
    layer = layers_of(report)[NAME]
    assert layer.error < 1e-5
    assert layer.int8_error is None


def test_what_aims_at_another_output_is_not_worse_for_that():
    """Its error towards that counts, too."""
    with mlpass.program.mlpackage.Package(MODEL) as package:
        (site,) = (s for s in mlpass.weights.sites.find_sites(package.programs) if s.name == NAME)
        weight = site.constant.read()
        gram = Gram(np.eye(weight.shape[1], dtype=np.float32))
        int8 = int8_instead(site, gram, weight * 1.05, weight.nbytes, 0.1)
        assert 0 < int8 < 1e-3
        assert int8_instead(site, gram, weight * 1.05, weight.nbytes, int8 / 2) is None


def test_zeros_are_not_blamed_where_there_are_none():
    record = LayerRecord(
        "one", "linear", "weight", (8, 8), "fp16", "Percentile(0.0)", "sparsegpt", 0, 0.0,
        "palettized", 128, 80, None, error=1e-3, storage="Palette(8)", int8_error=1e-5,
    )  # fmt: skip
    (note,) = int8_way([record], ["model.mlpackage"])
    assert "it is the better form of them: mlpass prune model.mlpackage" in note
    assert not note.endswith("--joint-compression")
    (note,) = int8_way([record], ["model.mlpackage"], {record.name})
    assert note.endswith("--quantize int8 --joint-compression")  # or the command would do nothing
    (note,) = int8_way([replace(record, storage=None)], ["model.mlpackage"])
    assert "zeros pay for speed alone here: " in note
