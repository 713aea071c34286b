"""Sweeps: equal to single runs, on any executor, after any end; and honest about what failed."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import mlpass
from mlpass import ADMM, NM, Block, Channel, Config, ConfigError, Percentile, SparseGPT
from mlpass.blas import one_blas_thread
from mlpass.calibrate import replays
from mlpass.program.mlpackage import Package
from mlpass.runtime.replay import stops
from mlpass.study.grid import make_candidates
from mlpass.study.sweep import write_outputs
from mlpass.study.trial import Setting, run_trial, weight_bytes
from mlpass.weights.sites import find_sites
from tests.study.measures import CALLS, LIMIT, share_of_nonzeros

CONFIGS = [Percentile(0.3), NM(2, 4), Block(0.5, block_size=4), Channel(0.1)]


def figures(report):
    """Everything but when it was made, and of which file."""
    trials = tuple(replace(trial, command=None) for trial in report.trials)  # names its samples
    return replace(report, trials=trials, seconds=0.0, command="", date="")


def test_results_are_those_of_single_runs(model, samples, tmp_path):
    configs = [*CONFIGS, {"target_sparsity": 0.5, "method": "sparsegpt"}]
    report = mlpass.sweep(model, samples, configs)
    assert report.bytes_before == mlpass.inspect(model).bytes_before
    for trial, config in zip(report.trials, [*CONFIGS, Percentile(0.5)], strict=True):
        out = tmp_path / "out.mlpackage"
        calibrated = {"method": SparseGPT(), "sample_data": samples}
        extra = calibrated if trial.method == "sparsegpt" else {}
        single = mlpass.prune(model, out, config, force=True, **extra)
        assert trial.report.layers == single.layers
        assert trial.nbytes == single.bytes_after
        with one_blas_thread():
            assert trial.outputs == mlpass.compare(model, out, samples).outputs
        with Package(out) as package:
            assert trial.weight_bytes == weight_bytes(package)
        assert trial.latency is None or sys.platform == "darwin"


@pytest.mark.slow
def test_what_the_dense_model_shows_is_gathered_once(model, samples, tmp_path, monkeypatch):
    begun = []

    def counting(*arguments, **options):
        begun.append(arguments)
        return stops(*arguments, **options)

    monkeypatch.setattr(replays, "stops", counting)
    dense = {"propagate": "dense"}
    configs = [
        {"target_sparsity": 0.5, **dense},
        {"n_m_ratio": [2, 4], **dense},
        {"target_sparsity": 0.5, "method": "admm", **dense},
        {"target_sparsity": 0.5, "allocate": "error"},
    ]
    with ThreadPoolExecutor(1) as here:
        report = mlpass.sweep(model, samples, configs, method="sparsegpt", executor=here)
    # For all of them once, and what the last one's pruned layers make, beside the dense ones.
    assert len(begun) == 1 + 2
    assert [trial.failed for trial in report.trials] == [None] * 4
    modes = [Percentile(0.5), NM(2, 4), Percentile(0.5), Percentile(0.5)]
    for trial, config, entry in zip(report.trials, modes, configs, strict=True):
        options = {key: entry[key] for key in ("propagate", "allocate") if key in entry}
        method = ADMM() if trial.method == "admm" else SparseGPT()
        out = tmp_path / "out.mlpackage"
        single = mlpass.prune(
            model, out, config, method=method, sample_data=samples, force=True, **options
        )
        assert trial.report.layers == single.layers


def test_the_front_is_what_nothing_beats(model, samples):
    report = mlpass.sweep(model, samples, [*CONFIGS, Percentile(0.7), NM(1, 4)])
    for trial in report.trials:  # no two are so near that noise could tell
        better = [
            other
            for other in report.trials
            if other is not trial and other.nbytes <= trial.nbytes and other.snr >= trial.snr
        ]
        assert trial.front == (not better and trial.snr > 0)
    assert [trial.nbytes for trial in report.front] == sorted(t.nbytes for t in report.front)


@pytest.mark.slow
def test_every_executor_gives_the_same(model, samples, stacked):
    configs = [*CONFIGS, {"target_sparsity": 0.5, "method": "admm"}]
    threads = ThreadPoolExecutor(2)
    processes = ProcessPoolExecutor(2, multiprocessing.get_context("spawn"))
    with threads, processes:
        first = figures(mlpass.sweep(model, samples, configs, evaluate=share_of_nonzeros))
        for executor in (threads, processes):
            again = mlpass.sweep(
                model, str(stacked), configs, evaluate=share_of_nonzeros, executor=executor
            )
            assert figures(again) == first
        assert threads.submit(int).result() == 0  # the user's own stays open


def test_the_users_measure_takes_the_place_of_the_snr(model, samples):
    report = mlpass.sweep(model, samples, CONFIGS[:2], evaluate=share_of_nonzeros)
    for trial in report.trials:
        assert trial.value == trial.quality == pytest.approx(1 - trial.sparsity)
    assert report.value_before == share_of_nonzeros(model)
    assert all(trial.front for trial in report.trials)
    assert "value" in str(report).splitlines()[0]


def test_a_measure_that_cannot_be_sent_runs_here(model, samples):
    here = os.getpid()
    report = mlpass.sweep(model, samples, CONFIGS, evaluate=lambda _: float(os.getpid()))
    assert {trial.value for trial in report.trials} == {float(here)}
    with (
        ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as executor,
        pytest.raises(
            ConfigError, match="executor: a trial cannot be sent to it; evaluate must be"
        ),
    ):
        mlpass.sweep(model, samples, CONFIGS, evaluate=lambda _: 0.0, executor=executor)


def test_layer_errors_are_those_of_the_layers_outputs(model, samples, tmp_path):
    """Of a layer whose inputs are read from the running model, by plain products."""
    report = mlpass.sweep(model, samples, [Percentile(0.5)])
    names = [layer.name for layer in report.trials[0].report.layers]
    number = names.index("layers_1_up_weight_to_fp16")
    with Package(model) as package:
        (function,) = package.programs[0].functions.values()
        ops = {op.name: op for op in function.block.walk()}
        site = next(one for one in find_sites(package.programs) if one.name == names[number])
        weight = site.constant.read().astype(np.float64)
        reader = ops[site.uses[0].op.name].inputs["x"][0].name
    interpreter = mlpass.Interpreter(model)
    inputs = [interpreter.run(sample, [reader])[reader] for sample in samples]
    rows = np.concatenate([x.reshape(-1, x.shape[-1]) for x in inputs]).astype(np.float64)
    order = np.argsort(np.abs(weight), axis=None, kind="stable")
    pruned = weight.copy().reshape(-1)
    pruned[order[: weight.size // 2]] = 0
    wanted = np.sum((rows @ (pruned.reshape(weight.shape) - weight).T) ** 2)
    wanted /= np.sum((rows @ weight.T) ** 2)
    assert report.trials[0].layer_errors[number] == pytest.approx(wanted, rel=1e-3)


def test_calibrated_trials_bring_their_own_layer_errors(model, samples):
    (trial,) = mlpass.sweep(model, samples, [NM(2, 4)], method="wanda").trials
    assert trial.layer_errors == tuple(layer.error for layer in trial.report.layers)
    assert any(trial.layer_errors)


def test_weights_read_count_once_a_reader(fixtures):
    with Package(fixtures / "tiny_lm.mlpackage") as package:
        sites = mlpass.inspect(fixtures / "tiny_lm.mlpackage").layers
        # The embedding is read by the head as a whole, and by the gather row by row.
        assert weight_bytes(package) == sum(site.bytes_before for site in sites)
    with Package(fixtures / "multifunction_lm.mlpackage") as package:
        assert weight_bytes(package, ["short"]) == weight_bytes(package, ["prefill"])
        with pytest.raises(ConfigError, match="long"):
            weight_bytes(package, ["long"])


def test_other_samples_to_test_on(model, samples):
    both = mlpass.sweep(model, samples[:1], [NM(2, 4)], method="wanda", test_data=samples[1:])
    assert both.samples == 1
    assert both.notes == ()
    same = mlpass.sweep(model, samples[:1], [NM(2, 4)], method="wanda")
    assert both.trials[0].report.layers == same.trials[0].report.layers
    assert both.trials[0].snr != same.trials[0].snr
    assert "compared on the samples that methods were calibrated on" in same.notes[0]
    assert mlpass.sweep(model, samples, [NM(2, 4)]).notes == ()


def test_without_samples_there_are_sizes_alone(model):
    report = mlpass.sweep(model, None, CONFIGS[:2])
    for trial in report.trials:
        assert trial.nbytes < report.bytes_before
        assert trial.snr is None and trial.top1 is None and not trial.front
    assert report.front == ()
    assert "0 samples" in str(report)


def test_labels_and_probabilities(fixtures):
    rng = np.random.default_rng(0)
    images = [{"image": rng.integers(0, 256, (1, 1, 28, 28)).astype(np.float32)} for _ in range(3)]
    model, config = str(fixtures / "digits_classifier.mlpackage"), Percentile(0.8)
    (trial,) = mlpass.sweep(model, images, [config]).trials
    label, probabilities = trial.outputs
    assert label.snr is None
    assert trial.snr == probabilities.snr


def test_an_mlmodel_is_swept_as_it_is_now(fixtures, samples):
    from coremltools.models import MLModel

    model = MLModel(str(fixtures / "tiny_lm.mlpackage"), skip_model_load=True)
    model.short_description = "edited"
    report = mlpass.sweep(model, samples, [NM(2, 4)])
    again = mlpass.sweep(str(fixtures / "tiny_lm.mlpackage"), samples, [NM(2, 4)])
    assert report.trials[0].outputs == again.trials[0].outputs


def test_a_config_that_fails_is_a_row(model, samples):
    wrong = {"name": "wrong", "global_config": Percentile(0.5), "op_name_configs": {"no": None}}
    report = mlpass.sweep(model, samples, [wrong, NM(2, 4)])
    bad, good = report.trials
    assert "op_name_configs: no weight or op is named 'no'" in bad.failed
    assert not bad.front and good.front and good.failed is None
    assert "failed: op_name_configs" in str(report)
    assert bad.nbytes is bad.ratio is bad.sparsity is None


def test_layers_that_cannot_be_measured_are_a_note(fixtures):
    frames = np.full((1, 43844, 1), np.nan, np.float32)
    model = fixtures / "basic_pitch.mlpackage"
    report = mlpass.sweep(model, [{"input_2": frames}], [{"target_sparsity": 0.5}])
    assert report.notes and report.notes[0].startswith("no errors by layer: ")
    assert report.notes[0] in str(report)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"method": "admm"}, ConfigError, "sample_data: 'Quantized\\(int8\\)' by admm needs samp"),
        ({"backend": "coreml"}, ConfigError, "backend: must be 'numpy' or 'torch'. Got 'coreml'"),
        ({"resume": True}, ConfigError, "resume: needs output, the report of the sweep"),
        ({"output": "report.pdf"}, ConfigError, "must end in .html or .json. Got 'report.pdf'"),
        ({"weight": "embeding_weight"}, ConfigError, "weight: the model has no weight named"),
    ],
)
def test_arguments_that_cannot_be(model, arguments, error, message):
    with pytest.raises(error, match=message):
        mlpass.sweep(model, **arguments)


def test_an_output_that_exists(model, tmp_path):
    there = tmp_path / "report.json"
    there.touch()
    with pytest.raises(
        mlpass.OutputExistsError,
        match="already exists; pass force=True to replace it, or name another file",
    ):
        mlpass.sweep(model, output=there)


def test_samples_that_do_not_fit(model):
    with pytest.raises(mlpass.CalibrationError, match="sample_data: .*'words'"):
        mlpass.sweep(model, [{"words": np.zeros((1, 64))}], CONFIGS)


def run(tmp_path, model, stacked, limit, *more):
    command = [sys.executable, "-m", "mlpass", "sweep", model, "--sample-data", str(stacked)]
    command += ["-o", "report.json", "--jobs", "1", "--configs", "grid.yaml", "--json"]
    command += ["--evaluate", "tests.study.measures:deadly", *more]
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, CALLS: str(tmp_path / "calls"), LIMIT: str(limit)}
    environment["PYTHONPATH"] = os.pathsep.join([root, environment.get("PYTHONPATH", "")])
    return subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )


def test_a_sweep_that_died_goes_on(model, stacked, tmp_path):
    (tmp_path / "grid.yaml").write_text("".join(f"- target_sparsity: 0.{n}\n" for n in range(1, 7)))
    journal, calls = tmp_path / ".report.json.resume", tmp_path / "calls"
    assert run(tmp_path, model, stacked, 1 + 3).returncode == -9  # the model, and three trials
    assert len(list(journal.glob("*.json"))) == 3
    assert not (tmp_path / "report.json").exists()
    calls.unlink()
    resumed = run(tmp_path, model, stacked, 99, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert len(calls.read_text().splitlines()) == 3 + 1  # those that were left, and the model
    assert not journal.exists()
    whole = run(tmp_path, model, stacked, 99, "--force")
    one, other = json.loads(resumed.stdout), json.loads(whole.stdout)
    for key in ("seconds", "command"):
        one.pop(key), other.pop(key)
    assert one == other


def test_a_journal_that_is_of_other_samples_or_broken(model, samples, tmp_path):
    from mlpass.ledger import journal_path
    from mlpass.study.grid import make_candidates
    from mlpass.study.trial import Setting
    from mlpass.study.trial_journal import TrialJournal

    output = tmp_path / "report.json"
    (candidate,) = make_candidates([NM(2, 4)])
    trial = mlpass.sweep(model, samples, [candidate]).trials[0]
    with Package(model) as package:

        def journal(data, resume=True):
            setting = Setting(model, data, data)
            return TrialJournal(journal_path(output), package.files, setting, resume=resume)

        journal(samples, resume=False).add(candidate, trial)
        assert journal(samples).get(candidate) == trial
        assert journal(samples[:1]).get(candidate) is None
        assert journal(samples).get(replace(candidate, method=ADMM())) is None
        assert journal(samples).get(replace(candidate, config=Config(NM(1, 4)))) is None
        next(journal_path(output).glob("*.json")).write_text("{}")
        form = journal_path(output) / "form"
        known = form.read_text()
        form.write_text("0.0.1 name of_old")
        with pytest.raises(mlpass.CalibrationError, match="another version of mlpass, and is not"):
            journal(samples)
        form.write_text(known)
        with pytest.raises(mlpass.CalibrationError, match="is broken, delete it"):
            journal(samples).get(candidate)


@pytest.mark.parametrize("gone", ["0.npz", "1.npz", ""], ids=["first", "last", "folder"])
def test_outputs_that_others_removed_meanwhile_are_named(gone, model, samples, tmp_path):
    with Package(model) as package:
        setting = Setting(str(model), test_data=samples[:2])
        place = write_outputs(package, setting, tmp_path)
    shutil.rmtree(place) if not gone else (place / gone).unlink()
    (candidate,) = make_candidates([Percentile(0.5)], None, None)
    with pytest.raises(FileNotFoundError) as caught:
        run_trial(replace(setting, reference=str(place)), candidate)
    assert caught.value.filename == str(place / (gone or "0.npz"))
