"""The command beside a result makes that result: it is read back by the command line itself."""

from __future__ import annotations

import shlex

import pytest

from mlpass import (
    ADMM,
    Config,
    Kernel,
    Magnitude,
    Palette,
    Percentile,
    Quantized,
    SparseGPT,
    Threshold,
)
from mlpass.cli import _parser
from mlpass.cli.calibration import calibration_of
from mlpass.cli.modes import config_of
from mlpass.solvers.wanda import Uncorrelated
from mlpass.study.commands import prune_command
from mlpass.study.grid import Candidate, default_grid

MODES = [*default_grid(), Kernel(0.5), Threshold(0.01), Threshold(0.1, 0.2)]


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_every_mode(mode):
    words = shlex.split(prune_command("a b.mlpackage", Candidate("x", Config(mode))) or "")
    options = _parser().parse_args(words[1:])
    assert options.model == "a b.mlpackage"
    assert config_of(options) == Config(mode)


def test_methods_options_and_the_weight_threshold():
    config = Config(Percentile(0.5), weight_threshold=7)
    candidate = Candidate("x", config, ADMM(), {"allocate": "error", "quantize": "int4"})
    options = _parser().parse_args(shlex.split(prune_command("m", candidate) or "")[1:])
    assert config_of(options) == config
    given = calibration_of(options)
    assert given["method"] == ADMM()
    assert given["allocate"] == "error"
    assert given["quantize"] == "int4"


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
    options = _parser().parse_args(shlex.split(prune_command("m", candidate) or "")[1:])
    assert calibration_of(options)["method"] == method


@pytest.mark.parametrize(
    ("options", "storage"),
    [
        ({"quantize": "int4", "quantize_block_size": 32}, {"quantize": Quantized("int4", 32)}),
        ({"quantize": Quantized("uint8")}, {"quantize": "uint8"}),
        (
            {"palettize": {"table": "normal_float", "group_size": 8}},
            {"palettize": Palette(4, 8, "normal_float")},
        ),
    ],
    ids=str,
)
def test_every_option_of_a_storage(options, storage):
    candidate = Candidate("x", Config(Percentile(0.5)), SparseGPT(), options)
    read = _parser().parse_args(shlex.split(prune_command("m", candidate) or "")[1:])
    assert calibration_of(read).items() >= storage.items()


@pytest.mark.parametrize(
    "candidate",
    [
        Candidate("x", Config(Percentile(0.5), {"conv": None})),
        Candidate("x", Config(None)),
        Candidate("x", Config(Percentile(0.5)), Uncorrelated()),  # no method that has a name
    ],
)
def test_what_no_options_say(candidate):
    assert prune_command("m", candidate) is None
