"""Which entry of a config wins."""

from __future__ import annotations

import pytest

from mlpass.errors import ConfigError, close_matches
from mlpass.plan.config import Config, OpConfig
from mlpass.plan.lookup import Found, look_up, unmatched
from mlpass.sparsity.modes import NM, Percentile
from mlpass.storage.quantized import Quantized

HALF, MOST = Percentile(0.5), Percentile(0.9)

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
    assert look_up(CONFIG, names, op_types) == Found(mode and OpConfig(mode, None, 2048), why)


def test_entries_of_one_rank_that_contradict_are_an_error():
    config = Config(op_type_configs={"gather": HALF, "linear": MOST})
    with pytest.raises(ConfigError, match="'gather' and 'linear' give 'table', which both read"):
        look_up(config, ("table",), ("gather", "linear"))
    same = Config(op_type_configs={"gather": HALF, "linear": HALF})
    assert look_up(same, ("table",), ("gather", "linear")).op_config.mode == HALF


def test_a_part_of_a_name_is_near_it():
    names = ["embedding_weight_to_fp16", "layers_0_query_weight_to_fp16", "head"]
    assert close_matches("embeding", names) == ", did you mean 'embedding_weight_to_fp16'?"
    assert close_matches("Layers_0_q", names) == f", did you mean {names[1]!r}?"
    assert close_matches("Head", names) == ", did you mean 'head'?"
    assert close_matches("18", ["iOS17", "iOS18"]) == ", did you mean 'iOS18'?"
    assert close_matches("tail", names) == "" == close_matches(3, names)


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


def test_an_entry_may_have_a_threshold_of_its_own():
    config = Config(OpConfig(HALF, weight_threshold=0), {"conv": OpConfig(storage="int8")}, {}, 10)
    assert look_up(config, ("a",), ("linear",)).op_config.weight_threshold == 0
    found = look_up(config, ("a",), ("conv",))
    assert found == Found(OpConfig(None, Quantized("int8"), 10), "op_type_configs['conv']")


def test_storages_that_contradict_are_an_error():
    config = Config(op_type_configs={"gather": OpConfig(HALF, "int8"), "linear": HALF})
    with pytest.raises(ConfigError, match="'linear' give 'table', which .*different modes or stor"):
        look_up(config, ("table",), ("gather", "linear"))
