"""Choosing: the target holds in the model that is written, or nothing is and the reason is told."""

from __future__ import annotations

import json
import shutil

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil.mil import Builder as mb

import mlpass
from mlpass import ConfigError, OutputExistsError
from mlpass.program.opened import package_nbytes
from tests.calibrate.layers import samples as layer_samples
from tests.calibrate.layers import save, weights
from tests.program.packages import FIXTURES


@pytest.mark.slow
def test_a_size_is_held_with_the_best_outputs(model, samples, tmp_path):
    out = tmp_path / "out.mlpackage"
    choice = mlpass.choose(model, out, sample_data=samples, max_size="0.5x", up_to="sparsegpt")
    assert package_nbytes(out) == choice.picked.nbytes <= 0.5 * choice.bytes_before
    best = max(attempt.trial.snr for attempt in choice.attempts if not attempt.misses)
    assert choice.picked.snr == best
    (record,) = mlpass.compare(model, out, samples).outputs
    assert record.snr == pytest.approx(best)
    assert {attempt.rung for attempt in choice.attempts} == {
        "data-free", "storages", "sparsegpt"
    }  # fmt: skip
    assert "they need iOS18" in choice.notes[-1]
    # Not smaller than it has to be: one step less sparse is above the size.
    data_free = choice.attempts[0].trial.report
    sparsity = float(choice.attempts[0].trial.name.removeprefix("Percentile(").rstrip(")"))
    less = mlpass.prune(model, tmp_path / "l.mlpackage", mlpass.Percentile(sparsity - 0.005))
    assert less.bytes_after > 0.5 * choice.bytes_before >= data_free.bytes_after


@pytest.mark.slow
def test_at_a_small_size_storages_are_what_is_picked(tmp_path):
    """A third of the bytes: fewer bits a weight keep what zeros lose."""
    model, out = tmp_path / "raised.mlpackage", tmp_path / "out.mlpackage"
    source = FIXTURES / "tiny_lm.mlpackage"
    mlpass.prune(source, model, mlpass.Config(), minimum_deployment_target="iOS18")
    rng = np.random.default_rng(0)
    with np.load(source.with_suffix(".npz")) as truth:
        tokens = truth["input:tokens"]
    samples = [{"tokens": rng.permutation(tokens, axis=1)} for _ in range(8)]
    choice = mlpass.choose(model, out, sample_data=samples, max_size="0.35x", up_to="budget")
    rung = next(each.rung for each in choice.attempts if each.trial == choice.picked)
    assert rung in ("storages", "budget")
    holding = {rung: [] for rung in ("data-free", "storages", "sparsegpt", "admm", "budget")}
    for attempt in choice.attempts:
        if not attempt.misses:
            holding[attempt.rung].append(attempt.trial.snr)
    assert min(map(len, holding.values())) >= 1  # each has one of that size
    assert choice.picked.snr == max(map(max, holding.values()))
    assert max(holding["storages"] + holding["budget"]) > max(holding["admm"]) + 3
    assert package_nbytes(out) <= 0.35 * choice.bytes_before
    # Judged by what was kept back: every fourth sample, which no method saw.
    assert choice.notes[0].startswith("solved on 6 of 8 samples, judged by the 2 that were kept")
    (record,) = mlpass.compare(model, out, samples[3::4]).outputs
    assert record.snr == pytest.approx(choice.picked.snr)


def test_a_model_whose_place_was_taken_meanwhile_is_kept_beside_it(
    model, samples, tmp_path, monkeypatch
):
    from mlpass.study.climb import Climb

    out, try_rung = tmp_path / "out.mlpackage", Climb.try_rung

    def late(self, *given):
        try_rung(self, *given)
        out.write_text("theirs")

    monkeypatch.setattr(Climb, "try_rung", late)
    options = {"sample_data": samples, "max_size": "0.8x", "up_to": "data-free"}
    with pytest.raises(OutputExistsError, match=r"meanwhile, and is kept; the result is .*out-1"):
        mlpass.choose(model, out, **options)
    assert out.read_text() == "theirs"
    kept = tmp_path / "out-1.mlpackage"
    assert sorted(tmp_path.iterdir()) == [kept, out]
    assert package_nbytes(kept) <= 0.8 * mlpass.inspect(model).bytes_before


def test_a_quality_is_held_by_the_smallest(model, samples, tmp_path):
    out = tmp_path / "out.mlpackage"
    choice = mlpass.choose(model, out, sample_data=samples, min_snr=20, up_to="data-free")
    holding = [attempt.trial for attempt in choice.attempts if not attempt.misses]
    assert choice.picked.nbytes == package_nbytes(out) == min(trial.nbytes for trial in holding)
    assert mlpass.compare(model, out, samples).outputs[0].snr >= 20
    assert all(attempt.trial.snr < 20 for attempt in choice.attempts if attempt.misses)
    assert "the smallest that holds it" in choice.reason


