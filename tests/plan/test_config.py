"""Configs in all their forms, and which entry wins."""

from __future__ import annotations

import pytest
from coremltools.optimize import coreml as cto

from mlpass.errors import ConfigError
from mlpass.plan.config import (
    Config,
    OpConfig,
    as_config,
    configured,
)
from mlpass.plan.lookup import look_up
from mlpass.sparsity.modes import NM, Block, Percentile, Threshold
from mlpass.storage.palette import Palette
from mlpass.storage.plain import Plain
from mlpass.storage.quantized import Quantized

HALF, MOST = Percentile(0.5), Percentile(0.9)


CONFIG = Config(
    global_config=HALF,
    op_type_configs={"conv": MOST, "linear": None},
    op_name_configs={"head_weight": NM(2, 4), "block_*": MOST, "block_1*": None},
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
        {"head_*": OpConfig(Block(0.9, 4), weight_threshold=10)},
        100,
    )
    assert look_up(as_config(str(path)), ("head_1",), ("linear",)).op_config.weight_threshold == 10


def test_coremltools_yaml_means_what_it_means_there(tmp_path):
    path = tmp_path / "peer.yaml"
    path.write_text(PEER_YAML)
    ours = as_config(path)
    theirs = as_config(cto.OptimizationConfig.from_yaml(str(path)))
    assert ours.global_config == Threshold(0.01)
    assert ours.op_type_configs == {"conv": NM(3, 4)}
    assert ours.op_name_configs == {"stem": None}
    for name, op_type in [("x", "linear"), ("x", "conv"), ("stem", "conv")]:
        assert look_up(ours, (name,), (op_type,)) == look_up(theirs, (name,), (op_type,))


def test_coremltools_objects():
    peer = cto.OptimizationConfig(
        global_config=cto.OpMagnitudePrunerConfig(target_sparsity=0.5, weight_threshold=7),
        op_type_configs={"conv": cto.OpMagnitudePrunerConfig(target_sparsity=0.5, block_size=2)},
        op_name_configs={"a": cto.OpThresholdPrunerConfig(threshold=0.5), "b": None},
    )
    assert as_config(peer) == Config(
        OpConfig(HALF, None, 7),
        {"conv": OpConfig(Block(0.5, 2), None, 2048)},
        {"a": OpConfig(Threshold(0.5), None, 2048), "b": None},
    )


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
        ("op_nam_configs: {a: null}", "unknown section 'op_nam_configs', did you mean"),
        (
            "global_config: 0.5",
            "global_config: must be the options of a mode or a stor",
        ),
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
        (lambda: Config(global_config=0.5), "global_config: must be a mode, a storage, .* Got 0.5"),
        (lambda: Config(op_type_configs={"conv": 1}), r"op_type_configs\['conv'\]: must be a mode"),
        (lambda: Config(op_name_configs=[HALF]), "op_name_configs: must map names to modes"),
        (lambda: Config(weight_threshold=1.5), "weight_threshold: must be an int of 0 or more"),
        (lambda: as_config({"adapters": 3}), "adapters: must be"),
        (lambda: as_config(0.5), "config: must be a mode, a storage, .* Got float"),
    ],
)
def test_wrong_configs_say_what(make, text):
    with pytest.raises(ConfigError, match=text):
        make()


@pytest.mark.parametrize(
    ("content", "config"),
    [
        ({"adapters": True}, Config(adapters=True)),
        ({"adapters": True, "target_sparsity": 0.5}, Config(HALF, adapters=True)),
        (
            {"adapters": False, "op_type_configs": {"conv": {"target_sparsity": 0.5}}},
            Config(None, {"conv": HALF}),
        ),
    ],
)
def test_whether_adapters_come_along_goes_with_every_form(content, config):
    assert as_config(content) == config


def test_a_missing_yaml_is_the_systems_own_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        as_config(tmp_path / "none.yaml")


