"""Studies of models whose weights are compressed already."""

from __future__ import annotations

import json

import numpy as np
import pytest

import mlpass
from mlpass import Percentile, Quantized
from mlpass.cli import main
from tests.conftest import FIXTURES

SOURCE = FIXTURES / "quantized_digits.mlpackage"
LEFT = "4 of 5 weights are compressed already"
FLAG = "--joint-compression (joint_compression=True in Python)"


@pytest.fixture
def samples(tmp_path):
    with np.load(SOURCE.with_suffix(".npz")) as truth:
        image = truth["input:image"]
    path = tmp_path / "samples.npz"
    np.savez(path, image=np.stack([image, image[..., ::-1]]))
    return path


def test_a_sweep_says_that_they_are_left_alone(samples):
    report = mlpass.sweep(SOURCE, samples, [Percentile(0.5), Quantized("int4")], jobs=1)
    assert report.notes[-1].startswith(LEFT) and FLAG in report.notes[-1]
    assert report.notes[-1] in str(report)
    plain = mlpass.sweep(FIXTURES / "digits_ios15.mlpackage", None, [Percentile(0.5)], jobs=1)
    assert not any(FLAG in note for note in plain.notes)


def test_a_sweep_takes_them_where_that_is_asked_for(samples, tmp_path, capsys):
    grid, out = tmp_path / "grid.yaml", tmp_path / "report.json"
    grid.write_text("- {target_sparsity: 0.75}\n- {quantize: int4, method: sparsegpt}\n")
    command = ["sweep", str(SOURCE), "--sample-data", str(samples), "--configs", str(grid)]
    assert main([*command, "-o", str(out), "--jobs", "1", "--joint-compression"]) == 0
    assert FLAG not in capsys.readouterr().out
    zeros, anew = json.loads(out.read_text())["trials"]
    assert zeros["sparsity"] > 0.7 and any(zeros["layer_errors"])
    assert anew["bytes"] < zeros["report"]["bytes_before"]
    report = mlpass.sweep(SOURCE, None, [Percentile(0.75)], joint_compression=True, jobs=1)
    words = report.trials[0].command.split()
    assert "--joint-compression" in words
    written = tmp_path / "again.mlpackage"
    assert main([*words[1:4], str(written), *words[5:]]) == 0  # what a row says makes its model
    assert mlpass.inspect(written).sparsity == pytest.approx(zeros["sparsity"], abs=1e-3)


def test_the_trials_of_another_sweep_are_not_taken_for_joint_ones(tmp_path, monkeypatch):
    import mlpass.study.sweep as module

    out = tmp_path / "report.json"
    monkeypatch.setattr(module, "write_report", lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        mlpass.sweep(SOURCE, None, [Percentile(0.5)], jobs=1, output=out)
    monkeypatch.undo()
    (trial,) = mlpass.sweep(
        SOURCE, None, [Percentile(0.5)], jobs=1, output=out, resume=True, joint_compression=True
    ).trials
    assert trial.sparsity > 0.45


def test_choose_says_that_they_are_left_alone(samples, tmp_path, capsys):
    out = str(tmp_path / "out.mlpackage")
    command = ["choose", str(SOURCE), "--sample-data", str(samples), "-o", out]
    command += ["--up-to", "data-free"]
    assert main([*command, "--max-size", "0.7x"]) == 1
    shown = capsys.readouterr()
    assert "cannot be met" in shown.err and LEFT in shown.out and FLAG in shown.out
    assert main([*command, "--min-snr", "9"]) == 0
    assert LEFT in (told := capsys.readouterr().out) and FLAG in told
    assert main([*command, "--force", "--max-size", "0.7x", "--joint-compression"]) == 0
    told = capsys.readouterr().out
    assert LEFT not in told and "the same by: mlpass prune" in told
    assert "--joint-compression" in told
    assert mlpass.inspect(out).sparsity > 0.2
