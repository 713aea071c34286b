"""Configs in all their forms, and which entry wins."""

from __future__ import annotations

import pytest
from coremltools.optimize import coreml as cto

from mlpass.errors import ConfigError
from mlpass.plan.config import (
    Choice,
    Config,
    Sized,
    as_config,
    choose,
    mode_from_options,
    unmatched,
)
from mlpass.sparsity.modes import NM, Block, Channel, Kernel, Percentile, Threshold

HALF, MOST = Percentile(0.5), Percentile(0.9)


@pytest.mark.parametrize(
    ("options", "mode"),
    [
        ({"target_sparsity": 0.5}, HALF),
        ({"target_sparsity": 0.5, "scope": "global"}, Percentile(0.5, "global")),
        ({"target_sparsity": 0.5, "granularity": "per_scalar"}, HALF),
        ({"target_sparsity": 0.5, "granularity": "per_kernel"}, Kernel(0.5)),
        ({"target_sparsity": 0.5, "granularity": "per_channel"}, Channel(0.5)),
        ({"target_sparsity": 0.5, "block_size": 4}, Block(0.5, 4)),
        ({"target_sparsity": 0.5, "block_size": 4, "dim": 1}, Block(0.5, 4, 1)),
        ({"n_m_ratio": [2, 4]}, NM(2, 4)),
        ({"n_m_ratio": (1, 2), "dim": 0}, NM(1, 2, 0)),
        ({"threshold": 0.1}, Threshold(0.1)),
        (
            {"threshold": 0.1, "minimum_sparsity_percentile": 0.2},
            Threshold(0.1, 0.2),
        ),
        ({"config_type": "OpThresholdPrunerConfig"}, Threshold()),
        ({"mode": "percentile", "target_sparsity": 0.5}, HALF),
        ({"mode": "Threshold"}, Threshold()),
        ({"mode": "NM", "n": 2, "m": 4}, NM(2, 4)),
        ({"mode": "nm", "n_m_ratio": [2, 4]}, NM(2, 4)),
        ({"mode": "block", "target_sparsity": 0.5, "block_size": 2}, Block(0.5, 2)),
        ({"mode": "kernel", "target_sparsity": 0.5}, Kernel(0.5)),
        ({"mode": "channel", "target_sparsity": 0.5}, Channel(0.5)),
    ],
)
def test_options_describe_modes(options, mode):
    assert mode_from_options(options) == mode


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"target_sparsty": 0.5},
            "unknown option 'target_sparsty', did you mean 'target_sparsity'",
        ),
        ({}, "no mode: give one of target_sparsity, n_m_ratio and threshold .got nothing"),
        ({"dim": 1}, "no mode: .*got dim"),
        ({"n_m_ratio": [2, 4, 8]}, r"n_m_ratio: must be two ints \(n zeros in every m\)"),
        ({"n_m_ratio": "2:4"}, "n_m_ratio: must be two ints"),
        ({"n_m_ratio": [2, 4], "target_sparsity": 0.5}, "target_sparsity: does not go with NM"),
        ({"threshold": 0.5, "block_size": 4}, "block_size: does not go with Threshold"),
        ({"target_sparsity": 0.5, "dim": 0}, "dim: does not go with Percentile"),
        ({"target_sparsity": 0.5, "granularity": "per_layer"}, "granularity: must be one of"),
        (
            {"target_sparsity": 0.5, "granularity": "per_kernel", "block_size": 2},
            "block_size: does not go with Kernel",
        ),
        ({"mode": "percentil"}, "mode: unknown 'percentil', did you mean 'Percentile'"),
        ({"mode": "Percentile"}, "Percentile: needs target_sparsity"),
        ({"mode": "Percentile", "target_sparsity": 0.5, "n": 1}, "n: does not go with Percentile"),
        ({"config_type": "OpPalettizerConfig"}, "config_type: 'OpPalettizerConfig' does not prune"),
        ({"target_sparsity": 2}, r"target_sparsity: must be a number in \[0, 1\]"),
    ],
)
def test_options_that_describe_none_say_why(options, text):
    with pytest.raises(ConfigError, match=text):
        mode_from_options(options)


CONFIG = Config(
    global_config=HALF,
    op_type_configs={"conv": MOST, "linear": None},
    op_name_configs={"head_weight": NM(2, 4), "block_*": MOST, "block_1*": None},
)


@pytest.mark.parametrize(
    ("names", "op_types", "mode", "why"),
    [
        (("other",), ("matmul",), HALF, "global_config"),
        (("other",), ("conv",), MOST, "op_type_configs['conv']"),
        (("other",), ("linear",), None, "op_type_configs['linear']"),
        (("other",), ("conv", "linear"), None, "op_type_configs['linear']"),
        (("head_weight",), ("linear",), NM(2, 4), "op_name_configs['head_weight']"),
        (("block_2",), ("linear",), MOST, "op_name_configs['block_*']"),
        (("block_12",), ("conv",), None, "op_name_configs['block_1*']"),
        (("weight", "block_2"), ("linear",), MOST, "op_name_configs['block_*']"),
    ],
)
def test_the_most_specific_entry_wins(names, op_types, mode, why):
    assert choose(CONFIG, names, op_types) == Choice(mode, 2048, why)


def test_entries_of_one_rank_that_contradict_are_an_error():
    config = Config(op_type_configs={"gather": HALF, "linear": MOST})
    with pytest.raises(ConfigError, match="'gather' and 'linear' give 'table', which both read"):
        choose(config, ("table",), ("gather", "linear"))
    same = Config(op_type_configs={"gather": HALF, "linear": HALF})
    assert choose(same, ("table",), ("gather", "linear")).mode == HALF


