"""A polish from package to package: what it gains, what it keeps, what it tells."""

import gc
import json
import re
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch

import mlpass
from mlpass import Palette, Percentile, Quantized
from mlpass.cli import main
from mlpass.errors import CalibrationError, ConfigError, ExecutionError, OutputExistsError
from mlpass.finetune import (
    Polish,
    Regions,
    finetune,
    polish,
    polishing,
    to_module,
    to_stored_module,
)
from mlpass.finetune.polishing import polish_module
from tests.finetune.networks import FIXTURES, images
from tests.finetune.test_stored_writing import constants
from tests.program.packages import tree

DIGITS = FIXTURES / "digits_ios15.mlpackage"
PIXELS = images(40)[0].numpy()
SAMPLES = [{"image": image[None]} for image in PIXELS]
TRAIN, TEST = SAMPLES[:24], SAMPLES[24:]
OPTIONS = Polish(steps=16, learning_rate=1e-3)
# iOS18 has every form.
DENSE = FIXTURES / "stateful_lm.mlpackage"


@pytest.fixture
def pruned(tmp_path):
    mlpass.prune(DIGITS, tmp_path / "pruned.mlpackage", Percentile(0.8))
    return tmp_path / "pruned.mlpackage"


def snr(path):
    return mlpass.compare(DIGITS, path, TEST).outputs[0].snr


def test_it_comes_nearer_in_the_same_form(pruned, tmp_path):
    output, again = tmp_path / "o.mlpackage", tmp_path / "again.mlpackage"
    report = polish(pruned, output, DIGITS, TRAIN, OPTIONS)
    assert snr(output) > snr(pruned) + 2
    assert constants(output) == constants(pruned)
    assert report.bytes_after == pytest.approx(report.bytes_before, abs=1024)
    assert {layer.method for layer in report.layers} == {"polish"}
    first, second, third = report.notes
    assert re.fullmatch(r"polished for 16 steps on 21 samples: step (8|1\d) kept", first)
    before, after = map(
        float, re.fullmatch(r"on 3 samples held out: loss (\S+) -> (\S+)", second).groups()
    )
    assert after < 0.75 * before
    found = r"logits: SNR (\S+) -> (\S+) dB, agreement (\S+)% -> (\S+)%"
    old, new, *_ = map(float, re.fullmatch(found, third).groups())
    assert new > old + 2
    assert "of 5 weights polished, sparsity" in str(report)
    assert "weights pruned" not in str(report)
    polish(pruned, again, DIGITS, TRAIN, OPTIONS)
    assert tree(again) == tree(output)
    polish(pruned, again, DIGITS, TRAIN, replace(OPTIONS, seed=1), force=True)
    assert tree(again) != tree(output)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "storage"),
    [
        (Percentile(0.0), Palette(bits=2)),
        (Percentile(0.5), Palette(bits=4)),
        (Percentile(0.0), Quantized("int4")),
        (Percentile(0.5), Quantized("int4", block_size=32)),
        (Percentile(0.75), None),
    ],
    ids=str,
)
def test_every_form_gains_on_sequences_over_a_state(mode, storage, tmp_path):
    """Samples of several steps: gradients flow through the state."""
    solved = tmp_path / "solved.mlpackage"
    mlpass.prune(DENSE, solved, mode, storage=storage)
    with np.load(DENSE.with_suffix(".npz")) as truth:
        inputs = {key[6:]: truth[key] for key in truth if key.startswith("input:")}
    count = len(next(iter(inputs.values())))
    steps = [{name: array[place] for name, array in inputs.items()} for place in range(count)]
    samples = [steps[at : at + 4] for at in range(0, 12, 4)]
    options = Polish(steps=4, batch_size=1, learning_rate=1e-3)
    module = to_stored_module(solved)
    done = polish_module(module, to_module(DENSE), samples, options)
    assert done.kept > 0
    assert done.after.loss < done.before.loss


def test_it_is_never_worse_on_what_is_held_out(pruned, tmp_path):
    output = tmp_path / "o.mlpackage"
    report = polish(pruned, output, DIGITS, TRAIN, replace(OPTIONS, learning_rate=10.0))
    assert report.notes[0].endswith("none was better, the model is as it was")
    assert re.search(r"loss (\S+) -> \1$", report.notes[1])
    assert tree(output) == tree(pruned)
    assert int(re.search(r"for (\d+) steps", report.notes[0])[1]) < 16  # it stops


