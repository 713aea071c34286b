"""A storage is one class in one place: all that takes options finds it there, and it is stored."""

from __future__ import annotations

import json
import shlex
from typing import Any

import coremltools as ct
import numpy as np
import pytest
from coremltools import PassPipeline
from coremltools.converters.mil.mil import Builder as mb
from coremltools.converters.mil.mil.passes.pass_pipeline import PassPipelineManager

import mlpass
import mlpass.plugin
from mlpass import Config, ConfigError, OpConfig, Percentile, SparseGPT
from mlpass.cli import main, make_parser
from mlpass.cli.calibration import calibration_of
from mlpass.cli.modes import config_of
from mlpass.errors import NotApplicable
from mlpass.options import option
from mlpass.registries import STORAGES, storage
from mlpass.storage.given import as_storage
from mlpass.storage.storage import Storage, Stored
from mlpass.study.commands import prune_command
from mlpass.study.grid import Candidate, make_candidates
from tests.calibrate.layers import SIZE, samples, save, weights, weights_of
from tests.runtime.programs import convert, program

SEEN: list[Storage] = []


@pytest.fixture(autouse=True)
def toy():
    """A storage: registered here, and nowhere else."""

    @storage("stairs", lead="steps_up")
    class Stairs(Storage):
        """Steps of one height; `reach` is a name of its own, `scope` an option of a mode."""

        steps_up: int = option(low=1, high=127, help="steps above zero, and as many below")
        reach: float = option(default=1.0, above=0, help="share of the largest weight they reach")
        scope: str = option(default="all", choices=("all", "none"), help="of nothing")
        code_bits = 8

        def grid(self, layout, power, dtype):
            SEEN.append(self)
            return Grid(self, layout, dtype)

        def stored(self, parts, layout, opset):
            scale = {"scale": parts["scale"]}
            return Stored("constexpr_blockwise_shift_scale", "data", "int8", scale)

        def others_nbytes(self, layout, itemsize, opset):
            return itemsize

    class Grid:
        def __init__(self, stairs, layout, dtype):
            self.stairs, self.layout, self.dtype = stairs, layout, dtype

        def fit(self, weight, keep):
            self.height = height(weight, self.stairs).astype(self.dtype)
            self.codes = np.zeros(weight.shape, np.int8)
            return self.rounding

        def rounding(self, order):
            def round_column(index, column):
                codes = self.codes_of(column)
                self.codes[:, :, order[index]] = codes
                return codes * np.float32(self.height)

            return round_column

        def nearest(self, weight):
            self.codes[:] = self.codes_of(weight)
            return self.codes * np.float32(self.height)

        def codes_of(self, values):
            top = self.stairs.steps_up
            return np.clip(np.rint(values / np.float32(self.height)), -top, top)

        def parts(self, keep):
            codes = self.layout.join(self.codes)
            return {"codes": codes, "scale": np.full((1,) * codes.ndim, self.height)}

    SEEN.clear()
    yield Stairs
    STORAGES.remove("stairs")
    mlpass.plugin.passes.register_passes()


def height(weight: np.ndarray, stairs: Any) -> np.float16:
    """Returns how high a step is."""
    found = np.float16(np.abs(weight).max() * np.float32(stairs.reach) / stairs.steps_up)
    return found or np.float16(1)


def wanted(weight: np.ndarray, share: float, stairs: Any) -> np.ndarray:
    """Returns what a weight is pruned and rounded to without data."""
    order = np.argsort(np.abs(weight), axis=None, kind="stable")
    masked = weight.astype(np.float32)
    masked.reshape(-1)[order[: int(share * weight.size)]] = 0
    step = np.float32(height(masked, stairs))
    codes = np.clip(np.rint(masked / step), -stairs.steps_up, stairs.steps_up)
    return (codes * step).astype(np.float16)


WEIGHTS = [each.astype(np.float16) for each in weights(2)]
NEWEST = ct.target.iOS18


def build(x):
    x = mb.relu(x=mb.linear(x=mb.cast(x=x, dtype="fp16"), weight=WEIGHTS[0]))
    return mb.cast(x=mb.linear(x=x, weight=WEIGHTS[1]), dtype="fp32")


@pytest.fixture
def model(tmp_path):
    source = program(build, (8, SIZE), opset=NEWEST)
    path = tmp_path / "model.mlpackage"
    convert(source, minimum_deployment_target=NEWEST).save(str(path))
    return path


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "samples.npz"
    np.savez(path, x=np.stack([sample["x"] for sample in samples(8)]))
    return path


