"""coremltools' own configs of palettization and quantization, from the objects that it makes."""

from __future__ import annotations

import numpy as np
import pytest
from coremltools.optimize import coreml as cto

from mlpass.errors import ConfigError
from mlpass.plan.config import Config, OpConfig, as_config
from mlpass.sparsity.modes import Percentile
from mlpass.storage.palette import Palette
from mlpass.storage.quantized import Quantized

PALETTIZER, QUANTIZER = cto.OpPalettizerConfig, cto.OpLinearQuantizerConfig


@pytest.mark.parametrize(
    ("kind", "options", "storage"),
    [
        (PALETTIZER, {"nbits": 4}, Palette(bits=4, group_size=None)),
        (
            PALETTIZER,
            {"mode": "kmeans", "nbits": 4, "granularity": "per_grouped_channel", "group_size": 8},
            Palette(bits=4, group_size=8),
        ),
        (PALETTIZER, {"nbits": 4, "group_size": 8}, Palette(bits=4, group_size=None)),
        (QUANTIZER, {}, Quantized("int8")),
        (QUANTIZER, {"dtype": "int4"}, Quantized("int4")),
        (QUANTIZER, {"mode": "linear", "dtype": "int4"}, Quantized("uint4")),
        (QUANTIZER, {"mode": "linear", "dtype": "uint8"}, Quantized("uint8")),
        (QUANTIZER, {"dtype": "uint8"}, Quantized("int8")),
        (
            QUANTIZER,
            {"dtype": "int4", "granularity": "per_block", "block_size": 16},
            Quantized("int4", 16),
        ),
    ],
    ids=str,
)
def test_objects_and_yaml_are_read_as_they_are(tmp_path, kind, options, storage):
    wanted = Config(OpConfig(storage=storage, weight_threshold=2048), {"conv": None})
    peer = cto.OptimizationConfig(global_config=kind(**options), op_type_configs={"conv": None})
    assert as_config(peer) == wanted
    lines = "".join(f"  {name}: {value}\n" for name, value in options.items())
    path = tmp_path / "peer.yaml"
    path.write_text(
        f"config_type: {kind.__name__}\nglobal_config:\n  weight_threshold: 2048\n{lines}"
        "op_type_configs:\n  conv: null\n"
    )
    assert as_config(path) == wanted
    assert as_config(cto.OptimizationConfig.from_yaml(str(path))) == wanted


def test_kinds_may_be_mixed():
    peer = cto.OptimizationConfig(
        global_config=cto.OpMagnitudePrunerConfig(target_sparsity=0.5, weight_threshold=None),
        op_type_configs={"conv": QUANTIZER(dtype=np.uint8, weight_threshold=None)},
    )
    assert as_config(peer) == Config(Percentile(0.5), {"conv": OpConfig(storage=Quantized("int8"))})


@pytest.mark.parametrize(
    ("kind", "options", "text"),
    [
        (PALETTIZER, {"mode": "unique"}, "mode: mlpass stores no weights so; .* Got 'unique'"),
        (PALETTIZER, {"nbits": 4, "cluster_dim": 2}, "cluster_dim: .* it must be 1. Got 2"),
        (
            PALETTIZER,
            {"nbits": 4, "enable_per_channel_scale": True},
            "enable_per_channel_scale: .* must be False. Got True",
        ),
        (PALETTIZER, {"nbits": 4, "channel_axis": 1}, "channel_axis: .* must be None. Got 1"),
        (
            PALETTIZER,
            {"mode": "custom", "lut_function": len},
            "mode: .* Got 'custom'",
        ),
        (QUANTIZER, {"granularity": "per_tensor"}, "granularity: .* Got 'per_tensor'"),
        (QUANTIZER, {"granularity": "per_block", "block_size": [1, 32]}, r"Got \[1, 32\]"),
        (QUANTIZER, {"granularity": "per_block", "block_size": 0}, "share a scale. Got 0"),
    ],
    ids=str,
)
def test_what_no_storage_here_says_is_named(kind, options, text):
    peer = cto.OptimizationConfig(op_name_configs={"stem": kind(**options)})
    with pytest.raises(ConfigError, match=rf"op_name_configs\['stem'\]: .*{text}"):
        as_config(peer)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"config_type": "OpPalettizerConfig", "nbit": 4}, "'nbit', did you mean 'nbits'"),
        ({"config_type": "OpPalettizerConfig"}, "nbits: must be given"),
        ({"config_type": "OpLinearQuantizerConfig", "dtype": "int3"}, "dtype: must be one of int8"),
        ({"config_type": "OpLinearQuantizerConfig", "dtype": np.int16}, "dtype: must be one of"),
    ],
    ids=str,
)
def test_options_that_coremltools_would_refuse(options, text):
    with pytest.raises(ConfigError, match=text):
        as_config(options)


def test_other_objects_are_refused():
    class OptimizationConfig:
        global_config = object()
        op_type_configs = op_name_configs = None

    with pytest.raises(ConfigError, match="global_config: must be one of OpMagnitude.* Got object"):
        as_config(OptimizationConfig())