def test_a_loss_that_is_not_finite_ends_it(pruned):
    module = to_stored_module(pruned)
    options = replace(OPTIONS)
    object.__setattr__(options, "learning_rate", 1e30)  # no rate that is allowed does it at once
    done = polish_module(module, to_module(DIGITS), TRAIN, options)
    assert done.kept == 0
    assert done.steps < 16
    assert done.before == done.after
    with torch.no_grad():
        next(module.parameters()).fill_(float("nan"))
    with pytest.raises(ExecutionError, match="the loss of the model as it is is nan: compare it"):
        polish_module(module, to_module(DIGITS), TRAIN, OPTIONS)


def test_biases_stay_where_that_is_asked_for(pruned):
    module, first = to_stored_module(pruned), to_stored_module(pruned)
    polish_module(module, to_module(DIGITS), TRAIN, replace(OPTIONS, weights_only=True))
    for name, parameter in module.named_parameters():
        assert torch.equal(parameter, first.get_parameter(name)) == module.is_beside(name), name
    assert sum(map(module.is_beside, module.floats)) == 5


def test_an_element_moves_as_far_in_every_form():
    """A rate is that of weights: a scale with codes to 127 moves by less."""
    quantized = to_stored_module(FIXTURES / "quantized_digits.mlpackage")
    name = next(name for name, site in quantized.sites.items() if site.constant is None)
    levels = quantized.weight(name) / quantized.get_parameter(quantized.parameter_of(name)).reshape(
        -1, *[1] * (len(quantized.sites[name].shape) - 1)
    )
    power = levels[levels != 0].square().mean().sqrt().item()
    assert quantized.gains[quantized.parameter_of(name)] == pytest.approx(power, rel=1e-2)
    assert power > 10
    assert set(to_stored_module(DIGITS).gains.values()) == {1.0}


def test_samples_and_options_that_do_not_do(pruned, tmp_path):
    module, teacher = to_stored_module(pruned), to_module(DIGITS)
    with pytest.raises(CalibrationError, match="training needs two samples or more, one to train"):
        polish_module(module, teacher, TRAIN[:1], OPTIONS)
    assert polish_module(module, teacher, TRAIN[:2], replace(OPTIONS, steps=1)).held_out == 1
    for name, value in (("steps", 0), ("batch_size", 1.5), ("held_out", 0), ("held_out", 1.0)):
        with pytest.raises(ConfigError, match=f"{name}: must be .* Got {value}"):
            Polish(**{"steps": 1, name: value})
    for rate in (0, 1e300):
        with pytest.raises(ConfigError, match="learning_rate: must be a number above 0, at most"):
            Polish(steps=1, learning_rate=rate)
        with pytest.raises(ConfigError, match="learning_rate: must be a number above 0, at most"):
            Regions(learning_rate=rate)
    with pytest.raises(ConfigError, match="logits: there is no output 'x'; there are logits"):
        polish_module(module, teacher, TRAIN, replace(OPTIONS, logits="x"))
    (tmp_path / "o.mlpackage").mkdir()
    with pytest.raises(OutputExistsError, match="already exists; pass force=True"):
        polish(pruned, tmp_path / "o.mlpackage", DIGITS, None, OPTIONS)


