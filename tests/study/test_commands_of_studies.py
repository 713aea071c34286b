"""`mlpass sweep` and `mlpass choose`."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
import warnings

import numpy as np
import pytest

import mlpass
from mlpass import Percentile
from mlpass.cli import main

MEASURE = "tests/study/measures.py:share_of_nonzeros"


@pytest.fixture(autouse=True)
def _here(monkeypatch):
    from pathlib import Path

    monkeypatch.chdir(Path(__file__).parents[2])
    monkeypatch.setattr(sys, "path", [*sys.path])


def test_sweep_prints_a_table_and_writes_its_figures(model, stacked, tmp_path, capsys):
    grid, out = tmp_path / "grid.yaml", tmp_path / "report.json"
    grid.write_text("- {n_m_ratio: [2, 4]}\n- {target_sparsity: 0.5, method: wanda}\n")
    command = ["sweep", model, "--sample-data", str(stacked), "--configs", str(grid)]
    assert main([*command, "-o", str(out), "--evaluate", MEASURE]) == 0
    shown = capsys.readouterr().out
    assert "NM(2:4)" in shown and "wanda" in shown and f"{out}: written" in shown
    content = json.loads(out.read_text())
    assert content["command"].startswith(f"mlpass sweep {model} --sample-data")
    assert [trial["method"] for trial in content["trials"]] == ["magnitude", "wanda"]
    assert content["trials"][0]["value"] == pytest.approx(1 - content["trials"][0]["sparsity"])
    assert main([*command, "-o", str(out)]) == 1
    assert (
        "already exists; pass --force to replace it, or name another file"
        in capsys.readouterr().err
    )
    assert main([*command, "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["trials"]) == 2


def test_a_sweep_in_which_all_failed_ends_in_an_error(fixtures, tmp_path, capsys):
    """The rows are there all the same, and so is the report."""
    out, grid = tmp_path / "report.json", tmp_path / "grid.yaml"
    grid.write_text(
        "- {target_sparsity: 0.5, quantize: int8}\n- {op_name_configs: {nowhere: null}}\n"
    )
    command = ["sweep", str(fixtures / "digits_ios15.mlpackage"), "--configs", str(grid)]
    assert main([*command, "-o", str(out)]) == 1
    shown = capsys.readouterr()
    assert "Percentile(0.5) + Quantized(int8)" in shown.out and f"{out}: written" in shown.out
    assert shown.err.startswith("mlpass: error: not one of 2 configs could be tried: ")
    assert "needs iOS18" in shown.err and "no weight or op is named 'nowhere'" in shown.err
    assert all(trial["failed"] for trial in json.loads(out.read_text())["trials"])
    grid.write_text(f"- {{target_sparsity: 0.5}}\n{grid.read_text()}")
    assert main([*command, "-o", str(out), "--force"]) == 0
    assert "failed: " in capsys.readouterr().out


def test_what_made_every_step_fail_is_told(model, stacked, tmp_path, capsys, monkeypatch):
    def fails(setting, trial, report, path):
        raise mlpass.ConfigError("evaluate: there is no such thing")

    monkeypatch.setattr("mlpass.study.trial.measure", fails)
    out = str(tmp_path / "out.mlpackage")
    command = ["choose", model, "--sample-data", str(stacked), "-o", out, "--min-snr", "9"]
    assert main([*command, "--up-to", "data-free"]) == 1
    assert "every step failed: evaluate: there is no such thing" in capsys.readouterr().err


def test_choose_prints_its_climb(model, stacked, tmp_path, capsys):
    out = tmp_path / "out.mlpackage"
    command = ["choose", model, "--sample-data", str(stacked), "-o", str(out)]
    assert main([*command, "--max-size", "0.6x", "--up-to", "data-free"]) == 0
    assert "the best of that size" in capsys.readouterr().out
    assert mlpass.inspect(out).sparsity > 0.4
    hopeless = ["--max-size", "0.3x", "--min-snr", "70", "--up-to", "data-free", "--force"]
    assert main([*command, *hopeless]) == 1
    shown = capsys.readouterr()
    assert "is below 70" in shown.out
    assert shown.err.startswith("mlpass: error: ")
    assert "could not be met" in shown.err
    assert shown.err.count("\n") == 1
    assert "could not be met" not in shown.out
    assert main([*command, *hopeless, "--json"]) == 1
    assert "could not be met" in json.loads(capsys.readouterr().out)["reason"]


@pytest.mark.slow
def test_processes_do_not_say_again_what_is_odd_about_samples(fixtures, tmp_path, capfd):
    np.savez(tmp_path / "x.npz", image=np.ones((8, 1, 1, 28, 28), np.float32))
    (tmp_path / "grid.yaml").write_text(
        "[{n_m_ratio: [1, 2]}, {n_m_ratio: [2, 4]}, {n_m_ratio: [4, 8]}, {n_m_ratio: [1, 4]}]"
    )
    words = [str(fixtures / "digits_ios15.mlpackage"), "--sample-data", str(tmp_path / "x.npz")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        grid = ["--configs", str(tmp_path / "grid.yaml"), "--method", "sparsegpt", "--jobs", "2"]
        assert main(["sweep", *words, *grid]) == 0
    assert capfd.readouterr().err.count("they show nothing") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sweep", "m", "--resume"], "--resume: needs the -o of the sweep that died"),
        (["sweep", "m", "--method", "admm"], "--method: needs --sample-data"),
        (["sweep", "m", "--jobs", "0"], "must be 1 or more. Got '0'."),
        (["choose", "m", "--sample-data", "s", "-o", "o"], "say what it must be: --max-size"),
        (
            ["choose", "m", "--sample-data", "s", "-o", "o", "--min-accuracy", "1"],
            "--min-accuracy: needs --evaluate",
        ),
    ],
)
def test_wrong_usage(arguments, message, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("measures", "--evaluate: must be MODULE:FUNCTION or FILE.py:FUNCTION. Got 'measures'."),
        (
            "no_such_module:f",
            "--evaluate: no_such_module:f: ModuleNotFoundError: No module named 'no_such_module'",
        ),
        ("tests.study.measures:nothing", "has no attribute 'nothing'"),
        ("tests.study.measures:not_a_function", "not_a_function is not a function"),
    ],
)
def test_measures_that_are_none(model, place, message, capsys):
    assert main(["sweep", model, "--evaluate", place]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_paths_are_told_as_they_were_given(fixtures, stacked, tmp_path, monkeypatch, capsys):
    """In the tables, in commands, in JSON, in errors; raised or not."""
    shutil.copytree(fixtures / "tiny_lm.mlpackage", tmp_path / "my lm.mlpackage")
    monkeypatch.chdir(tmp_path)
    given = ["my lm.mlpackage", "--sample-data", stacked.name]
    (tmp_path / "grid.yaml").write_text(
        "- {target_sparsity: 0.5, method: wanda}\n- {quantize: int4, method: sparsegpt}\n"
    )
    swept = ["sweep", *given, "--configs", "grid.yaml", "--jobs", "1"]
    chosen = ["choose", *given, "--max-size", "0.7x", "--up-to", "data-free", "-o", "out.mlpackage"]
    chosen += ["--force"]
    for command in (swept, [*swept, "--json"], chosen, [*chosen, "--json"]):
        for raised in ([], ["--minimum-deployment-target", "iOS18"]):
            assert main([*command, *raised]) == 0
            shown = capsys.readouterr().out
            assert "my lm.mlpackage" in shown
            assert str(tmp_path) not in shown and "/tmp" not in shown
            assert (
                command[0] == "sweep"
                or "--json" in command
                or "mlpass prune 'my lm.mlpackage' -o" in shown
            )
    command = mlpass.sweep(given[0], stacked.name, [Percentile(0.5)], method="wanda", jobs=1)
    words = shlex.split(command.trials[0].command)
    assert words[:3] == ["mlpass", "prune", given[0]]
    assert words[words.index("--sample-data") + 1] == stacked.name
    assert main(words[1:]) == 0
