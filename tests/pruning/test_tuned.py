"""Pruned and tuned in one run: what the two give one after the other."""

from __future__ import annotations

import os
import re
import sys

import numpy as np
import pytest

import mlpass
from mlpass import NM, Wanda
from mlpass.calibrate import layers
from mlpass.cli import main
from mlpass.errors import (
    BackendError,
    CalibrationError,
    ConfigError,
    ModelFormatError,
    OutputExistsError,
)
from mlpass.finetune import Regions, region_run, tune
from tests.finetune.networks import FIXTURES
from tests.finetune.samples import samples_of
from tests.program.packages import tree
from tests.runtime.programs import chain, program

TINY = FIXTURES / "tiny_lm.mlpackage"
SAMPLES = samples_of("tiny_lm.mlpackage", 6)
OPTIONS = Regions(epochs=1, batch_size=4, learning_rate=1e-3)
MODE, GIVEN = NM(2, 4), {"sample_data": SAMPLES, "method": Wanda()}


@pytest.fixture(scope="module")
def apart(tmp_path_factory):
    """What both steps give one after the other."""
    folder = tmp_path_factory.mktemp("apart")
    solved = mlpass.prune(TINY, folder / "solved.mlpackage", MODE, **GIVEN)
    tuned = tune(solved.output, folder / "tuned.mlpackage", TINY, SAMPLES, OPTIONS)
    return solved, tuned


def test_it_is_one_after_the_other(apart, tmp_path):
    output = tmp_path / "o.mlpackage"
    report = mlpass.prune(TINY, output, MODE, tune=OPTIONS, **GIVEN)
    solved, tuned = apart
    assert tree(output) == tree(tuned.output)
    assert report.notes[-len(tuned.notes) :] == tuned.notes
    assert report.bytes_before == solved.bytes_before
    assert report.bytes_after == tuned.bytes_after
    assert report.output == str(output)
    assert [layer.method for layer in report.layers] == [layer.method for layer in solved.layers]
    assert [layer.error for layer in report.layers] == [layer.error for layer in solved.layers]
    assert [layer.zeros for layer in report.layers] == [layer.zeros for layer in tuned.layers]
    assert [path.name for path in tmp_path.iterdir()] == ["o.mlpackage"]


def begun_until(monkeypatch, module, name, count):
    """Lets a function of a module be interrupted as it begins for the `count`th time."""
    begun, once = [], getattr(module, name)

    def dying(*arguments, **options):
        begun.append(name)
        if len(begun) == count:
            raise KeyboardInterrupt
        return once(*arguments, **options)

    monkeypatch.setattr(module, name, dying)
    return begun


def test_a_run_that_died_while_it_tuned_goes_on_with_that(apart, tmp_path, monkeypatch):
    output = tmp_path / "o.mlpackage"
    begun = begun_until(monkeypatch, region_run, "tune_region", 3)
    with pytest.raises(KeyboardInterrupt) as died:
        mlpass.prune(TINY, output, MODE, tune=OPTIONS, **GIVEN)
    assert ".o.mlpackage.solved: go on with resume" in "".join(died.value.__notes__)
    assert sorted(os.listdir(tmp_path)) == [".o.mlpackage.resume", ".o.mlpackage.solved"]
    with pytest.raises(CalibrationError, match="solved belongs to a run with another model, con"):
        mlpass.prune(TINY, output, NM(3, 4), tune=OPTIONS, resume=True, **GIVEN)
    monkeypatch.delattr(layers, "solve")  # nothing is solved for again
    report = mlpass.prune(TINY, output, MODE, tune=OPTIONS, resume=True, **GIVEN)
    assert len(begun) == 3 + 4
    assert tree(output) == tree(apart[1].output)
    assert [layer.error for layer in report.layers] == [layer.error for layer in apart[0].layers]
    assert report.bytes_before == apart[0].bytes_before
    assert report.notes[-len(apart[1].notes) :] == apart[1].notes
    assert os.listdir(tmp_path) == ["o.mlpackage"]


def test_a_run_that_died_while_it_pruned_goes_on_with_that(apart, tmp_path, monkeypatch):
    output = tmp_path / "o.mlpackage"
    begun = begun_until(monkeypatch, layers, "solve", 3)
    with pytest.raises(KeyboardInterrupt):
        mlpass.prune(TINY, output, MODE, tune=OPTIONS, **GIVEN)
    assert os.listdir(tmp_path) == [".o.mlpackage.solved"]
    mlpass.prune(TINY, output, MODE, tune=OPTIONS, resume=True, **GIVEN)
    solved = sum(layer.method == "wanda" for layer in apart[0].layers)
    assert len(begun) == solved + 1
    assert tree(output) == tree(apart[1].output)
    assert os.listdir(tmp_path) == ["o.mlpackage"]