def test_names_that_match_nothing_are_told_with_close_matches():
    names, types = {"head_weight", "stem"}, {"conv", "linear"}
    assert unmatched(Config(op_name_configs={"h*": None}), names, types) is None
    assert unmatched(Config(op_name_configs={"head_wieght": None}), names, types) == (
        "op_name_configs: no weight or op is named 'head_wieght', did you mean 'head_weight'?"
    )
    assert unmatched(Config(op_type_configs={"conv2d": None}), names, types) == (
        "op_type_configs: no op with weights is a 'conv2d', did you mean 'conv'?"
    )
    assert unmatched(Config(op_type_configs={"relu": None}), names, types) == (
        "op_type_configs: no op with weights is a 'relu'; those are conv, linear"
    )


YAML = """
global_config: {target_sparsity: 0.5}
op_type_configs:
  conv: {n_m_ratio: [2, 4], dim: 1}
  linear: null
op_name_configs:
  "head_*": {target_sparsity: 0.9, block_size: 4, weight_threshold: 10}
weight_threshold: 100
"""

PEER_YAML = """
config_type: OpThresholdPrunerConfig
global_config:
  threshold: 0.01
op_type_configs:
  conv:
    config_type: OpMagnitudePrunerConfig
    n_m_ratio: [3, 4]
op_name_configs:
  stem: null
"""


def test_yaml(tmp_path):
    path = tmp_path / "prune.yaml"
    path.write_text(YAML)
    assert as_config(path) == Config(
        HALF,
        {"conv": NM(2, 4), "linear": None},
        {"head_*": Sized(Block(0.9, 4), 10)},
        100,
    )
    assert choose(as_config(str(path)), ("head_1",), ("linear",)).weight_threshold == 10


def test_coremltools_yaml_means_what_it_means_there(tmp_path):
    path = tmp_path / "peer.yaml"
    path.write_text(PEER_YAML)
    ours = as_config(path)
    theirs = as_config(cto.OptimizationConfig.from_yaml(str(path)))
    assert ours.global_config == Threshold(0.01)
    assert ours.op_type_configs == {"conv": NM(3, 4)}
    assert ours.op_name_configs == {"stem": None}
    for name, op_type in [("x", "linear"), ("x", "conv"), ("stem", "conv")]:
        assert choose(ours, (name,), (op_type,)) == choose(theirs, (name,), (op_type,))


def test_coremltools_objects():
    peer = cto.OptimizationConfig(
        global_config=cto.OpMagnitudePrunerConfig(target_sparsity=0.5, weight_threshold=7),
        op_type_configs={"conv": cto.OpMagnitudePrunerConfig(target_sparsity=0.5, block_size=2)},
        op_name_configs={"a": cto.OpThresholdPrunerConfig(threshold=0.5), "b": None},
    )
    assert as_config(peer) == Config(
        Sized(HALF, 7),
        {"conv": Sized(Block(0.5, 2), 2048)},
        {"a": Sized(Threshold(0.5), 2048), "b": None},
    )
    wrong = cto.OptimizationConfig(global_config=cto.OpPalettizerConfig(mode="kmeans", nbits=4))
    with pytest.raises(ConfigError, match="global_config: OpPalettizerConfig does not prune"):
        as_config(wrong)


def test_modes_mappings_and_configs_are_configs():
    assert as_config(HALF) == Config(HALF)
    assert as_config({"target_sparsity": 0.5}) == Config(HALF)
    assert as_config({"global_config": None, "op_type_configs": {"conv": HALF}}) == Config(
        None, {"conv": HALF}
    )
    assert as_config(CONFIG) is CONFIG


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("a: [1", "is not YAML"),
        ("[1, 2]", "must hold a mapping with global_config"),
        ("global_confg: null\nweight_threshold: 1", "unknown section 'global_confg', did you mean"),
        ("global_config: 0.5", "global_config: must be the options of a mode, or null. Got 0.5"),
        ("op_type_configs: [conv]\n", r"op_type_configs: must map names to modes. Got \['conv'\]"),
        ("op_type_configs: {conv: {dim: 1}}", r"op_type_configs\['conv'\]: no mode"),
        ("global_config: null\nweight_threshold: -1", "weight_threshold: must be an int of 0"),
        ("global_config: {target_sparsity: 0.5, weight_threshold: x}", "weight_threshold: must be"),
        ("\x00", "is not YAML"),
    ],
)
def test_broken_yaml_says_what_and_where(tmp_path, content, text):
    path = tmp_path / "prune.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=text) as caught:
        as_config(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Config(global_config=0.5), "global_config: must be a mode or None. Got 0.5"),
        (lambda: Config(op_type_configs={"conv": 1}), r"op_type_configs\['conv'\]: must be a mode"),
        (lambda: Config(op_name_configs=[HALF]), "op_name_configs: must map names to modes"),
        (lambda: Config(weight_threshold=1.5), "weight_threshold: must be an int of 0 or more"),
        (lambda: as_config(0.5), "config: must be a mode, a Config, .* Got float"),
    ],
)
def test_wrong_configs_say_what(make, text):
    with pytest.raises(ConfigError, match=text):
        make()


def test_a_missing_yaml_is_the_systems_own_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        as_config(tmp_path / "none.yaml")
