"""What is left as it is, and why: weights that do not fit, and what a config leaves out."""

from __future__ import annotations

import re
import shutil

import numpy as np
import pytest

import mlpass
from mlpass import NM, Config, Kernel, Percentile, Threshold
from mlpass.program.mlpackage import Package
from mlpass.weights.sites import find_sites


def with_weight(fixtures, tmp_path, change):
    """A copy of a package in which `change` has edited one weight's elements in place."""
    path = tmp_path / "edited.mlpackage"
    shutil.copytree(fixtures / "tiny_lm.mlpackage", path)
    with Package(path) as opened:
        site = find_sites(opened.programs)[0]
        weight = site.constant.read().copy()
    file = path / "Data/com.apple.CoreML/weights/weight.bin"
    content = bytearray(file.read_bytes())
    start = content.index(weight.tobytes())
    change(weight)
    content[start : start + weight.nbytes] = weight.tobytes()
    file.write_bytes(content)
    return path, site.name


@pytest.mark.parametrize("mode", [Percentile(0.5), Percentile(0.5, "global"), NM(2, 4)], ids=str)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_with_nan_or_inf_are_skipped(fixtures, tmp_path, mode, value):
    def spoil(weight):
        weight[3, 5] = value

    path, name = with_weight(fixtures, tmp_path, spoil)
    report = mlpass.prune(path, tmp_path / "out.mlpackage", mode)
    skipped = {layer.name: layer.skipped for layer in report.layers if layer.skipped}
    assert skipped == {name: "it holds NaN or inf"}


def test_weights_that_are_sparse_already_are_encoded_exactly(fixtures, tmp_path):
    def thin(weight):
        weight[:, ::2] = 0

    path, name = with_weight(fixtures, tmp_path, thin)
    report = mlpass.prune(path, tmp_path / "out.mlpackage", Threshold())
    layers = {layer.name: layer for layer in report.layers}
    assert layers[name].sparsity == 0.5
    assert layers[name].encoding == "sparse"
    assert sum(layer.mode is not None for layer in report.layers) == 1


SKIPS = [
    (
        "basic_pitch",
        Percentile(0.5),
        "squeeze_0",
        "its 256 elements are no more than weight_threshold",
    ),
    ("digits_ios15", Kernel(0.5), "var_1_1_weight_to_fp16", "it has no spatial kernels"),
    (
        "palettized_digits",
        Percentile(0.5),
        None,
        "it is already compressed, by constexpr_lut_to_dense",
    ),
    ("quantized_digits", NM(2, 4), None, "already compressed, by constexpr_blockwise_shift_scale"),
    (
        "stateful_lm",
        Config(Percentile(0.5), weight_threshold=100),
        None,
        "its columns are sinusoids of the row: a table of positions",
    ),
    ("tiny_lm", Threshold(0.0), None, "would be below minimum_sparsity_percentile 0.5"),
    ("efficientnet_lite0", NM(2, 4), None, r"its input channels \(1\) are fewer than m \(4\)"),
    ("tiny_lm", Percentile(0.00001), None, r"Percentile\(1e-05\) zeroes nothing in it"),
    ("branches", Config(), None, "global_config is None"),
]


@pytest.mark.parametrize(("name", "config", "weight", "text"), SKIPS)
def test_every_skip_has_its_reason(fixtures, tmp_path, name, config, weight, text):
    report = mlpass.prune(fixtures / f"{name}.mlpackage", tmp_path / "out.mlpackage", config)
    reasons = {layer.name: layer.skipped for layer in report.layers if layer.skipped}
    matching = [key for key, reason in reasons.items() if pytest_match(text, reason)]
    assert weight in matching if weight else matching


def pytest_match(text, reason):
    return re.search(text, reason) is not None


def test_configs_select_by_name_type_and_glob(fixtures, tmp_path):
    config = Config(
        Percentile(0.5),
        op_type_configs={"gru": None, "rnn": NM(1, 2)},
        op_name_configs={"then_linear_weight_0": None, "gru_weight_hh*": Percentile(0.9)},
    )
    report = mlpass.prune(fixtures / "branches.mlpackage", tmp_path / "o.mlpackage", config)
    how = {layer.name: layer.mode or layer.skipped for layer in report.layers}
    assert how["then_linear_weight_0"] == "op_name_configs['then_linear_weight_0'] is None"
    assert how["gru_weight_ih_0"] == "op_type_configs['gru'] is None"
    assert how["gru_weight_hh_0"] == "Percentile(0.9)"
    assert how["rnn_weight_ih_0"] == "NM(1:2)"
    assert how["loop_linear_weight_1"] == "Percentile(0.5)"


def test_a_tied_weight_excluded_by_one_reader_stays(fixtures, tmp_path):
    config = Config(Percentile(0.5), op_type_configs={"gather": None})
    report = mlpass.prune(fixtures / "tiny_lm.mlpackage", tmp_path / "o.mlpackage", config)
    skipped = {layer.name: layer.skipped for layer in report.layers if layer.skipped}
    assert skipped == {"embedding_weight_to_fp16": "op_type_configs['gather'] is None"}