def check(path, share: float, stairs: Any, count: int = 2) -> None:
    found = list(weights_of(path).values())[:count]
    for weight, was in zip(found, WEIGHTS, strict=False):
        np.testing.assert_array_equal(weight, wanted(was, share, stairs))


def test_python_and_the_command_line(model, data, tmp_path, toy, capsys):
    out = tmp_path / "out.mlpackage"
    mlpass.prune(model, out, Percentile(0.5), storage=toy(5))
    check(out, 0.5, toy(5))
    mlpass.prune(model, out, storage={"stairs": 7, "reach": 0.5}, force=True)
    check(out, 0.0, toy(7, 0.5))
    command = ["prune", str(model), "-o", str(out), "--force", "--json"]
    assert main([*command, "--stairs", "9", "--reach", "0.7"]) == 0
    check(out, 0.0, toy(9, 0.7))
    command += ["--target-sparsity", "0.25", "--stairs", "9", "--stairs-scope", "none"]
    assert main(command) == 0
    check(out, 0.25, toy(9))
    assert SEEN[-1] == toy(9, scope="none")
    capsys.readouterr()
    assert main([*command, "--sample-data", str(data), "--method", "wanda"]) == 0
    layers = json.loads(capsys.readouterr().out)["layers"]
    assert {(layer["method"], layer["encoding"]) for layer in layers} == {
        ("wanda", "sparse + quantized")
    }
    for weight in weights_of(out).values():
        assert len(np.unique(weight)) <= 19
    with pytest.raises(SystemExit):
        main([*command, "--reach", "0"])
    assert "reach: must be a number above 0. Got 0.0." in capsys.readouterr().err


def test_yaml(model, tmp_path, toy):
    config, out = tmp_path / "prune.yaml", tmp_path / "out.mlpackage"
    config.write_text("global_config: {target_sparsity: 0.5, stairs: 5, reach: 0.9}\n")
    mlpass.prune(model, out, config)
    check(out, 0.5, toy(5, 0.9))
    config.write_text("op_type_configs: {linear: {stairs: 4, stairs_scope: none}}\n")
    mlpass.prune(model, out, config, force=True)
    check(out, 0.0, toy(4))
    config.write_text("stairs: 6\nglobal_config: {target_sparsity: 0.5}\n")
    mlpass.prune(model, out, config, force=True, storage="int8")  # the file's own is nearer
    check(out, 0.5, toy(6))
    config.write_text("op_type_configs: {linear: {target_sparsity: 0.25}}\n")
    command = ["prune", str(model), "-o", str(out), "--config", str(config), "--stairs", "3"]
    assert main([*command, "--force"]) == 0  # the flag is for entries that name none
    check(out, 0.25, toy(3))
    config.write_text("global_config: {stairs: 0}\n")
    with pytest.raises(ConfigError, match="steps_up: must be an int in"):
        mlpass.prune(model, out, config, force=True)


def run_pass(name: str, options: dict[str, Any]) -> list[np.ndarray]:
    mlpass.plugin.passes.register_passes()
    pipeline = PassPipeline([f"mlpass::{name}"])
    pipeline.set_options(f"mlpass::{name}", options)
    return applied(pipeline)


def applied(pipeline: PassPipeline) -> list[np.ndarray]:
    source = program(build, (8, SIZE), opset=NEWEST)
    PassPipelineManager.apply_pipeline(source, pipeline)
    found = source.functions["main"].find_ops(op_type="constexpr_sparse_to_dense")
    dense = source.functions["main"].find_ops(op_type="constexpr_blockwise_shift_scale")
    return [op.materialized_val_inference() for op in (*found, *dense)]


def test_plain_strings_of_the_plugin(toy):
    found = run_pass("prune_percentile", {"target_sparsity": "0.5", "stairs": "5", "reach": "0.8"})
    for weight, was in zip(found, WEIGHTS, strict=True):
        np.testing.assert_array_equal(weight, wanted(was, 0.5, toy(5, 0.8)))
    assert len(run_pass("prune", {"stairs": "5", "stairs_scope": "none"})) == 2
    assert SEEN[-1] == toy(5, scope="none")
    inputs = samples(4)
    options = {"config": Percentile(0.5), "sample_data": inputs, "storage": {"stairs": "3"}}
    for weight in run_pass("sparsegpt", options):
        assert np.mean(weight == 0) >= 0.5 and len(np.unique(weight)) <= 7
    made = mlpass.pipeline(Percentile(0.5), stairs=4, sample_data=inputs, base=PassPipeline([]))
    assert all(len(np.unique(weight)) <= 9 for weight in applied(made))
    with pytest.raises(ConfigError, match="mlpass::prune: reach: needs stairs"):
        run_pass("prune", {"config": Percentile(0.5), "reach": "0.8"})


