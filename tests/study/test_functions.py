"""Samples of several functions: each has its own figures, and the worst of all decides."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest

import mlpass
from mlpass import NM, Percentile
from mlpass.blas import one_blas_thread
from mlpass.cli import main
from mlpass.errors import CalibrationError, ConfigError
from mlpass.report.comparison import OutputRecord
from mlpass.runtime.samples import functions_in
from mlpass.study.climb import built_in_finetune
from mlpass.study.held_out import FITTED, divided
from tests.multifunction import save_lm, talks
from tests.program.packages import FIXTURES

BOTH = FIXTURES / "multifunction_lm.mlpackage"
LENGTHS = {"prefill": 64, "short": 16}


def given(count=4, seed=0):
    rng = np.random.default_rng(seed)
    return {
        name: [{"tokens": rng.integers(0, 256, (1, length)).astype(np.int32)} for _ in range(count)]
        for name, length in LENGTHS.items()
    }


@pytest.fixture(scope="module")
def pruned(tmp_path_factory):
    out = tmp_path_factory.mktemp("pruned") / "out.mlpackage"
    mlpass.prune(BOTH, out, Percentile(0.5))
    return out


def snr_of(other, function, samples):
    """The SNR of a function's logits, worked out by hand."""
    runners = [mlpass.Interpreter(each, function_name=function) for each in (BOTH, other)]
    first, second = (
        np.concatenate([r.predict(s)["logits"].astype(np.float64).ravel() for s in samples])
        for r in runners
    )
    return 10 * np.log10(np.sum(first**2) / np.sum((first - second) ** 2))


def test_compare_has_figures_of_each_function(pruned):
    found = mlpass.compare(BOTH, pruned, given())
    assert [(each.function, each.name) for each in found.outputs] == [
        ("prefill", "logits"),
        ("short", "logits"),
    ]
    for record in found.outputs:
        by_hand = snr_of(pruned, record.function, given()[record.function])
        assert record.snr == pytest.approx(by_hand, abs=0.01)
    assert "function" in str(found).splitlines()[0]
    assert found.samples == 8
    (short,) = mlpass.compare(BOTH, pruned, {"short": given()["short"]}).outputs
    assert short == found.outputs[1]
    plain = mlpass.compare(BOTH, pruned, given()["prefill"])
    assert plain.outputs[0].function is None
    assert plain.outputs[0].snr == found.outputs[0].snr
    assert "function" not in str(plain).splitlines()[0]


def test_compare_takes_paths_by_function(pruned, tmp_path, capsys):
    flags = []
    for name, samples in given().items():
        path = tmp_path / f"{name}.npz"
        np.savez(path, tokens=np.stack([each["tokens"] for each in samples]))
        flags += ["--sample-data", f"{name}={path}"]
    assert main(["compare", str(BOTH), str(pruned), "--json", *flags]) == 0
    told = json.loads(capsys.readouterr().out)["outputs"]
    found = mlpass.compare(BOTH, pruned, given())
    assert [each["snr"] for each in told] == [each.snr for each in found.outputs]
    assert [each["function"] for each in told] == ["prefill", "short"]


def test_compare_runs_the_functions_of_one_sequence_on_one_state(tmp_path):
    model, out = save_lm(tmp_path), tmp_path / "out.mlpackage"
    mlpass.prune(model, out, NM(2, 4))
    found = {each.function: each for each in mlpass.compare(model, out, talks(3)).outputs}
    assert set(found) == {"prefill", "decode"}
    runners = {
        package: {
            name: mlpass.Interpreter(package, function_name=name) for name in ("prefill", "decode")
        }
        for package in (model, out)
    }
    made = {package: [] for package in runners}
    for package, own in runners.items():
        for steps in talks(3):
            state = own["prefill"].make_state()
            for name, step in steps:
                logits = own[name].predict(step, state)["logits"]
                made[package] += [logits.astype(np.float64).ravel()] if name == "decode" else []
    first, second = (np.concatenate(each) for each in made.values())
    by_hand = 10 * np.log10(np.sum(first**2) / np.sum((first - second) ** 2))
    assert found["decode"].snr == pytest.approx(by_hand, abs=0.01)


def test_compare_says_what_it_cannot(pruned):
    with pytest.raises(ConfigError, match="names functions .prefill, short., and Core ML runs one"):
        mlpass.compare(BOTH, pruned, given(), backend="coreml")
    with pytest.raises(ConfigError, match="Got 'shorts', did you mean 'short'"):
        mlpass.compare(BOTH, pruned, {"prefill": given()["prefill"], "shorts": given()["short"]})
    with pytest.raises(CalibrationError, match="prune, tune, compare, .* and finetune; give"):
        mlpass.locate(BOTH, BOTH, given())


