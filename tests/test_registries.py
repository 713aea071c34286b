"""A mode, a method and a storage are one class each: all that takes options finds them there."""

from __future__ import annotations

import json

import numpy as np
import pytest
from coremltools import PassPipeline
from coremltools.converters.mil.mil.passes.pass_pipeline import PassPipelineManager

import mlpass
import mlpass.plugin
from mlpass import ConfigError, Percentile
from mlpass.cli import main, make_parser
from mlpass.options import option
from mlpass.plan.config import Config
from mlpass.plan.mode_options import mode_from_options
from mlpass.registries import METHODS, MODES, method, mode
from mlpass.solvers.problem import Method, Problem, Pruned
from mlpass.sparsity.modes import Layout, Mask, Mode, Score
from mlpass.study.commands import prune_command
from mlpass.study.grid import Candidate, make_candidates
from mlpass.weights.reading import weight_of
from mlpass.weights.sites import find_sites
from tests.plugin.test_passes import live

SEEN: list[Method] = []
MODEL = "digits_ios15.mlpackage"


def scattered(size: int, share: float, seed: int) -> np.ndarray:
    order = np.random.default_rng(seed).permutation(size)
    keep = np.ones(size, bool)
    keep[order[: int(share * size)]] = False
    return keep


@pytest.fixture(autouse=True)
def toys():
    """A mode and a method: registered here, and nowhere else."""

    @mode("scattered")
    class Scattered(Mode):
        """Zeroes elements at random; `seed` is the name of a flag of `mlpass finetune`."""

        target_sparsity: float = option(low=0, high=1, help="share of elements that become zero")
        seed: int = option(default=0, low=0, help="of the random numbers")

        def keep(self, score: Score, layout: Layout | None = None) -> Mask:
            return scattered(score.size, self.target_sparsity, self.seed).reshape(score.shape)

    @method("powers")
    class Powers(Method):
        """Ranks by a power of |w|; `scope` is an option of a mode."""

        exponent: float = option(default=2.0, above=0, help="of the magnitudes")
        scope: str = option(default="all", choices=("all", "none"), help="of nothing")

        def prune(self, problem: Problem) -> Pruned:
            SEEN.append(self)
            score = np.abs(problem.weight) ** np.float32(self.exponent)
            keep = problem.mode.keep(score, problem.layout)
            return Pruned(np.where(keep, problem.weight, np.float32(0)), keep)

    SEEN.clear()
    yield Scattered, Powers
    MODES.remove("scattered")
    METHODS.remove("powers")
    mlpass.plugin.passes.register_passes()


@pytest.fixture
def samples(fixtures, tmp_path):
    with np.load(fixtures / "digits_ios15.npz") as arrays:
        image = arrays["input:image"]
    path = tmp_path / "samples.npz"
    np.savez(path, image=np.stack([image, image * 0.5]))
    return path


def check_scattered(path, share: float, seed: int, count: int = 4) -> None:
    """Holds a package's weights against masks that are made here."""
    from mlpass.program.mlpackage import Package

    with Package(path) as package:
        weights = [weight_of(site) for site in find_sites(package.programs)]
    found = [weight for weight in weights if weight.size > 2048 and (weight == 0).any()]
    assert len(found) == count
    for weight in found:
        assert np.array_equal(weight.reshape(-1) != 0, scattered(weight.size, share, seed))


def test_the_command_line(fixtures, samples, tmp_path, capsys):
    out = tmp_path / "out.mlpackage"
    command = ["prune", str(fixtures / MODEL), "-o", str(out), "--json"]
    command += ["--mode", "scattered", "--target-sparsity", "0.5", "--mode-seed", "3"]
    assert main(command) == 0
    check_scattered(out, 0.5, 3)
    capsys.readouterr()
    command += ["--sample-data", str(samples), "--method", "powers", "--exponent", "3", "--force"]
    assert main([*command, "--method-scope", "none"]) == 0
    layers = json.loads(capsys.readouterr().out)["layers"]
    ran = {layer["method"] for layer in layers[1:]}
    assert "powers" in ran
    assert ran <= {"powers", "magnitude, not powers: it loses no more on rows kept back"}
    assert {(one.exponent, one.scope) for one in SEEN} == {(3.0, "none")}
    check_scattered(out, 0.5, 3)
    with pytest.raises(SystemExit):
        main([*command, "--exponent", "0"])
    assert "exponent: must be a number above 0. Got 0.0." in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*command, "--dampening", "0.5"])
    assert "--method powers: does not take --dampening" in capsys.readouterr().err


