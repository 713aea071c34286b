"""The command beside a result makes that result: it is read back by the command line itself."""

from __future__ import annotations

import shlex

import pytest

from mlpass import ADMM, Config, Kernel, Magnitude, Percentile, SparseGPT, Threshold
from mlpass.cli import _parser
from mlpass.cli.modes import config_of
from mlpass.cli.prune import _calibration
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
    given = _calibration(options)
    assert given["method"] == ADMM()
    assert given["allocate"] == "error"
    assert given["quantize"].dtype == "int4"


@pytest.mark.parametrize(
    "candidate",
    [
        Candidate("x", Config(Percentile(0.5), {"conv": None})),
        Candidate("x", Config(None)),
        Candidate("x", Config(Percentile(0.5)), SparseGPT(dampening=0.1)),
        Candidate("x", Config(Percentile(0.5)), Magnitude(refit=True)),
    ],
)
def test_what_no_options_say(candidate):
    assert prune_command("m", candidate) is None