def test_what_was_pruned_is_whole_or_pruned_again(apart, tmp_path, monkeypatch):
    output, solved = tmp_path / "o.mlpackage", tmp_path / ".o.mlpackage.solved"
    begun_until(monkeypatch, region_run, "tune_region", 1)
    with pytest.raises(KeyboardInterrupt):
        mlpass.prune(TINY, output, MODE, tune=OPTIONS, **GIVEN)
    whole = (solved / "report.json").read_text()
    for broken in ("{}", "[", whole.replace('"zeros"', '"noughts"')):
        (solved / "report.json").write_text(broken)
        with pytest.raises(CalibrationError, match=r"report\.json is broken, delete it"):
            mlpass.prune(TINY, output, MODE, tune=OPTIONS, resume=True, **GIVEN)
    (solved / "report.json").unlink()
    mlpass.prune(TINY, output, MODE, tune=OPTIONS, resume=True, **GIVEN)
    assert tree(output) == tree(apart[1].output)


def test_what_does_not_do(tmp_path, monkeypatch):
    output = tmp_path / "o.mlpackage"
    with pytest.raises(ConfigError, match="tune: learns from samples; give sample_data"):
        mlpass.prune(TINY, output, MODE, tune=OPTIONS)
    with pytest.raises(ConfigError, match="tune: is for packages; convert the Program"):
        mlpass.prune(program(chain, (2, 3)), MODE, tune=OPTIONS, sample_data=[{"x": np.ones(1)}])
    given = {**GIVEN, "sample_data": SAMPLES[:1]}
    with pytest.raises(CalibrationError, match="training needs two samples or more, .* Got 1"):
        mlpass.prune(TINY, output, MODE, tune=OPTIONS, **given)
    assert [*tmp_path.iterdir()] == []  # told before anything is solved for
    output.mkdir()
    with pytest.raises(OutputExistsError, match="already exists; pass force=True"):
        mlpass.prune(TINY, output, MODE, tune=OPTIONS, **GIVEN)
    with pytest.raises(ModelFormatError, match="is within"):
        mlpass.prune(TINY, TINY / "o.mlpackage", MODE, tune=OPTIONS, **GIVEN)
    monkeypatch.setitem(sys.modules, "torch", None)
    for name in [name for name in sys.modules if name.startswith("mlpass.finetune")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(BackendError, match="needs torch: pip install torch"):
        mlpass.prune(TINY, output, MODE, tune=OPTIONS, force=True, **GIVEN)


def test_the_command(apart, tmp_path, capsys):
    np.savez(tmp_path / "x.npz", tokens=np.stack([one["tokens"] for one in SAMPLES]))
    output = str(tmp_path / "o.mlpackage")
    given = ["prune", str(TINY), "-o", output, "--n-m-ratio", "2:4", "--method", "wanda"]
    samples = ["--sample-data", str(tmp_path / "x.npz")]
    numbers = ["--tune-epochs", "1", "--tune-batch-size", "4", "--tune-learning-rate", "1e-3"]
    assert main([*given, *samples, "--tune", *numbers]) == 0
    assert re.search(r"\ntuned \d regions on 5 samples; ", capsys.readouterr().out)
    assert tree(tmp_path / "o.mlpackage") == tree(apart[1].output)
    assert main([*given[:6], "--tune", "--force"]) == 1
    assert "tune: learns from samples; give sample_data" in capsys.readouterr().err
    assert main([*given, *samples, "--tune", "--tune-epochs", "0", "--force"]) == 1
    assert "epochs: must be an int in [1, 1e+06]. Got 0" in capsys.readouterr().err


def test_options_of_a_tuning_that_there_is_not_are_wrong_usage(capsys):
    given = ["prune", str(TINY), "-o", "o.mlpackage", "--n-m-ratio", "2:4", "--tune-seed", "0"]
    with pytest.raises(SystemExit) as ended:
        main([*given, "--tune-weights-only"])
    assert ended.value.code == 2
    assert "--tune-seed, --tune-weights-only: needs --tune" in capsys.readouterr().err
