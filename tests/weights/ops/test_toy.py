"""A weight op is one record in one place: all that reads, prunes or trains weights finds it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from coremltools import PassPipeline
from coremltools.converters.mil.mil import Builder as mb
from coremltools.converters.mil.mil.passes.pass_pipeline import PassPipelineManager

import mlpass
import mlpass.plugin
from mlpass import Percentile, Wanda
from mlpass.cli import main
from mlpass.errors import ConfigError
from mlpass.finetune import MagnitudePruner, PolynomialDecay, to_module
from mlpass.program.mlpackage import Package
from mlpass.sparsity.layout import Layout
from mlpass.study.trial import weight_bytes
from mlpass.weights.ops.record import WEIGHT_OPS, WeightOp, register
from mlpass.weights.reading import layout_of_site, weight_of
from mlpass.weights.sites import find_sites
from tests.calibrate.layers import samples, save
from tests.runtime.programs import program

# A toy: `mul` by a table (rows, columns), of which each element meets an input of its own.


def toy_layout(shape, settings, position):
    return Layout(tuple(shape), (*shape, 1), ((0, 1), (2,), (), ()))


def toy_inputs(xp, arguments, kernel, position):
    x = arguments["x"]
    yield xp.permute_dims(xp.reshape(x, (-1, x.shape[-2] * x.shape[-1], 1)), (1, 0, 2))


@pytest.fixture
def toy():
    register(WeightOp("mul", "y", toy_layout, toy_inputs))
    yield
    del WEIGHT_OPS["mul"]


TABLE = np.random.default_rng(2).standard_normal((48, 64)).astype(np.float32)


@pytest.fixture
def scaled(tmp_path):
    """x times a table, then times a matrix."""
    matrix = np.random.default_rng(3).standard_normal((32, 64)).astype(np.float32)

    def build(x):
        return mb.linear(x=mb.mul(x=x, y=TABLE, name="toy"), weight=matrix, name="head")

    return save(build, tmp_path, (2, 48, 64))


def table_of(package):
    with Package(package) as opened:
        (site,) = [s for s in find_sites(opened.programs) if s.uses[0].op.type == "mul"]
        return np.array(weight_of(site)), layout_of_site(site), weight_bytes(opened)


def test_without_its_record_the_toy_is_not_a_weight(scaled):
    with Package(scaled) as package:
        assert [site.uses[0].op.type for site in find_sites(package.programs)] == ["linear"]


def test_a_toy_is_a_site_with_a_layout_and_counts_as_read(toy, scaled):
    weight, layout, nbytes = table_of(scaled)
    np.testing.assert_array_equal(weight, TABLE)
    assert layout.sizes == (48 * 64, 1, 1, 1)
    assert nbytes == TABLE.nbytes + 32 * 64 * 4
    with pytest.raises(ConfigError, match="mul.y is registered already"):
        register(WeightOp("mul", "y", toy_layout, toy_inputs))


def test_a_toy_is_pruned_on_what_it_meets(toy, scaled, tmp_path):
    data = [{"x": s["x"].reshape(2, 48, 64)} for s in samples(4, 96, 64)]
    out = tmp_path / "out.mlpackage"
    report = mlpass.prune(scaled, out, Percentile(0.5), method=Wanda(), sample_data=data)
    layer = next(one for one in report.layers if one.op_type == "mul")
    assert (layer.parameter, layer.skipped, layer.sparsity) == ("y", None, 0.5)
    assert (layer.samples, layer.tokens) == (4, 4 * 2)
    power = sum(np.square(sample["x"]).sum(axis=0) for sample in data)
    found, *_ = table_of(out)
    lost = np.where(found == 0, np.square(TABLE) * power, 0).sum()
    np.testing.assert_allclose(layer.error, lost / (np.square(TABLE) * power).sum(), rtol=1e-4)


def test_a_toy_is_trained(toy, scaled, tmp_path):
    module = to_module(scaled)
    pruner = MagnitudePruner(module, Percentile(0.5), PolynomialDecay(update_steps=[0, 1]))
    pruner.prepare()
    optimizer = torch.optim.SGD(module.parameters(), 1e-3)
    draw = torch.Generator().manual_seed(0)
    for _ in range(3):
        module(x=torch.randn(2, 48, 64, generator=draw))["head"].square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        pruner.step()
    out = tmp_path / "out.mlpackage"
    pruner.finalize(out)
    found, *_ = table_of(out)
    assert np.count_nonzero(found == 0) == TABLE.size // 2
    kept = found != 0
    assert np.any(found[kept] != TABLE[kept])  # they moved
    assert {layer.op_type for layer in pruner.report().layers} == {"mul", "linear"}


def test_what_does_not_train_stays_as_it_was(scaled):
    register(WeightOp("mul", "y", toy_layout, toy_inputs, trains=False))
    try:
        trained = {tuple(one.shape) for one in to_module(scaled).parameters()}
    finally:
        del WEIGHT_OPS["mul"]
    assert TABLE.shape not in trained
    assert (32, 64) in trained


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "samples.npz"
    np.savez(path, x=np.stack([each["x"].reshape(2, 48, 64) for each in samples(4, 96, 64)]))
    return path


def is_half_zero(table: np.ndarray) -> bool:
    """Whether the half with the lowest magnitudes is zero, and the rest as it was."""
    cut = np.sort(np.abs(TABLE), axis=None)[TABLE.size // 2]
    return np.array_equal(table, np.where(np.abs(TABLE) < cut, 0, TABLE))


def test_the_command_line_and_yaml(toy, scaled, data, tmp_path, capsys):
    out, config = tmp_path / "out.mlpackage", tmp_path / "prune.yaml"
    config.write_text("op_type_configs: {mul: {target_sparsity: 0.5}}\n")
    command = ["prune", str(scaled), "-o", str(out), "--json", "--force"]
    assert main([*command, "--config", str(config)]) == 0
    assert is_half_zero(table_of(out)[0])
    layers = json.loads(capsys.readouterr().out)["layers"]
    assert {each["op_type"]: each["zeros"] for each in layers}["linear"] == 0
    command += ["--sample-data", str(data), "--method", "sparsegpt"]
    assert main([*command, "--target-sparsity", "0.5"]) == 0
    layers = json.loads(capsys.readouterr().out)["layers"]
    (layer,) = [each for each in layers if each["op_type"] == "mul"]
    assert (layer["zeros"], layer["samples"]) == (TABLE.size // 2, 4)
    assert 0 < layer["error"] < 1


def test_plain_strings_of_the_plugin(toy):
    mlpass.plugin.passes.register_passes()
    source = program(lambda x: mb.mul(x=x, y=TABLE, name="toy"), (2, 48, 64))
    pipeline = PassPipeline(["mlpass::prune_percentile"])
    pipeline.set_options("mlpass::prune_percentile", {"target_sparsity": "0.5"})
    PassPipelineManager.apply_pipeline(source, pipeline)
    (op,) = source.functions["main"].find_ops(op_type="constexpr_sparse_to_dense")
    assert is_half_zero(op.materialized_val_inference())


def test_a_sweep(toy, scaled, data, tmp_path, capsys):
    grid = tmp_path / "grid.yaml"
    grid.write_text("- {target_sparsity: 0.5}\n- {target_sparsity: 0.5, method: wanda}\n")
    command = ["sweep", str(scaled), "--configs", str(grid), "--sample-data", str(data)]
    assert main([*command, "--jobs", "1", "--json"]) == 0
    for trial in json.loads(capsys.readouterr().out)["trials"]:
        assert trial["failed"] is None
        zeros = {each["op_type"]: each["zeros"] for each in trial["report"]["layers"]}
        assert zeros["mul"] == TABLE.size // 2
        assert len(trial["layer_errors"]) == 2


def test_fine_tuning(toy, scaled, data, tmp_path):
    out = tmp_path / "out.mlpackage"
    command = ["finetune", str(scaled), "-o", str(out), "--sample-data", str(data), "--steps", "2"]
    assert main([*command, "--target-sparsity", "0.5", "--learning-rate", "1e-12"]) == 0
    found = table_of(out)[0]
    assert np.count_nonzero(found == 0) == TABLE.size // 2
