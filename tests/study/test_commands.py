"""The command beside a result makes that result: it is read back by the command line itself."""

from __future__ import annotations

import shlex

import pytest

from mlpass import (
    ADMM,
    Block,
    Config,
    Kernel,
    Lossless,
    Magnitude,
    OpConfig,
    Palette,
    Percentile,
    Plain,
    Quantized,
    SparseGPT,
    Threshold,
)
from mlpass.cli import make_parser
from mlpass.cli.calibration import calibration_of
from mlpass.cli.modes import config_of
from mlpass.solvers.wanda import Uncorrelated
from mlpass.study.commands import prune_command
from mlpass.study.grid import Candidate, patterns

MODES = [*patterns(), Kernel(0.5), Threshold(0.01), Threshold(0.1, 0.2)]


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_every_mode(mode):
    words = shlex.split(prune_command("a b.mlpackage", Candidate("x", Config(mode))) or "")
    options = make_parser().parse_args(words[1:])
    assert options.model == ["a b.mlpackage"]
    assert config_of(options) == Config(mode)


def test_methods_options_and_the_weight_threshold():
    config = Config(Percentile(0.5), weight_threshold=7)
    candidate = Candidate("x", config, ADMM(), {"allocate": "error"})
    options = make_parser().parse_args(shlex.split(prune_command("m", candidate) or "")[1:])
    assert config_of(options) == config
    given = calibration_of(options)
    assert given["method"] == ADMM()
    assert given["allocate"] == "error"


@pytest.mark.parametrize(
    "method",
    [
        SparseGPT(dampening=0.1, block_size=64, refit=True),
        ADMM(iterations=30, penalty=0.5, finish=0),
        Magnitude(refit=True),
    ],
    ids=str,
)
def test_every_option_of_a_method(method):
    candidate = Candidate("x", Config(Percentile(0.5)), method)
    options = make_parser().parse_args(shlex.split(prune_command("m", candidate) or "")[1:])
    assert calibration_of(options)["method"] == method


@pytest.mark.parametrize("mode", [None, Percentile(0.5), Block(0.5, block_size=2)], ids=str)
@pytest.mark.parametrize(
    "storage",
    [Quantized("int4", 32), Quantized("uint8"), Palette(2, 16, "normal_float"), Palette()],
    ids=str,
)
@pytest.mark.parametrize("method", [Magnitude(), SparseGPT()], ids=str)
def test_every_option_of_a_storage(mode, storage, method):
    candidate = Candidate("x", Config(OpConfig(mode, storage)), method)
    read = make_parser().parse_args(shlex.split(prune_command("m", candidate) or "")[1:])
    assert config_of(read) == candidate.config
    assert (read.sample_data is None) == candidate.data_free == (method == Magnitude())


def test_a_storage_without_options_is_a_flag():
    candidate = Candidate("x", Config(OpConfig(None, Lossless())))
    command = prune_command("m", candidate) or ""
    assert command == "mlpass prune m -o pruned.mlpackage --lossless"
    assert config_of(make_parser().parse_args(shlex.split(command)[1:])) == candidate.config


def test_values_as_they_come_need_no_flag():
    kept = Candidate("x", Config(OpConfig(Percentile(0.5), Plain())))
    assert prune_command("m", kept) == prune_command("m", Candidate("x", Config(Percentile(0.5))))


@pytest.mark.parametrize(
    "candidate",
    [
        Candidate("x", Config(Percentile(0.5), {"conv": None})),
        Candidate("x", Config(None)),
        Candidate("x", Config(Plain())),
        Candidate("x", Config(Percentile(0.5)), Uncorrelated()),  # no method that has a name
    ],
)
def test_what_no_options_say(candidate):
    assert prune_command("m", candidate) is None


@pytest.mark.parametrize("options", [{}, {"budget": 1000}])
def test_how_samples_are_run_and_what_the_model_is_raised_to(options):
    candidate = Candidate("x", Config(Percentile(0.5)), SparseGPT(), options)
    how = {"backend": "torch", "function_name": "second"}
    command = prune_command("m", candidate, **how, minimum_deployment_target="iOS18") or ""
    read = make_parser().parse_args(shlex.split(command)[1:])
    given = calibration_of(read)
    assert {name: given[name] for name in how} == how
    assert read.minimum_deployment_target == "iOS18"
    free = prune_command("m", Candidate("x", Config(Percentile(0.5))), **how) or ""
    assert not {"--backend", "--function-name"} & {*shlex.split(free)}  # they need samples
