"""The grid: what can be tried, and how it is written."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from mlpass import (
    ADMM,
    NM,
    Block,
    Channel,
    Config,
    ConfigError,
    Kernel,
    Lossless,
    Magnitude,
    OpConfig,
    Palette,
    Percentile,
    Quantized,
    SparseGPT,
    Threshold,
    Wanda,
)
from mlpass.calibrate.plain import method_of
from mlpass.sparsity.mode import Mode
from mlpass.study.grid import Candidate, make_candidates


def test_every_form_of_config():
    named = {"name": "careful", "config": Config(Block(0.5, block_size=4)), "method": "admm"}
    own = Candidate("mine", Config(Percentile(0.1)))
    found = make_candidates(
        [Percentile(0.5), {"n_m_ratio": [2, 4], "quantize": "int4"}, named, own],
        SparseGPT(),
    )
    assert [(c.name, c.method_name) for c in found] == [
        ("Percentile(0.5)", "sparsegpt"),
        ("NM(2:4) + Quantized(int4)", "sparsegpt"),
        ("careful", "admm"),
        ("mine", "magnitude"),
    ]
    assert found[1].config.global_config == OpConfig(NM(2, 4), Quantized("int4"))
    assert [candidate.data_free for candidate in found] == [False, False, False, True]


@pytest.mark.parametrize(
    ("config", "phrase"),
    [
        (Percentile(0.125), "12.5% zeros"),
        (Percentile(0.5, scope="row"), "50% zeros in each row"),
        (Percentile(0.5, scope="global"), "50% zeros over all weights"),
        (NM(2, 4), "2:4 zeros"),
        (NM(2, 4, dim=0), "2:4 zeros, dim 0"),
        (Block(0.5, block_size=4), "50% zeros in blocks of 4"),
        (Block(0.5, block_size=4, dim=1), "50% zeros in blocks of 4, dim 1"),
        (Kernel(0.25), "25% of kernels zero"),
        (Channel(0.1), "10% of channels zero"),
        (Threshold(0.01), "magnitudes up to 0.01 zero"),
        (Threshold(0.01, 0.2), "magnitudes up to 0.01 zero, minimum sparsity percentile 0.2"),
        (OpConfig(storage=Quantized("int4", block_size=32)), "int4 in blocks of 32"),
        (OpConfig(storage=Quantized(outliers=0.01)), "int8, outliers 0.01"),
        (OpConfig(storage=Palette(3, group_size=16)), "3-bit palette in groups of 16"),
        (OpConfig(storage=Palette(6, group_size=0)), "6-bit palette, one table"),
        (OpConfig(NM(2, 4), Palette()), "2:4 zeros, 4-bit palette"),
        (OpConfig(storage=Lossless()), "lossless"),
        (Config(Percentile(0.5), weight_threshold=7), "config 1"),
        ({"name": "careful", "target_sparsity": 0.5}, "careful"),
    ],
    ids=str,
)
def test_configs_as_people_say_them(config, phrase):
    (candidate,) = make_candidates([config])
    assert candidate.phrase == phrase


def test_the_phrase_of_a_mode_that_has_none():
    @dataclass(frozen=True)
    class EveryOther(Mode):
        share: float
        skip_first: int = 0

    assert EveryOther(0.5).phrase == "every other, share 0.5"
    assert EveryOther(0.5, 2).phrase == "every other, share 0.5, skip first 2"


def test_storages_are_data_free_without_a_method():
    found = make_candidates(
        [
            {"quantize": "int8"},
            {"target_sparsity": 0.5, "palettize": 4, "group_size": 16, "method": "sparsegpt"},
            {"config": Percentile(0.5), "storage": "int4"},
            Quantized("int4", 32),
            {"global_config": {"n_m_ratio": [2, 4]}, "quantize": "int4"},
            Percentile(0.3),
        ],
        storage="uint8",
    )
    assert [(c.name, c.data_free) for c in found] == [
        ("Quantized(int8)", True),
        ("Percentile(0.5) + Palette(4, group_size=16)", False),
        ("Percentile(0.5) + Quantized(int4)", True),
        ("Quantized(int4, block_size=32)", True),
        ("NM(2:4) + Quantized(int4)", True),
        ("Percentile(0.3) + Quantized(uint8)", True),
    ]


def test_a_config_that_is_no_single_mode_is_called_by_its_number():
    several = {"global_config": {"target_sparsity": 0.5}, "op_type_configs": {"conv": None}}
    (found,) = make_candidates([several])
    assert found.name == "config 1"


def test_each_config_by_each_method():
    found = make_candidates([Percentile(0.5), Percentile(0.7)], ["magnitude", Wanda(refit=True)])
    assert [(c.name, c.method_name) for c in found] == [
        ("Percentile(0.5)", "magnitude"),
        ("Percentile(0.5)", "wanda + refit"),
        ("Percentile(0.7)", "magnitude"),
        ("Percentile(0.7)", "wanda + refit"),
    ]


def test_grid_files(tmp_path):
    path = tmp_path / "grid.yaml"
    path.write_text("- {target_sparsity: 0.5}\n- {n_m_ratio: [2, 4], method: admm}\n")
    assert [candidate.method for candidate in make_candidates(path)] == [Magnitude(), ADMM()]
    path.write_text("methods: [wanda, sparsegpt]\nconfigs:\n- {target_sparsity: 0.5}\n")
    assert [candidate.method for candidate in make_candidates(path)] == [Wanda(), SparseGPT()]
    assert [candidate.method for candidate in make_candidates(path, "admm")] == [ADMM()]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("global_config: {}", "must hold a list of configs, or a mapping with configs and methods"),
        ("3", "must hold a list of configs"),
        ("[: :", "is not YAML"),
        ("[]", "holds no configs; give at least one"),
        ("configs: 3", "must be a list of configs, or the path of a YAML file with one. Got int"),
        ("- {target_sparsity: 2}", r"\[0\]: config: target_sparsity: must be a number in \[0, 1\]"),
    ],
)
def test_files_that_are_no_grid(tmp_path, text, message):
    path = tmp_path / "grid.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        make_candidates(path)


def test_the_same_twice():
    with pytest.raises(ConfigError, match=r"'NM\(2:4\)' by magnitude appears 2 times; give each"):
        make_candidates([NM(2, 4), NM(2, 4)])


def test_methods_that_are_none():
    with pytest.raises(ConfigError, match="Got 'sparsgpt', did you mean 'sparsegpt'"):
        method_of("sparsgpt")
    with pytest.raises(ConfigError, match="method: must be one of magnitude, wanda, sparsegpt"):
        make_candidates([NM(2, 4)], 3)