def test_a_size_and_a_quality_stop_at_the_first_step_that_holds_both(model, samples, tmp_path):
    out = tmp_path / "out.mlpackage"
    options = {"sample_data": samples, "max_size": "0.8x", "min_snr": 12, "force": True}
    choice = mlpass.choose(model, out, **options)
    assert {attempt.rung for attempt in choice.attempts} == {"data-free"}
    assert "the first step that holds both" in choice.reason
    assert "holds" in str(choice)
    assert str(out) in str(choice)
    assert "mlpass prune" in str(choice)
    content = json.loads(json.dumps(choice.to_dict()))
    assert content["picked"]["bytes"] == package_nbytes(out)


@pytest.mark.slow
def test_what_cannot_be_is_said_and_nothing_is_written(model, samples, tmp_path):
    out = tmp_path / "out.mlpackage"
    options = {"sample_data": samples, "max_size": "0.3x", "min_snr": 60, "up_to": "admm"}
    choice = mlpass.choose(model, out, **options)
    assert choice.picked is choice.output is None
    assert not out.exists()
    assert [attempt.rung for attempt in choice.attempts][-1] == "admm"
    assert "could not be met; nearest came" in choice.reason
    assert "is below 60" in choice.reason
    assert choice.to_dict()["picked"] is None
    none = mlpass.choose(model, out, sample_data=samples, max_size="0.01x")
    assert "cannot be met: with every weight that can be pruned zero" in none.reason
    assert none.attempts == ()
    assert none.notes == ()
    assert "compared on the samples that methods were calibrated on" in str(choice)


@pytest.mark.slow
def test_training_is_the_last_step_and_judged_by_the_users_own_measure(model, samples, tmp_path):
    trained = []

    def finetune(package, output, given, dense):
        trained.append(output)
        assert (given, dense) == (samples, model)
        shutil.copytree(package, output)
        return mlpass.inspect(output)

    choice = mlpass.choose(
        model,
        tmp_path / "out.mlpackage",
        sample_data=samples,
        max_size="0.6x",
        min_accuracy=0.9,
        evaluate=lambda path: 1.0 if path in trained else 0.5,
        finetune=finetune,
    )
    assert [attempt.rung for attempt in choice.attempts][-1] == "fine-tuning"
    assert len(trained) == 1
    assert choice.picked == choice.attempts[-1].trial
    assert choice.picked.value == 1.0
    assert choice.picked.method.endswith(" + fine-tuning")
    assert choice.picked.report.bytes_before == choice.bytes_before
    assert choice.attempts[0].misses == ("value 0.50 is below 0.9",)
    assert "evaluate gives 0.5 for the model as it is" in choice.notes


def test_what_the_model_itself_does_not_have_is_not_climbed_for(model, samples, tmp_path):
    seen = []

    def evaluate(path):
        seen.append(path)
        return 0.5

    choice = mlpass.choose(
        model,
        tmp_path / "out.mlpackage",
        sample_data=samples,
        min_accuracy=0.9,
        evaluate=evaluate,
    )
    assert seen == [str(model)]
    assert choice.attempts == ()
    assert choice.picked is None
    assert choice.reason == (
        "a value of at least 0.9 cannot be met: evaluate gives 0.5 for the model as it is, before "
        "anything is pruned; ask for less, or look at what evaluate measures"
    )
    assert str(choice).count("evaluate gives 0.5") == 1
    assert not (tmp_path / "out.mlpackage").exists()


@pytest.mark.slow
def test_fine_tuning_of_its_own_brings_the_best_start_nearer(model, samples, tmp_path):
    pytest.importorskip("torch", reason="fine-tuning needs the torch extra")
    out = tmp_path / "out.mlpackage"
    choice = mlpass.choose(
        model, out, sample_data=samples, max_size="0.4x", min_snr=60, finetune_steps=20
    )
    *others, last = choice.attempts
    assert last.rung == "fine-tuning"
    fitting = [each.trial for each in others if each.trial.nbytes <= 0.4 * choice.bytes_before]
    assert last.trial.name == "budget"
    assert last.trial.snr >= max(trial.snr for trial in fitting)
    assert last.trial.nbytes <= 0.4 * choice.bytes_before
    assert choice.picked is None
    assert not out.exists()


@pytest.mark.slow
def test_with_a_quality_alone_training_reaches_for_what_is_smaller(model, samples, tmp_path):
    starts = []

    def finetune(package, output, given, dense):
        starts.append(package_nbytes(package))
        return mlpass.prune(dense, output, mlpass.Percentile(0.9), force=True)

    choice = mlpass.choose(
        model, tmp_path / "out.mlpackage", sample_data=samples, min_snr=25, finetune=finetune
    )
    assert [attempt.rung for attempt in choice.attempts].count("fine-tuning") == len(starts) >= 1
    assert max(starts) < choice.picked.nbytes


