"""Which mode options describe."""

from __future__ import annotations

import pytest

from mlpass.errors import ConfigError
from mlpass.plan.mode_options import mode_from_options
from mlpass.sparsity.modes import NM, Block, Channel, Kernel, Percentile, Threshold

HALF = Percentile(0.5)


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
        ({"n_m_ratio": "2-4"}, "n_m_ratio: must be N:M"),
        ({"n_m_ratio": 124}, r"such as \[2, 4\]. Got 124"),  # 2:4 in YAML, without quotes
        ({"n_m_ratio": "4:2"}, "Did you mean 2:4"),
        ({"target_sparsity": 50}, "Got 50. Did you mean 0.5?"),
        ({"target_sparsity": 0.5, "group_sise": 8}, "did you mean 'group_size'"),
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