@pytest.mark.slow
def test_a_sweep_judges_by_the_worst_function(tmp_path):
    samples = given(8)
    report = mlpass.sweep(BOTH, samples, [Percentile(0.5), NM(2, 4)], method="sparsegpt", jobs=1)
    _, judged = divided(samples, None)
    assert report.samples == 4 and functions_in(judged) == ("prefill", "short")
    for trial in report.trials:
        assert trial.failed is None
        assert set(trial.by_function) == {"prefill", "short"}
        assert trial.snr == min(trial.by_function.values())
    kept, _ = divided(samples, None)
    out = tmp_path / "out.mlpackage"
    mlpass.prune(BOTH, out, Percentile(0.5), method=mlpass.SparseGPT(), sample_data=kept)
    with one_blas_thread():  # as a trial runs
        assert mlpass.compare(BOTH, out, judged).outputs == report.trials[0].outputs
    assert "prefill" in str(report).splitlines()[0]
    figures = json.loads(json.dumps(report.to_dict()))["trials"][0]
    assert figures["by_function"] == report.trials[0].by_function


@pytest.mark.slow
def test_choose_picks_by_the_worst_function(tmp_path, capsys):
    flags = []
    for name, samples in given(8).items():
        path = tmp_path / f"{name}.npz"
        np.savez(path, tokens=np.stack([each["tokens"] for each in samples]))
        flags += ["--sample-data", f"{name}={path}"]
    out = tmp_path / "out.mlpackage"
    command = ["choose", str(BOTH), "-o", str(out), "--min-snr", "8", "--json", *flags]
    assert main([*command, "--up-to", "data-free"]) == 0
    told = json.loads(capsys.readouterr().out)
    picked = told["picked"]
    assert min(picked["by_function"].values()) == picked["snr"] >= 8
    tried = [each for each in told["attempts"] if each["snr"] is not None]
    assert all(each["snr"] == min(each["by_function"].values()) for each in tried)


@pytest.mark.slow
def test_fine_tuning_learns_from_all_functions(tmp_path):
    """And from those of the one that is named, where that is not the default."""
    out, plain = tmp_path / "out.mlpackage", tmp_path / "plain.mlpackage"
    mlpass.prune(BOTH, plain, Percentile(0.6))
    report = built_in_finetune(4)(str(plain), str(out), given(4), str(BOTH))
    before, after = (mlpass.compare(BOTH, one, given(4)).outputs for one in (plain, out))
    assert all(new.snr > old.snr for old, new in zip(before, after, strict=True))
    assert not any("as well" in note for note in report.notes)
    alone = built_in_finetune(4, "short")(str(plain), str(out), given(4)["short"], str(BOTH))
    assert "samples of short alone are read by prefill as well" in alone.notes[-1]


def test_commands_name_the_paths_of_all_functions(tmp_path):
    paths = {}
    for name, samples in given(2).items():
        paths[name] = tmp_path / f"{name}.npz"
        np.savez(paths[name], tokens=np.stack([each["tokens"] for each in samples]))
    report = mlpass.sweep(BOTH, paths, [NM(2, 4)], method="wanda", jobs=1)
    words = report.trials[0].command.split()
    named = [after for word, after in pairwise(words) if word == "--sample-data"]
    assert named == [f"{name}={path}" for name, path in paths.items()]
    report = mlpass.sweep(BOTH, given(2), [NM(2, 4)], method="wanda", jobs=1)
    assert "--sample-data samples.npz" in report.trials[0].command


def test_a_study_says_what_does_not_go_together():
    with pytest.raises(CalibrationError, match="test_data: is for 'prefill', and sample_data for"):
        mlpass.sweep(BOTH, given(), [NM(2, 4)], test_data={"prefill": given()["prefill"]})
    plain = given()["prefill"]
    with pytest.raises(CalibrationError, match="test_data: is for the default function, and"):
        mlpass.sweep(BOTH, given(), [NM(2, 4)], test_data=plain)
    with pytest.raises(ConfigError, match="function_name: the samples name their functions"):
        mlpass.sweep(BOTH, given(), [NM(2, 4)], function_name="prefill")


def test_some_of_each_function_are_kept_back():
    samples = given(8)
    samples["short"] = samples["short"][:2]
    kept, judged = divided(samples, None)
    assert [functions_in([one]) for one in judged] == [("prefill",)] * 2 + [("short",)]
    assert len(kept) == 7
    samples["short"] = samples["short"][:1]  # it would be solved on, or judged by, none
    kept, judged = divided(samples, None)
    assert kept is judged
    report = mlpass.sweep(BOTH, samples, [NM(2, 4)], method="wanda", jobs=1)
    assert FITTED in report.notes


def test_the_worst_of_a_function_is_that_of_its_worst_output():
    from mlpass.report.study import Trial

    records = [("a", 3.0), ("a", 2.0), ("b", None), ("b", 5.0), (None, 1.0), ("c", None)]
    outputs = tuple(OutputRecord("y", snr, None, None, None, name) for name, snr in records)
    trial = Trial("x", "magnitude", {}, None, outputs=outputs)
    assert trial.by_function == {"a": 2.0, "b": 5.0, "c": None}
    assert trial.snr == 1.0