@pytest.mark.slow
def test_training_that_fails_is_a_step_that_failed(model, samples, tmp_path):
    def finetune(*_):
        raise mlpass.ExecutionError("the loss is no longer finite")

    options = {"sample_data": samples, "max_size": "0.3x", "min_snr": 60, "finetune": finetune}
    choice = mlpass.choose(model, tmp_path / "out.mlpackage", **options)
    assert choice.attempts[-1].misses == ("failed",)
    assert choice.picked is None


@pytest.mark.slow
def test_fine_tuning_that_is_not_there_is_said(model, samples, tmp_path, monkeypatch):
    from mlpass.study import choose as module

    monkeypatch.setattr(module, "built_in_finetune", lambda *_: None)
    choice = mlpass.choose(
        model, tmp_path / "out.mlpackage", sample_data=samples, max_size="0.3x", min_snr=60
    )
    assert "fine-tuning was not tried, it needs torch" in choice.reason


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "target: give max_size, min_snr or min_accuracy"),
        ({"min_accuracy": 0.7}, "min_accuracy: needs evaluate, which measures it"),
        ({"min_snr": 3, "up_to": "sparsgpt"}, "up_to: must be one of data-free.*did you mean 'sp"),
        ({"min_snr": float("nan")}, "min_snr: must be a number. Got nan"),
        ({"min_snr": 20, "finetune_steps": 0}, r"finetune_steps: must be an int in \[1, "),
        ({"min_snr": 20, "finetune_steps": 10**400}, "finetune_steps: must be an int in"),
        ({"min_accuracy": 10**400, "evaluate": len}, "min_accuracy: must be a number"),
        ({"min_snr": "25"}, "min_snr: must be a number. Got '25'"),
        ({"min_snr": 3, "backend": "coreml"}, "backend: must be 'numpy' or 'torch'"),
    ],
)
def test_targets_that_are_none(model, samples, tmp_path, arguments, message):
    with pytest.raises(ConfigError, match=message):
        mlpass.choose(model, tmp_path / "out.mlpackage", sample_data=samples, **arguments)


def test_an_output_that_exists(model, samples):
    with pytest.raises(
        OutputExistsError,
        match="already exists; pass force=True to replace it, or name another target",
    ):
        mlpass.choose(model, model, sample_data=samples, min_snr=3)


@pytest.mark.slow
@pytest.mark.parametrize("target", [None, "iOS18"])
def test_a_divided_size_is_met_from_below(model, samples, tmp_path, target):
    """What the program says of compressed weights counts, too."""
    out = tmp_path / "out.mlpackage"
    choice = mlpass.choose(
        model,
        out,
        sample_data=samples,
        max_size="0.25x",
        up_to="budget",
        minimum_deployment_target=target,
    )
    assert choice.picked.name == "budget"
    assert 0.98 < package_nbytes(out) / (0.25 * choice.bytes_before) <= 1


@pytest.mark.slow
def test_an_attempt_that_is_too_large_is_made_again_smaller(model, samples, tmp_path, monkeypatch):
    """As much as the program said of the weights is taken away; no more attempts than it takes."""
    from mlpass.report.choice import Target
    from mlpass.study import climb as module
    from mlpass.study.trial import Setting

    nbytes = package_nbytes(model)
    setting = Setting(model, sample_data=samples[:1], reference=None)
    climb = module.Climb(setting, Target(nbytes=int(0.3 * nbytes)), tmp_path)
    known = climb._beside_weights
    assert known(model) == nbytes - sum(
        path.stat().st_size for path in (FIXTURES / "tiny_lm.mlpackage").rglob("weight.bin")
    )
    climb.try_rung("budget", None)  # nothing is known yet of what programs will say
    first, second = climb.attempts
    over = known(climb.packages[0]) - known(model)
    assert first.misses and not second.misses
    assert first.trial.options["budget"] - second.trial.options["budget"] == over > 0
    assert 0.98 * 0.3 * nbytes < second.trial.nbytes <= 0.3 * nbytes


@pytest.mark.parametrize("max_size", ["1x", "2x"])
def test_a_size_that_the_model_holds_as_it_is(tmp_path, max_size):
    """Nothing needs to become zero, and there is nothing to divide."""
    (weight,) = weights(1)
    source = save(
        lambda x: mb.linear(x=x, weight=weight, name="one"),
        tmp_path,
        minimum_deployment_target=ct.target.iOS18,
        compute_precision=ct.precision.FLOAT16,
    )
    inputs = layer_samples(8)
    choice = mlpass.choose(
        source, tmp_path / "o.mlpackage", sample_data=inputs, max_size=max_size, up_to="budget"
    )
    assert choice.picked.label == "Percentile(0.0)"
    assert not any(each.trial.failed for each in choice.attempts)
    assert "budget" not in {each.rung for each in choice.attempts}
