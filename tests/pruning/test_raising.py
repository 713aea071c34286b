"""Pruning for another deployment target than the one that a package was converted for."""

from __future__ import annotations

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil.mil import Builder as mb

import mlpass
from mlpass import Config, Percentile
from mlpass.errors import ConfigError
from tests import peer
from tests.runtime.programs import program


@pytest.mark.slow_but_every(3)
@pytest.mark.parametrize("target", ["iOS18", "macOS15", ct.target.iOS18])
def test_a_package_is_raised_to_the_target_that_a_form_needs(fixtures, tmp_path, target):
    source, out = fixtures / "tiny_lm.mlpackage", tmp_path / "out.mlpackage"
    with np.load(fixtures / "tiny_lm.npz") as arrays:
        samples = [{"tokens": arrays["input:tokens"]}]
    options = {"sample_data": samples, "storage": "int8", "minimum_deployment_target": target}
    report = mlpass.prune(source, out, Percentile(0.5), **options)
    assert {layer.encoding for layer in report.layers} == {"sparse + quantized"}
    assert report.bytes_before == mlpass.inspect(source).bytes_before
    (raised,) = peer.load_programs(out)
    assert raised.functions["main"].opset_version == ct.target.iOS18


def test_compressed_weights_of_an_older_opset_are_pruned_when_raised(tmp_path):
    from tests.program.opsets.raised import package_of
    from tests.program.opsets.test_compressed import ROWS, SHAPE, affine

    old = package_of(
        tmp_path,
        lambda x: mb.linear(x=x, weight=affine(np.int8, np.zeros(24, np.int8), ROWS), name="y"),
        [mb.TensorSpec((2, SHAPE[1]))],
        16,
    )
    out = tmp_path / "out.mlpackage"
    config = Config(global_config=Percentile(0.75), weight_threshold=1)
    options = {"joint_compression": True, "minimum_deployment_target": "iOS18"}
    (layer,) = mlpass.prune(old, out, config, **options).layers
    assert layer.encoding == "sparse + quantized"
    packages = (peer.all_ops(peer.load_programs(path)) for path in (old, out))
    was, now = (peer.value_of(next(op for op in ops if op.name == "w")) for ops in packages)
    assert np.count_nonzero(now) == now.size // 4
    assert np.array_equal(now[now != 0], was[now != 0])


def test_targets_that_cannot_be(fixtures, tmp_path):
    source, out = fixtures / "tiny_lm.mlpackage", tmp_path / "out.mlpackage"
    with pytest.raises(ConfigError, match=r"is for iOS17, and a model cannot be lowered to iOS16"):
        mlpass.prune(source, out, Percentile(0.5), minimum_deployment_target="iOS16")
    with pytest.raises(ConfigError, match="must be one of coremltools' targets"):
        mlpass.prune(source, out, Percentile(0.5), minimum_deployment_target="18")
    live = program(lambda x: mb.relu(x=x), (1, 4))
    with pytest.raises(ConfigError, match="minimum_deployment_target: raises packages; a Program"):
        mlpass.prune(live, Percentile(0.5), minimum_deployment_target="iOS18")
    assert not out.exists()
