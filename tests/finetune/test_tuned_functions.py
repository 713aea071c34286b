"""Tuning on samples of several functions, beside what each function gives alone."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

import mlpass
from mlpass import Config, Palette, Percentile
from mlpass.cli import main
from mlpass.errors import CalibrationError, ConfigError
from mlpass.finetune import Regions, tune
from tests.finetune.test_functions import (
    SMALL,
    changed_of,
    inputs,
    sample_flags,
    size,
    snr_of,
    weights_of,
)
from tests.finetune.test_functions import adapters as adapters
from tests.finetune.test_functions import lm as lm
from tests.finetune.tuned import losses_of
from tests.multifunction import talks

OPTIONS = Regions(epochs=2, batch_size=4, learning_rate=3e-3)
STILL = replace(OPTIONS, epochs=1, learning_rate=1e-12)  # nothing that fp16 could tell


def told(report):
    """The SNR that a report's notes tell, before and after, by function."""
    found = (re.match(r"(\w+) \w+: SNR (\S+) -> (\S+) dB", note) for note in report.notes)
    return {one[1]: (float(one[2]), float(one[3])) for one in found if one}


@pytest.mark.slow
def test_sequences_of_two_functions_on_one_state(lm, tmp_path):
    dense, pruned = lm
    out = tmp_path / "out.mlpackage"
    samples = talks(6)
    report = tune(pruned, out, dense, samples, OPTIONS)
    assert report.notes[0].startswith("tuned 2 regions on 5 samples; 2 came nearer")
    before, after = (snr_of(dense, one, talks(4, seed=11)) for one in (pruned, out))
    assert all(after[name] > before[name] + 0.2 for name in ("prefill", "decode"))
    assert size(out) == size(pruned)
    own = weights_of(out)
    assert {name: each.tobytes() for name, each in own["prefill"].items()} == {
        name: each.tobytes() for name, each in own["decode"].items()
    }
    # The interpreter, which runs functions one after another, finds the same on what is held out.
    (held,) = np.random.default_rng(OPTIONS.seed).permutation(6)[:1]
    first, last = (snr_of(dense, one, [samples[held]]) for one in (pruned, out))
    assert told(report) == {
        name: (pytest.approx(first[name], abs=0.02), pytest.approx(last[name], abs=0.02))
        for name in ("prefill", "decode")
    }


@pytest.mark.slow
def test_a_region_minds_what_each_function_alone_would(lm, tmp_path):
    """Before anything is trained, its loss is the mean of theirs."""
    dense, pruned = lm
    samples = {
        name: [talk[place][1] for talk in talks(3)]
        for place, name in enumerate(("prefill", "decode"))
    }

    def losses(given, **options):
        report = tune(pruned, tmp_path / "o.mlpackage", dense, given, STILL, force=True, **options)
        return [loss for loss, _ in losses_of(report).values()]

    both = losses(samples)
    apart = [losses(some, function_name=name) for name, some in samples.items()]
    assert len(both) == 2
    assert both == pytest.approx(np.mean(apart, axis=0), rel=1e-3)


@pytest.mark.slow
def test_samples_that_name_one_function_are_those_of_that_function(adapters, tmp_path):
    dense, pruned = adapters
    named, alone = tmp_path / "named.mlpackage", tmp_path / "alone.mlpackage"
    samples = inputs("first", count=6)
    tune(pruned, named, dense, samples, OPTIONS)
    tune(pruned, alone, dense, samples["first"], OPTIONS, function_name="first")
    for function, own in weights_of(named).items():
        others = weights_of(alone)[function]
        assert all(weight.tobytes() == others[name].tobytes() for name, weight in own.items())


def test_only_adapters_of_functions_with_samples_are_tuned(adapters, tmp_path):
    dense, pruned = adapters
    out = tmp_path / "out.mlpackage"
    report = tune(pruned, out, dense, inputs("base", "first", count=12), OPTIONS)
    changed = changed_of(pruned, out)
    assert {name for function, name in changed if function == "second"} == {"base_0", "base_1", "y"}
    assert {"down_0", "down_1"} <= {name for function, name in changed if function == "first"}
    assert size(out) == size(pruned)
    assert any(
        note.startswith("read by functions that were not run as well") for note in report.notes
    )
    others = inputs("base", "first", seed=5)
    better, worse = (snr_of(dense, one, others) for one in (out, pruned))
    assert all(better[name] > worse[name] for name in worse)


def test_the_command_and_a_run_of_both(adapters, tmp_path, capsys):
    dense, pruned = adapters
    samples = inputs("base", "first")
    flags = sample_flags(tmp_path, samples)
    out, same = tmp_path / "out.mlpackage", tmp_path / "same.mlpackage"
    epochs = ["--epochs", "2", "--batch-size", "4", "--learning-rate", "3e-3"]
    assert (
        main(
            ["tune", str(pruned), "-o", str(out), "--dense", str(dense), *flags, *epochs, "--json"]
        )
        == 0
    )
    report = json.loads(capsys.readouterr().out)
    tune(pruned, same, dense, samples, OPTIONS)
    assert (out / "Data/com.apple.CoreML/weights/weight.bin").read_bytes() == (
        same / "Data/com.apple.CoreML/weights/weight.bin"
    ).read_bytes()
    assert report["notes"][0].startswith("tuned ")
    config, both = Config(Percentile(0.0), **SMALL), tmp_path / "both.mlpackage"
    found = mlpass.prune(
        dense, both, config, storage=Palette(bits=2), sample_data=samples, tune=OPTIONS
    )
    assert any(note.startswith("tuned ") for note in found.notes)


def test_what_cannot_be_is_refused(adapters, tmp_path):
    dense, pruned = adapters

    def run(samples, **options):
        tune(pruned, tmp_path / "o.mlpackage", dense, samples, OPTIONS, **options)

    with pytest.raises(CalibrationError, match="two samples or more for first, one to train on"):
        run({**inputs("base"), **inputs("first", count=1)})
    with pytest.raises(ConfigError, match="function_name: the samples name their functions"):
        run(inputs("base"), function_name="base")
    with pytest.raises(CalibrationError, match="some samples name the function that they are for"):
        run([*inputs("base")["base"], ("first", inputs("first")["first"][0])])