def test_from_the_command_line(pruned, tmp_path, capsys):
    data, output, same = (tmp_path / name for name in ("x.npz", "o.mlpackage", "same.mlpackage"))
    np.savez(data, image=np.stack([sample["image"] for sample in TRAIN]))
    words = ["finetune", str(pruned), "-o", str(output), "--sample-data", str(data)]
    words += ["--dense", str(DIGITS)]
    rest = ["--steps", "3", "--logits", "logits", "--held-out", "0.25", "--weights-only", "--json"]
    assert main([*words, *rest]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["notes"][0].startswith("polished for 3 steps on 18 samples")
    options = Polish(steps=3, logits="logits", held_out=0.25, weights_only=True)
    polish(pruned, same, DIGITS, TRAIN, options)
    assert tree(same) == tree(output)
    finetune(pruned, same, None, TRAIN, steps=3, dense=DIGITS, force=True)
    assert tree(same) != tree(output)
    with pytest.raises(SystemExit, match="2"):
        main(words)
    assert "--steps: say how many batches to train on" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main([*words, *rest, "--target-sparsity", "0.9"])
    flags = "--held-out, --logits, --weights-only"
    text = f"{flags}: for a polish, so not with options that say what to prune"
    assert text in capsys.readouterr().err
    assert main([*words, "--steps", "0", "--force"]) == 1
    assert "steps: must be an int in [1, 1e+09]. Got 0" in capsys.readouterr().err


def test_a_run_that_dies_leaves_what_was_there(pruned, tmp_path, monkeypatch):
    output = tmp_path / "o.mlpackage"
    polish(pruned, output, DIGITS, TRAIN[:4], replace(OPTIONS, steps=1))
    before = tree(tmp_path)
    looks = iter([0.0])

    def mean_loss(*_):
        if (loss := next(looks, None)) is None:
            raise KeyboardInterrupt
        return loss

    monkeypatch.setattr(polishing, "mean_loss", mean_loss)
    with pytest.raises(KeyboardInterrupt):
        polish(pruned, output, DIGITS, TRAIN, OPTIONS, force=True)
    assert tree(tmp_path) == before


def test_a_large_batch_goes_through_in_parts_to_the_same_end(pruned, monkeypatch):
    ends, counts = [], []
    outputs_of = polishing.outputs_of

    def counting(module, batch):
        counts.append(batch.count)
        return outputs_of(module, batch)

    for room in (1 << 30, 1):
        monkeypatch.setattr(polishing, "_ROOM", room)
        module = to_stored_module(pruned)
        assert polishing._together(module, SAMPLES, 0) == 1 or room > 1
        monkeypatch.setattr(polishing, "outputs_of", counting)
        done = polish_module(module, to_module(DIGITS), SAMPLES[:24], OPTIONS)
        monkeypatch.setattr(polishing, "outputs_of", outputs_of)
        ends.append(
            [done.after.loss, *(float(each.detach().sum()) for each in module.parameters())]
        )
        assert counts[:2] == [1, 2]  # to know what a sample takes
        assert set(counts[2:]) == {8 if room > 1 else 1}
        assert len(counts[2:]) == 2 * (16 if room > 1 else 16 * 8)  # of the teacher, too
        counts.clear()
    np.testing.assert_allclose(*ends, rtol=1e-3)


def test_what_a_sample_takes_is_not_held_on_to(pruned, monkeypatch):
    """The outputs live no longer than the look at them, though no cycle is collected."""
    made = []
    outputs_of = polishing.outputs_of

    def watched(module, batch):
        outputs = outputs_of(module, batch)
        made.extend(weakref.ref(value) for step in outputs for value in step.values())
        return outputs

    monkeypatch.setattr(polishing, "outputs_of", watched)
    module = to_stored_module(pruned)
    gc.collect()
    gc.disable()
    try:
        assert polishing._together(module, SAMPLES, 0) > 8
    finally:
        gc.enable()
    assert len(made) == 2 * len(module.outputs)
    assert not any(value() is not None for value in made)


@pytest.mark.slow_but_every(2)
@pytest.mark.parametrize(("worst", "steps"), [(1.9, 16), (2.1, 13)])
def test_a_run_ends_early_where_it_is_lost_alone(pruned, monkeypatch, worst, steps):
    """Whatever the first thirteen looks show, the last ones may be the best."""
    module = to_stored_module(pruned)
    looks = iter(range(1, 17))
    before = []
    judged = polishing.judged
    monkeypatch.setattr(
        polishing, "judged", lambda *given: before.append(judged(*given)) or before[-1]
    )

    def mean_loss(*_):
        look = next(looks)
        return before[0].loss * (worst if look == 13 else 1.5 if look < 16 else 0.5)

    monkeypatch.setattr(polishing, "mean_loss", mean_loss)
    done = polish_module(module, to_module(DIGITS), TRAIN, OPTIONS)
    assert (done.steps, done.kept) == (steps, 16 if steps == 16 else 0)
