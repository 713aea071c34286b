"""Sensitivity: each layer's error at each sparsity, equal to that of pruning it there."""

from __future__ import annotations

import json

import numpy as np
import pytest

import mlpass
from mlpass import ConfigError, Magnitude, Percentile, SparseGPT


@pytest.mark.slow_but_every(2)
@pytest.mark.parametrize("method", [Magnitude(), SparseGPT()])
def test_errors_are_those_of_pruning_in_the_dense_model(model, samples, tmp_path, method):
    report = mlpass.sensitivity(model, samples, (0.75, 0.5), method)
    assert report.sparsities == (0.5, 0.75)
    assert report.samples == 2
    for place, sparsity in enumerate(report.sparsities):
        out = tmp_path / "out.mlpackage"
        single = mlpass.prune(
            model,
            out,
            Percentile(sparsity),
            method=method,
            sample_data=samples,
            propagate="dense",
            force=True,
        )
        for layer, record in zip(report.layers, single.layers, strict=True):
            if record.shrinkage or not record.method.startswith(str(method)):
                continue  # few rows: a run trusts them less
            assert layer.errors[place] == record.error
            vanished = record.zeros - int(sparsity * layer.size)  # kept, but 0 once they are fp16
            assert 0 <= vanished <= 2
            assert layer.nbytes[place] == record.bytes_after + 2 * vanished


def test_errors_rise_and_bytes_fall(model, samples):
    report = mlpass.sensitivity(model, samples, method="magnitude")
    for layer in report.layers:
        assert list(layer.errors) == sorted(layer.errors)
        assert list(layer.nbytes) == sorted(layer.nbytes, reverse=True)
        assert layer.errors[0] == 0
    assert "at 0.75" in str(report).splitlines()[0]
    content = json.loads(json.dumps(report.to_dict()))
    assert content["layers"][0]["name"] == report.layers[0].name


def test_what_is_skipped_says_why(fixtures):
    image = [{"image": np.zeros((1, 1, 28, 28), np.float32)}]
    report = mlpass.sensitivity(fixtures / "digits_classifier.mlpackage", image, (0.5,))
    small = report.layers[0]
    assert small.errors == ()
    assert small.skipped == "its 288 elements are no more than weight_threshold 2048"
    assert "skipped: its 288 elements" in str(report)
    every = mlpass.sensitivity(
        fixtures / "digits_classifier.mlpackage", image, (0.5,), weight_threshold=0
    )
    assert every.layers[0].skipped is None


def test_a_branch_that_is_not_taken_says_so(fixtures):
    model = fixtures / "branches.mlpackage"
    inputs = mlpass.Interpreter(model).inputs
    ones = [{one.name: np.ones(one.shape, np.float32) for one in inputs}]
    report = mlpass.sensitivity(model, ones, (0.5,), "magnitude", weight_threshold=0)
    assert {layer.name: layer.skipped for layer in report.layers if layer.skipped} == {
        "else_matmul_y_0": "no sample reaches it"
    }


@pytest.mark.parametrize("wrong", [(), (0.5, 0.5)])
def test_sparsities_that_cannot_be(model, samples, wrong):
    with pytest.raises(ConfigError, match="sparsities: must be numbers, each once"):
        mlpass.sensitivity(model, samples, wrong)
    with pytest.raises(ConfigError, match="target_sparsity: must be a number in"):
        mlpass.sensitivity(model, samples, (0.5, 2.0))