JOINT = OpConfig(HALF, Palette(bits=4, group_size=16))


@pytest.mark.parametrize(
    ("entry", "found"),
    [
        ({"target_sparsity": 0.5, "palettize": 4, "group_size": 16}, JOINT),
        ({"target_sparsity": 0.5, "storage": {"palettize": 4, "group_size": 16}}, JOINT),
        ({"quantize": "int8"}, OpConfig(storage=Quantized("int8"))),
        ({"storage": "int8", "weight_threshold": 3}, OpConfig(None, Quantized("int8"), 3)),
        (
            {
                "quantize": "int4",
                "quantize_block_size": 32,
                "target_sparsity": 0.5,
                "block_size": 2,
            },
            OpConfig(Block(0.5, 2), Quantized("int4", 32)),
        ),
        ({"storage": "plain", "target_sparsity": 0.5}, OpConfig(HALF, Plain())),
        (Quantized("int4"), OpConfig(storage=Quantized("int4"))),
        (JOINT, JOINT),
    ],
    ids=str,
)
def test_an_entry_is_a_mode_a_storage_or_both(entry, found):
    assert as_config(entry) == Config(found)
    if not isinstance(entry, dict):
        assert Config(entry, {"conv": entry}).entries == [entry, entry]
        return
    assert as_config({"op_type_configs": {"conv": entry}}) == Config(None, {"conv": found})
    assert as_config({"op_name_configs": {"*": entry}}) == Config(op_name_configs={"*": found})


def test_one_storage_is_for_all_entries_that_name_none(tmp_path):
    sections = {
        "global_config": {"target_sparsity": 0.5},
        "op_type_configs": {"conv": {"quantize": "int4"}, "linear": None},
        "op_name_configs": {"stem": {"target_sparsity": 0.9, "storage": "plain"}},
    }
    wanted = Config(
        OpConfig(HALF, Quantized("int8")),
        {"conv": OpConfig(storage=Quantized("int4")), "linear": None},
        {"stem": OpConfig(MOST, Plain())},
    )
    assert as_config({**sections, "quantize": "int8"}) == wanted
    assert as_config({**sections, "storage": "int8"}) == wanted
    assert configured(sections, "int8") == wanted
    assert configured(None, "int8") == Config(OpConfig(storage=Quantized("int8")))
    assert configured(sections) == as_config(sections)
    with pytest.raises(ConfigError, match=r"storage: .* as they are, so Quantized\(int8\) too"):
        configured(Config(None, {"conv": None}), "int8")


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ({"group_size": 8}, "config: group_size: needs palettize"),
        ({"quantize": "int4", "group_size": 8}, "group_size: does not go with quantize"),
        ({"quantize": "int4", "block_size": 32}, "own is quantize_block_size"),
        ({"quantize": "int4", "palettize": 4}, "quantize: does not go with palettize; choose one"),
        ({"quantize": "int4", "storage": "int8"}, "quantize: set it in storage itself"),
        ({"quantize": {"dtype": "int4"}, "quantize_block_size": 8}, "set it in quantize itself"),
        ({"config_type": "OpThing", "quantize": "int8"}, "config_type: must be one of OpMagnitude"),
        ({"quantise": "int4"}, "unknown option 'quantise'"),
    ],
    ids=str,
)
def test_storages_that_cannot_be_say_why(entry, text):
    with pytest.raises(ConfigError, match=text):
        as_config(entry)


def test_an_op_config_checks_its_parts():
    with pytest.raises(ConfigError, match="mode: must be a mode or None. Got 0.5"):
        OpConfig(0.5)
    with pytest.raises(ConfigError, match="storage: must be a storage such as .* Got 4"):
        OpConfig(storage=4)
    with pytest.raises(ConfigError, match="weight_threshold: must be an int of 0 or more. Got -1"):
        OpConfig(HALF, weight_threshold=-1)
    assert str(JOINT) == "Percentile(0.5) + Palette(4, group_size=16)"
