"""Storages without samples, in a package: coremltools decodes them to the nearest values."""

from __future__ import annotations

import numpy as np
import pytest

import mlpass
from mlpass import Config, OpConfig, Palette, Percentile, Quantized
from mlpass.program.mlpackage import Package
from mlpass.solvers.nearest import nearest
from mlpass.weights.reading import layout_of_site, weight_of
from mlpass.weights.sites import find_sites
from tests import peer
from tests.weights.test_storing import SHAPES, source

_ = source  # a fixture


@pytest.mark.slow_but_every(5)
@pytest.mark.parametrize("mode", [None, Percentile(0.5)], ids=str)
@pytest.mark.parametrize(
    "storage", [Quantized("int8"), Quantized("uint4"), Palette(group_size=4)], ids=str
)
def test_every_layout_decodes_to_the_nearest_values(source, tmp_path, storage, mode):
    out = tmp_path / "out.mlpackage"
    report = mlpass.prune(source, out, Config(OpConfig(mode, storage), weight_threshold=0))
    ops = {op.outputs[-1].name: op for op in peer.all_ops(peer.load_programs(out))}
    records = {layer.name: layer for layer in report.layers}
    with Package(source) as package:
        sites = find_sites(package.programs)
        assert len(sites) == len(records) == len(SHAPES)
        for site in sites:
            weight = weight_of(site)
            keep = (mode or Percentile(0.0)).keep(np.abs(weight))
            found = nearest(weight, keep, storage, layout_of_site(site)).weight
            assert peer.same(peer.value_of(ops[site.name]), found + 0)
            record = records[site.name]
            assert record.skipped is None and record.method == "magnitude"
            assert record.zeros == np.count_nonzero(found == 0)


def test_each_weight_in_its_own_storage(source, tmp_path):
    config = Config(
        OpConfig(Percentile(0.5)),
        {"linear": Quantized("int4"), "matmul": None},
        {"*transpose*": OpConfig(storage="plain")},
        weight_threshold=0,
    )
    report = mlpass.prune(source, tmp_path / "out.mlpackage", config, storage={"palettize": 4})
    for layer in report.layers:
        if layer.op_type == "matmul":
            assert layer.skipped == "op_type_configs['matmul'] is None"
        elif layer.op_type == "conv_transpose":
            assert layer.skipped == (
                "op_name_configs['*transpose*'] names no mode, and no storage other than it has"
            )
        else:
            what = "quantized" if layer.op_type == "linear" else "palettized"
            assert what in layer.encoding and layer.skipped is None