def test_yaml(fixtures, tmp_path):
    config, out = tmp_path / "prune.yaml", tmp_path / "out.mlpackage"
    config.write_text("global_config: {mode: scattered, target_sparsity: 0.75, seed: 1}\n")
    mlpass.prune(fixtures / MODEL, out, config)
    check_scattered(out, 0.75, 1)
    config.write_text("op_type_configs: {conv: {target_sparsity: 0.75, seed: 1}}\n")
    mlpass.prune(fixtures / MODEL, out, config, force=True)  # what it alone takes names it, too
    check_scattered(out, 0.75, 1, count=2)
    config.write_text("global_config: {mode: scattered, target_sparsity: 0.75, seed: -1}\n")
    with pytest.raises(ConfigError, match="seed: must be an int of 0 or more. Got -1"):
        mlpass.prune(fixtures / MODEL, out, config)


def run_pass(name: str, options: dict) -> np.ndarray:
    mlpass.plugin.passes.register_passes()
    pipeline = PassPipeline([f"mlpass::{name}"])
    pipeline.set_options(f"mlpass::{name}", options)
    source = live()
    PassPipelineManager.apply_pipeline(source, pipeline)
    (op,) = source.functions["main"].find_ops(op_type="constexpr_sparse_to_dense")
    return op.materialized_val_inference()


def test_plain_strings_of_the_plugin():
    weight = run_pass("prune_scattered", {"target_sparsity": "0.5", "seed": "7"})
    assert np.array_equal(weight.reshape(-1) != 0, scattered(weight.size, 0.5, 7))
    inputs = [{"x": np.ones((1, 64), np.float32)}, {"x": np.eye(1, 64, dtype=np.float32)}]
    options = {"config": Percentile(0.5), "sample_data": inputs, "method": "powers"}
    run_pass("sparsegpt", {**options, "exponent": "1.5", "method_scope": "none"})
    assert {(one.exponent, one.scope) for one in SEEN} == {(1.5, "none")}
    with pytest.raises(ConfigError, match="mlpass::sparsegpt: exponent: must be a number. Got 'x'"):
        run_pass("sparsegpt", {**options, "exponent": "x"})
    SEEN.clear()
    source = live()
    made = mlpass.pipeline(Percentile(0.5), method="powers", exponent=4, sample_data=inputs)
    PassPipelineManager.apply_pipeline(source, made)
    assert {one.exponent for one in SEEN} == {4}


def test_a_sweep(fixtures, samples, tmp_path, toys, capsys):
    grid = tmp_path / "grid.yaml"
    grid.write_text(
        "- {mode: scattered, target_sparsity: 0.5, seed: 5}\n"
        "- {n_m_ratio: [2, 4], method: powers, exponent: 4, method_scope: none}\n"
        "- {target_sparsity: 0.5, method: admm, iterations: 2, penalty: 0.5}\n"
    )
    command = ["sweep", str(fixtures / MODEL), "--sample-data", str(samples), "--json"]
    assert main([*command, "--configs", str(grid)]) == 0
    trials = json.loads(capsys.readouterr().out)["trials"]
    assert [trial["failed"] for trial in trials] == [None] * 3
    assert [trial["method"] for trial in trials] == [
        "magnitude",
        "powers (exponent=4, scope=none)",
        "admm (iterations=2, penalty=0.5)",
    ]
    grid.write_text("methods: [{method: powers, exponent: 5}]\nconfigs:\n- {n_m_ratio: [2, 4]}\n")
    assert make_candidates(grid)[0].method == toys[1](5)
    SEEN.clear()
    grid.write_text("- {n_m_ratio: [2, 4]}\n")
    command += ["--configs", str(grid), "--method", "magnitude", "--method", "powers"]
    assert main([*command, "--exponent", "6"]) == 0
    assert {one.exponent for one in SEEN} == {6}


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ({"target_sparsity": 0.5, "iterations": 3}, "iterations: name the method that it is an"),
        (
            {"target_sparsity": 0.5, "method": "wanda", "iterations": 3},
            "iterations: does not go with Wanda",
        ),
        (
            {"target_sparsity": 0.5, "method": mlpass.ADMM(), "iterations": 3},
            "iterations: goes with the name of a method; got",
        ),
        (
            {"config": Percentile(0.5), "quantize_block_size": 3},
            "quantize_block_size: needs quantize",
        ),
        (
            {
                "target_sparsity": 0.5,
                "quantize": mlpass.Quantized(),
                "quantize_block_size": 3,
            },
            "quantize_block_size: set it in quantize itself",
        ),
    ],
)
def test_entries_of_a_grid_that_do_not_fit(entry, text):
    with pytest.raises(ConfigError, match=text):
        make_candidates([entry])