def test_a_sweep(model, data, tmp_path, toy, capsys):
    grid = tmp_path / "grid.yaml"
    grid.write_text(
        "- {target_sparsity: 0.5, stairs: 5, reach: 0.9}\n"
        "- {stairs: 7, method: sparsegpt}\n"
        "- {n_m_ratio: [2, 4]}\n"
    )
    command = ["sweep", str(model), "--sample-data", str(data), "--json", "--jobs", "1"]
    assert main([*command, "--configs", str(grid), "--stairs", "3"]) == 0
    trials = json.loads(capsys.readouterr().out)["trials"]
    assert [trial["failed"] for trial in trials] == [None] * 3
    assert [(trial["config"], trial["method"]) for trial in trials] == [
        ("Percentile(0.5) + Stairs(5, reach=0.9)", "magnitude"),
        ("Stairs(7)", "sparsegpt"),
        ("NM(2:4) + Stairs(3)", "magnitude"),
    ]
    for trial in trials:
        assert {layer["encoding"] for layer in trial["report"]["layers"]} <= {
            "sparse + quantized",
            "quantized",
        }
        assert all(0 < error < 1 for error in trial["layer_errors"])
    for candidate in make_candidates(grid):
        line = shlex.split(prune_command("m", candidate) or "")
        options = make_parser().parse_args(line[1:])
        assert config_of(options) == candidate.config
        if not candidate.data_free:
            assert calibration_of(options)["method"] == candidate.method
    kept = Candidate("x", Config(OpConfig(None, toy(3, 0.5, "none"), 7)), SparseGPT())
    read = make_parser().parse_args(shlex.split(prune_command("m", kept) or "")[1:])
    assert config_of(read) == Config(OpConfig(storage=toy(3, 0.5, "none")), weight_threshold=7)


def test_fine_tuning(model, data, tmp_path, toy):
    out = tmp_path / "out.mlpackage"
    command = ["finetune", str(model), "-o", str(out), "--sample-data", str(data)]
    command += ["--steps", "2", "--learning-rate", "1e-12", "--stairs", "5", "--reach", "0.9"]
    assert main([*command, "--target-sparsity", "0.5"]) == 0
    check(out, 0.5, toy(5, 0.9))  # at that rate nothing else moves
    assert main([*command, "--force"]) == 0
    check(out, 0.0, toy(5, 0.9))
    module = mlpass.finetune.to_module(model)
    pruner = mlpass.finetune.MagnitudePruner(module, Percentile(0.5), storage=toy(4))
    pruner.prepare()
    pruner.step()
    report = pruner.finalize(out, force=True)
    check(out, 0.5, toy(4))
    assert {layer.encoding for layer in report.layers} == {"sparse + quantized"}


def test_a_storage_that_does_not_fit_is_told_before_training(model, toy, monkeypatch):
    def refuse(*_):
        raise NotApplicable("its steps are too low")

    monkeypatch.setattr(toy, "grid", refuse)
    module = mlpass.finetune.to_module(model)
    pruner = mlpass.finetune.MagnitudePruner(module, storage=toy(5))
    pruner.prepare()
    assert {layer.skipped for layer in pruner.report().layers} == {"its steps are too low"}


def test_a_model_that_is_too_old_is_told_before_training(tmp_path):
    old = save(lambda x: mb.linear(x=x, weight=weights(1)[0]), tmp_path)
    pruner = mlpass.finetune.MagnitudePruner(mlpass.finetune.to_module(old), storage="int4")
    with pytest.raises(mlpass.ModelFormatError, match="quantize: int4 needs iOS18"):
        pruner.prepare()


def test_its_name_alone_is_a_storage(toy):
    with pytest.raises(ConfigError, match="Stairs: needs steps_up"):
        as_storage("stairs")


@pytest.mark.parametrize("name", ["stairs", "quantize"])
def test_a_storage_of_a_name_that_is_taken(name):
    with pytest.raises(ConfigError, match=f"storage: '{name}' is registered already, .*give Two"):

        @storage(name, lead="bits")
        class Two(Storage):
            """One too many."""
