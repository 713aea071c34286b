"""Compressed weights, decoded by rows: what coremltools decodes, and the bytes of a whole."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

import mlpass
from mlpass import Config, OpConfig, Palette, Percentile, Quantized
from mlpass.program.mlpackage import Package
from mlpass.sparsity import packing, pieces
from mlpass.weights import decoding, in_bands, in_pieces, joint
from mlpass.weights.decoding import by_rows
from mlpass.weights.sites import find_sites
from tests import peer
from tests.weights.test_in_bands import source
from tests.weights.test_in_pieces import contents

_ = source  # a fixture

FORMS = {
    "blocks": OpConfig(None, Quantized("int4", block_size=4)),
    "offsets": OpConfig(None, Quantized("uint8")),
    "tables": OpConfig(None, Palette(3)),
    "sparse": OpConfig(Percentile(0.4)),
    "sparse blocks": OpConfig(Percentile(0.7), Quantized("int8")),
    "sparse tables": OpConfig(Percentile(0.5), Palette(4, group_size=0)),
}


@pytest.fixture(scope="module", params=FORMS)
def compressed(request, source, tmp_path_factory):
    """A package of weights in one form."""
    path = tmp_path_factory.mktemp("forms") / "in.mlpackage"
    mlpass.prune(source, path, Config(FORMS[request.param], weight_threshold=0))
    return path


@pytest.fixture
def large(monkeypatch):
    """Returns what makes every weight a large one."""

    def divide():
        for module in (in_pieces, decoding):
            monkeypatch.setattr(module, "WHOLE", 1000)
        for module in (pieces, packing, in_bands, joint):
            monkeypatch.setattr(module, "SLAB", 320)

    return divide


def test_rows_are_what_coremltools_decodes(compressed, large):
    large()
    ops = {op.outputs[-1].name: op for op in peer.all_ops(peer.load_programs(compressed))}
    with Package(compressed) as package:
        for site in find_sites(package.programs):
            read = by_rows(site)
            assert read is not None
            size = int(np.prod(site.shape))
            ends = [*range(0, size, 777), size]
            parts = [read(start, stop) for start, stop in pairwise(ends)]
            assert peer.same(
                peer.value_of(ops[site.name]), np.concatenate(parts).reshape(site.shape)
            )


@pytest.mark.slow_but_every(2)
@pytest.mark.parametrize(
    ("config", "joint_compression"),
    [
        (OpConfig(Percentile(0.8)), True),
        (OpConfig(None, Quantized("int8")), False),  # of what is sparse; others are left alone
    ],
)
def test_compressed_weights_make_the_same_package(
    compressed, large, config, joint_compression, tmp_path
):
    given = Config(config, weight_threshold=0)
    out = tmp_path / "whole.mlpackage", tmp_path / "parted.mlpackage"
    whole = mlpass.prune(compressed, out[0], given, joint_compression=joint_compression)
    large()
    parted = mlpass.prune(compressed, out[1], given, joint_compression=joint_compression)
    assert parted.layers == whole.layers
    assert contents(out[1]) == contents(out[0])


def test_a_mask_that_does_not_fit_is_left_to_the_whole(source, large, tmp_path):
    """The count of what a mask has is not that of the values: no row can be trusted."""
    path = tmp_path / "in.mlpackage"
    mlpass.prune(source, path, Config(Percentile(0.4), weight_threshold=0))
    large()
    with Package(path) as package:
        site = find_sites(package.programs)[0]
        (mask,) = site.makers[0].inputs["mask"]
        object.__setattr__(mask, "part", lambda start, stop: np.zeros(-(-stop // 8), np.uint8))
        assert by_rows(site) is None
