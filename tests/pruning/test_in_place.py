"""In-place pruning by its own name: it does what `prune` does, and takes what `prune` takes."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

import mlpass
from mlpass import Magnitude, Percentile, Wanda
from mlpass.errors import ConfigError
from tests import peer


def program_of(path):
    (program,) = peer.load_programs(path)
    return program


def weights_of(program):
    return {
        op.outputs[0].name: peer.value_of(op)
        for op in peer.all_ops([program])
        if op.op_type == "constexpr_sparse_to_dense"
    }


def test_it_prunes_as_the_package_is_pruned(fixtures, tmp_path):
    path, out = fixtures / "tiny_lm.mlpackage", tmp_path / "out.mlpackage"
    program = program_of(path)
    report = mlpass.prune_program(program, Percentile(0.6))
    assert report.output == "program, in place"
    mlpass.prune(path, out, Percentile(0.6))
    ours, theirs = weights_of(program), weights_of(program_of(out))
    assert ours and ours.keys() == theirs.keys()
    for name, weight in ours.items():
        assert np.array_equal(weight, theirs[name]), name


def test_its_options_reach_the_run(fixtures):
    path = fixtures / "tiny_lm.mlpackage"
    with np.load(fixtures / "tiny_lm.npz") as arrays:
        sample = {name[6:]: arrays[name] for name in arrays.files if name.startswith("input:")}
    options = {"method": Wanda(), "sample_data": [sample], "propagate": "dense"}
    by_name, as_before = program_of(path), program_of(path)
    report = mlpass.prune_program(by_name, Percentile(0.5), **options)
    assert any(layer.error is not None for layer in report.layers)
    assert report.layers == mlpass.prune(as_before, Percentile(0.5), **options).layers
    ours, theirs = weights_of(by_name), weights_of(as_before)
    assert ours and all(np.array_equal(ours[name], theirs[name]) for name in theirs)


def test_it_takes_what_prune_takes():
    taken = dict(inspect.signature(mlpass.prune_program).parameters)
    wanted = dict(inspect.signature(mlpass.prune).parameters)
    of_packages = ("executor", "minimum_deployment_target", "budget", "bits", "tune")
    for name in ("source", "output", "force", "resume", *of_packages):
        del wanted[name]
    del taken["program"]
    assert list(taken) == list(wanted)
    for name in taken.keys() - {"config"}:
        assert taken[name] == wanted[name], name


@pytest.mark.parametrize("source", ["in.mlpackage", None, 3], ids=str)
def test_what_is_not_a_program_is_an_error(source):
    with pytest.raises(
        ConfigError, match=r"program: must be a pymil Program\. Got .*prune\(source"
    ):
        mlpass.prune_program(source, Percentile(0.5), method=Magnitude())


def test_a_program_is_not_gone_on_with(fixtures):
    given = {"sample_data": [{"x": np.zeros((1, 4), np.float32)}], "resume": True}
    with pytest.raises(ConfigError, match="resume: is for packages; a Program is pruned in place"):
        mlpass.prune(program_of(fixtures / "tiny_lm.mlpackage"), Percentile(0.5), **given)