def test_a_command_makes_what_it_shows(toys):
    candidate = Candidate("x", Config(toys[0](0.5, 9)), toys[1](3.0, "none"))
    from mlpass.cli.calibration import calibration_of
    from mlpass.cli.modes import config_of

    line = prune_command("m", candidate)
    options = make_parser().parse_args(line.split()[1:])
    assert config_of(options) == candidate.config
    assert calibration_of(options)["method"] == candidate.method
    alone = prune_command("m", Candidate("x", Config(toys[0](0.5))))
    assert "--mode scattered" in alone


def test_fine_tuning(fixtures, samples, tmp_path):
    out = tmp_path / "out.mlpackage"
    command = ["finetune", str(fixtures / MODEL), "-o", str(out), "--sample-data", str(samples)]
    command += ["--steps", "2", "--mode", "scattered", "--target-sparsity", "0.5"]
    assert main([*command, "--mode-seed", "2", "--seed", "1"]) == 0
    check_scattered(out, 0.5, 2)


def test_a_mode_without_a_sparsity_cannot_be_trained(fixtures):
    @mode("upper")
    class Upper(Mode):
        """Keeps the upper half of the rows."""

        def keep(self, score: Score, layout: Layout | None = None) -> Mask:
            keep = np.zeros(score.shape, bool)
            keep[: len(keep) // 2] = True
            return keep

    try:
        module = mlpass.finetune.to_module(fixtures / MODEL)
        pruner = mlpass.finetune.MagnitudePruner(module, Upper())
        with pytest.raises(ConfigError, match="has no target sparsity for a schedule to lead to"):
            pruner.prepare()
        assert mode_from_options({"mode": "upper"}) == Upper()
        assert mode_from_options({"target_sparsity": 0.5}) == Percentile(0.5)
    finally:
        MODES.remove("upper")


@pytest.mark.parametrize("name", ["scattered", "nm"])
def test_a_mode_of_a_name_that_is_taken(name):
    with pytest.raises(ConfigError, match=f"mode: '{name}' is registered already, in .*; give Two"):

        @mode(name)
        class Two(Mode):
            """One too many."""


@pytest.mark.parametrize("name", ["powers", "sparsegpt"])
def test_a_method_of_a_name_that_is_taken(name):
    with pytest.raises(ConfigError, match=f"method: '{name}' is registered already, in .*give Two"):

        @method(name)
        class Two(Method):
            """One too many."""


@pytest.mark.parametrize("name", ["Upper", ""])
def test_names_are_in_lower_case(name):
    with pytest.raises(ConfigError, match=f"method: a name must be in lower case. Got '{name}'"):

        @method(name)
        class Other(Method):
            """Wrongly named."""


def test_jobs_are_of_one_sweep(fixtures, monkeypatch, tmp_path, capsys):
    import os

    monkeypatch.delenv("MLPASS_THREADS", raising=False)
    grid = tmp_path / "grid.yaml"
    grid.write_text("- {n_m_ratio: [2, 4]}\n")
    command = ["sweep", str(fixtures / MODEL), "--configs", str(grid), "--jobs", "1"]
    assert main(command) == 0
    assert "MLPASS_THREADS" not in os.environ
    with pytest.raises(ConfigError, match="jobs: must be an int of 1 or more. Got 0"):
        mlpass.sweep(fixtures / MODEL, jobs=0)
