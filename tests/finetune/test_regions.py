"""Tuning from package to package: what it gains, what it keeps, how it goes on."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from coremltools.converters.mil.mil import Builder as mb

import mlpass
from mlpass import Palette, Percentile, Quantized
from mlpass.cli import main
from mlpass.errors import (
    CalibrationError,
    ConfigError,
    InputError,
    ModelFormatError,
    OutputBusyError,
    OutputExistsError,
)
from mlpass.finetune import Regions, abreast, region_run, to_module, to_stored_module, tune
from mlpass.finetune.region_run import tune_module
from mlpass.ledger import journal_path
from mlpass.runtime.function_plan import reads
from tests.finetune.networks import FIXTURES
from tests.finetune.samples import samples_of
from tests.finetune.test_stored_writing import constants
from tests.finetune.tuned import OPTIONS, SAMPLES, TINY, aimed, interrupted, losses_of, pruned
from tests.program.packages import tree
from tests.runtime.programs import convert, program

_ = pruned  # a fixture


@pytest.mark.slow
def test_every_region_comes_nearer_in_the_same_form(pruned, tmp_path):
    output, again = tmp_path / "o.mlpackage", tmp_path / "again.mlpackage"
    report = tune(pruned, output, TINY, SAMPLES, OPTIONS)
    assert constants(output) == constants(pruned)
    losses = losses_of(report)
    assert len(losses) == 6
    assert all(after < before for before, after in losses.values())
    assert report.notes[0].startswith("tuned 6 regions on 9 samples; 6 came nearer to the dense")
    assert re.match(r"outputs on these: loss \S+ -> \S+$", report.notes[1])
    assert re.match(r"logits: SNR \S+ -> \S+ dB, agreement ", report.notes[2])
    assert report.notes[-1].startswith("read by several regions, so left as they were: embedding")
    assert "weights polished" in str(report)
    before, after = (
        mlpass.compare(TINY, path, samples_of("tiny_lm.mlpackage", 14)[10:]).outputs[0].snr
        for path in (pruned, output)
    )
    assert after > before
    assert not journal_path(output).exists()
    tune(pruned, again, TINY, SAMPLES, OPTIONS)
    assert tree(again) == tree(output)
    tune(pruned, again, TINY, SAMPLES, replace(OPTIONS, seed=1), force=True)
    assert tree(again) != tree(output)


def test_a_region_that_aims_at_its_own_dense_weights_minds_nothing_before_it(tmp_path):
    """Of a model with one pruned weight no other region is off what its dense weights give."""
    first = next(one.name for one in mlpass.inspect(TINY).layers if one.op_type == "linear")
    path, output = tmp_path / "one.mlpackage", tmp_path / "o.mlpackage"
    mlpass.prune(TINY, path, mlpass.Config(op_name_configs={first: Percentile(0.7)}))
    before = {}
    for target in ("dense", "own"):
        options = Regions(epochs=1, batch_size=4, target=target)
        report = tune(path, output, TINY, SAMPLES[:4], options, force=True)
        before[target] = [loss for loss, _ in losses_of(report).values()]
    assert sum(loss > 1e-6 for loss in before["own"]) == 1
    assert all(loss > 1e-6 for loss in before["dense"][before["own"].index(max(before["own"])) :])
    assert "came nearer to what their dense weights give" in report.notes[0]


@pytest.mark.parametrize(
    "options",
    [
        replace(OPTIONS, epochs=1, target="mix", window=2),
        pytest.param(replace(OPTIONS, target="best"), marks=pytest.mark.slow),
        pytest.param(replace(OPTIONS, window=9), marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_each_target_and_window_comes_nearer_and_goes_on_to_the_same_bytes(
    pruned, options, tmp_path, monkeypatch
):
    output, whole = tmp_path / "o.mlpackage", tmp_path / "whole.mlpackage"
    report = tune(pruned, whole, TINY, SAMPLES, options)
    losses = losses_of(report)
    assert len(losses) == {1: 6, 2: 7, 9: 1}[options.window]
    assert all(after <= before for before, after in losses.values())
    assert any(after < before for before, after in losses.values())
    begun = interrupted(monkeypatch, lambda begun: len(begun) == (len(losses) + 1) // 2)
    with pytest.raises(KeyboardInterrupt):
        tune(pruned, output, TINY, SAMPLES, options)
    again = tune(pruned, output, TINY, SAMPLES, options, resume=True)
    assert len(begun) == len(losses) + 1
    assert again.notes == report.notes
    assert tree(output) == tree(whole)


@pytest.mark.parametrize("worse", [2.0, float("nan")])
def test_outputs_that_would_be_worse_leave_all_as_it_was(worse, pruned, tmp_path, monkeypatch):
    judged = abreast.judged
    losses = iter((1.0, worse))
    monkeypatch.setattr(
        abreast, "judged", lambda *given: replace(judged(*given), loss=next(losses))
    )
    output = tmp_path / "o.mlpackage"
    report = tune(pruned, output, TINY, SAMPLES, replace(OPTIONS, epochs=1))
    assert report.notes[1].endswith(
        f"loss 1 -> {worse:g}: that is worse, so all was left as it was"
    )
    assert tree(output) == tree(pruned)
    module, first = to_stored_module(pruned), to_stored_module(pruned)
    losses = iter((1.0, worse))
    tune_module(module, to_module(TINY), SAMPLES, replace(OPTIONS, epochs=1))
    for name, parameter in module.named_parameters():
        assert torch.equal(parameter, first.get_parameter(name))


def test_outputs_that_are_logits_are_judged_as_such(pruned, monkeypatch):
    """tiny_lm ends before its softmax."""
    kinds = []
    judged = abreast.judged
    monkeypatch.setattr(abreast, "judged", lambda *given: kinds.append(given[0]) or judged(*given))
    for logits, kind in ((None, "values"), ("logits", "logits")):
        options = replace(OPTIONS, epochs=1, logits=logits)
        tune_module(to_stored_module(pruned), to_module(TINY), SAMPLES, options)
        assert {one[None]["logits"].name for one in kinds} == {kind}
        kinds.clear()
    options = replace(OPTIONS, logits="logit")
    with pytest.raises(ConfigError, match="logits: there is no output 'logit'"):
        tune_module(to_stored_module(pruned), to_module(TINY), SAMPLES, options)


def test_a_bias_alone_does_not_make_a_training(tmp_path):
    """Before the head that is tied to the embedding nothing but a bias would train."""
    source, solved = tmp_path / "model.mlpackage", tmp_path / "solved.mlpackage"
    first, second = np.random.default_rng(0).standard_normal((2, 64, 64)).astype(np.float32)
    bias = np.random.default_rng(1).standard_normal(64).astype(np.float32)

    def build(x):
        x = mb.linear(x=x, weight=(tied := mb.const(val=first, name="tied")))
        x = mb.linear(x=mb.relu(x=x), weight=second, name="middle")
        return mb.linear(x=mb.tanh(x=mb.relu(x=x)), weight=tied, bias=bias, name="head")

    convert(program(build, (4, 64))).save(str(source))
    mlpass.prune(source, solved, Percentile(0.5))
    samples = [{"x": one} for one in np.random.default_rng(1).standard_normal((6, 4, 64))]
    report = tune(solved, tmp_path / "o.mlpackage", source, samples, OPTIONS)
    told = dict(note.split(", so left as they were: ") for note in report.notes[-2:])
    assert "tied" in told["read by several regions"]
    assert "head_bias" in told["in regions without a weight to train"]


@pytest.mark.slow
def test_what_another_function_reads_is_told_of(tmp_path):
    name = "multifunction_lm.mlpackage"
    solved, output = tmp_path / "solved.mlpackage", tmp_path / "o.mlpackage"
    options = aimed(name, solved)
    report = tune(solved, output, FIXTURES / name, samples_of(name, 4), options)
    told = "read by functions that were not run as well, and changed for them, too: "
    assert report.notes[-1].startswith(told)


@pytest.mark.slow
@pytest.mark.slow_but_every(3)
@pytest.mark.parametrize(
    ("mode", "storage"),
    [
        (Percentile(0.0), Palette(bits=2)),
        (Percentile(0.5), Quantized("int4", block_size=32)),
        (Percentile(0.5), Palette(bits=4)),
    ],
    ids=str,
)
def test_tables_and_scales_train_on_sequences_over_a_state(mode, storage, tmp_path):
    name = "stateful_lm.mlpackage"
    solved, output = tmp_path / "solved.mlpackage", tmp_path / "o.mlpackage"
    mlpass.prune(FIXTURES / name, solved, mode, storage=storage)
    report = tune(solved, output, FIXTURES / name, samples_of(name, 4), OPTIONS)
    before, after = losses_of(report)[1]
    assert after < before


def test_no_more_than_a_regions_weights_are_held(pruned, tmp_path, monkeypatch):
    once, seen = region_run.tune_region, []

    def large(stream):
        arrays = stream.stage.part.constants._arrays.items()
        return {one for one, array in arrays if isinstance(array, torch.Tensor) and array.ndim > 1}

    def watched(task, *arguments):
        found = once(task, *arguments)
        mine, its = task.stream, task.goal.stream
        assert {name for name, _ in task.module.named_parameters()} == set(task.names)
        assert not list(its.module.parameters())
        steps = mine.stage.plan.block.steps[task.region.start : task.region.end]
        assert large(mine) <= {value for step in steps for value in reads(step.op)}
        assert not large(its)
        seen.append(task.number)
        return found

    monkeypatch.setattr(region_run, "tune_region", watched)
    tune(pruned, tmp_path / "o.mlpackage", TINY, SAMPLES, replace(OPTIONS, epochs=1))
    assert seen == [1, 2, 3, 4, 5, 6]


def test_a_region_that_gains_nothing_stays_as_it_was(pruned, tmp_path):
    output = tmp_path / "o.mlpackage"
    report = tune(pruned, output, TINY, SAMPLES, replace(OPTIONS, learning_rate=30.0))
    assert all(before == after for before, after in losses_of(report).values())
    assert "; 0 came nearer to the dense model" in report.notes[0]
    assert tree(output) == tree(pruned)


def test_a_run_that_died_goes_on_to_the_same_bytes(pruned, tmp_path, monkeypatch):
    output, whole = tmp_path / "o.mlpackage", tmp_path / "whole.mlpackage"
    report = tune(pruned, whole, TINY, SAMPLES, OPTIONS)
    begun = interrupted(monkeypatch, lambda begun: begun == [1, 2, 3, 4])
    with pytest.raises(KeyboardInterrupt):
        tune(pruned, output, TINY, SAMPLES, OPTIONS)
    assert not output.exists()
    assert len(list(journal_path(output).glob("*.npz"))) == 3
    with pytest.raises(CalibrationError, match="belongs to a run with other models, options or"):
        tune(pruned, output, TINY, SAMPLES, replace(OPTIONS, seed=1), resume=True)
    again = tune(pruned, output, TINY, SAMPLES, OPTIONS, resume=True)
    assert begun == [1, 2, 3, 4, 4, 5, 6]
    assert tree(output) == tree(whole)
    assert again.notes == report.notes
    assert not journal_path(output).exists()


def test_a_broken_journal_is_an_error(pruned, tmp_path, monkeypatch):
    output = tmp_path / "o.mlpackage"
    interrupted(monkeypatch, lambda begun: begun[-1] == 2)
    with pytest.raises(KeyboardInterrupt):
        tune(pruned, output, TINY, SAMPLES, OPTIONS)
    (path,) = journal_path(output).glob("*.npz")
    with np.load(path) as file:
        arrays = dict(file)
    for broken in ({"losses": arrays["losses"]}, {**arrays, "0": np.zeros(3)}):
        np.savez(path, **broken)
        with pytest.raises(CalibrationError, match=r"1\.npz is broken, delete it"):
            tune(pruned, output, TINY, SAMPLES, OPTIONS, resume=True)


def test_what_ends_in_no_float_is_told_of(tmp_path):
    source, solved = tmp_path / "model.mlpackage", tmp_path / "solved.mlpackage"
    first, second, third = np.random.default_rng(0).standard_normal((3, 64, 64)).astype(np.float32)

    def build(x):
        x = mb.linear(x=mb.relu(x=mb.linear(x=x, weight=first)), weight=second, name="middle")
        return mb.reduce_argmax(x=mb.linear(x=mb.relu(x=x), weight=third), axis=-1)

    convert(program(build, (4, 64))).save(str(source))
    mlpass.prune(source, solved, Percentile(0.5))
    samples = [{"x": one} for one in np.random.default_rng(1).standard_normal((6, 4, 64))]
    report = tune(solved, tmp_path / "o.mlpackage", source, samples, OPTIONS)
    assert report.notes[0].startswith("tuned 1 regions on 5 samples; ")
    told = (
        "in regions that end in no float of the dense model's, so left as they were: middle_weight"
    )
    assert report.notes[-1].startswith(told)


def test_what_does_not_do(pruned, tmp_path):
    output = tmp_path / "o.mlpackage"
    for name, value in (("epochs", 0), ("batch_size", 1.5), ("held_out", 0), ("held_out", 1.0)):
        with pytest.raises(ConfigError, match=f"{name}: must be .* Got {value}"):
            Regions(**{name: value})
    for value in (-1, 0.5, "1"):
        with pytest.raises(ConfigError, match=r"memory_budget: must be an int in \[0, "):
            tune(pruned, output, TINY, SAMPLES, OPTIONS, memory_budget=value)
    with pytest.raises(CalibrationError, match="training needs two samples or more"):
        tune(pruned, output, TINY, SAMPLES[:1], OPTIONS)
    with pytest.raises(ModelFormatError, match="dense: must be the model that the other was made"):
        tune(pruned, output, FIXTURES / "digits_ios15.mlpackage", SAMPLES, OPTIONS)
    with pytest.raises(InputError, match="sample 1: there is no input 'x'"):
        tune(pruned, output, TINY, [SAMPLES[0], {"x": 1}], OPTIONS)
    sequences = samples_of("stateful_lm.mlpackage", 3)
    sequences[1] = sequences[1][:2]
    stateful = FIXTURES / "stateful_lm.mlpackage"
    tune(stateful, output, stateful, sequences, replace(OPTIONS, epochs=1))
    with pytest.raises(OutputExistsError, match="already exists; pass force=True"):
        tune(pruned, output, TINY, None, OPTIONS)
    with pytest.raises(ModelFormatError, match="is within the model to learn from"):
        tune(pruned, TINY / "o.mlpackage", TINY, SAMPLES, OPTIONS)
    journal_path(output).write_text("")
    with pytest.raises(OutputBusyError, match="is not a folder of mlpass's own"):
        tune(pruned, output, TINY, SAMPLES, OPTIONS, force=True)


def test_the_command(pruned, tmp_path, capsys):
    np.savez(tmp_path / "x.npz", tokens=np.stack([one["tokens"] for one in SAMPLES]))
    output = tmp_path / "o.mlpackage"
    places = ["--sample-data", str(tmp_path / "x.npz"), "--dense", str(TINY), "-o", str(output)]
    numbers = ["--epochs", "1", "--batch-size", "4", "--learning-rate", "0.001", "--seed", "3"]
    assert main(["tune", str(pruned), *places, *numbers, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["notes"][0].startswith("tuned 6 regions on 9 samples; 6 came nearer")
    again = tmp_path / "again.mlpackage"
    options = replace(OPTIONS, epochs=1, seed=3)
    tune(pruned, again, TINY, tmp_path / "x.npz", options)
    assert tree(again) == tree(output)
    assert main(["tune", str(pruned), *places, "--epochs", "0"]) == 1
    assert "epochs: must be an int" in capsys.readouterr().err
    assert main(["tune", str(pruned), *places]) == 1
    assert "already exists; pass --force" in capsys.readouterr().err
