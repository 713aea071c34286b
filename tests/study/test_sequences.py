"""Sequences in comparisons and studies: every step counts, on the state of those before it."""

from __future__ import annotations

import json

import numpy as np
import pytest

import mlpass
from mlpass import Percentile
from mlpass.cli import main
from mlpass.errors import MlpassError
from mlpass.runtime.interpreter import Interpreter
from mlpass.study.climb import built_in_finetune
from tests.runtime.sequences import STATEFUL, lm_sequences, predicted


def on_disk(folder, samples):
    """Writes sequences to sub-folders of a folder, and returns it."""
    for number, sample in enumerate(samples):
        (folder / f"talk {number}").mkdir(parents=True)
        for place, step in enumerate(sample):
            np.savez(folder / f"talk {number}" / f"{place}.npz", **step)
    return folder


@pytest.fixture(scope="module")
def pruned(tmp_path_factory):
    path = tmp_path_factory.mktemp("pruned") / "pruned.mlpackage"
    mlpass.prune(STATEFUL, path, Percentile(0.5))
    return path


def snr_by_hand(path, samples):
    wanted, made = (
        np.concatenate(
            [out["logits"].ravel() for s in samples for out in predicted(Interpreter(model), s)[1]]
        ).astype(np.float64)
        for model in (STATEFUL, path)
    )
    return 10 * np.log10(np.sum(wanted**2) / np.sum((made - wanted) ** 2))


def test_models_are_compared_on_all_steps(pruned, tmp_path, capsys):
    samples = lm_sequences(12, 3)
    found = mlpass.compare(STATEFUL, pruned, samples)
    assert found.samples == 2
    assert found.outputs[0].snr == pytest.approx(snr_by_hand(pruned, samples), abs=1e-6)
    folder = on_disk(tmp_path, samples)
    assert (
        main(["compare", str(STATEFUL), str(pruned), "--sample-data", str(folder), "--json"]) == 0
    )
    assert json.loads(capsys.readouterr().out)["outputs"][0]["snr"] == found.outputs[0].snr


FAULTS = {
    "a name": {"token": np.zeros((1, 1))},
    "a shape": {"tokens": np.zeros((3, 3, 3))},
    "a place beyond the state": {"position": np.array([10**6])},
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(
    "use",
    [
        lambda samples, _: mlpass.compare(STATEFUL, STATEFUL, samples),
        lambda samples, _: mlpass.sweep(STATEFUL, samples, [Percentile(0.5)]),
        lambda samples, path: mlpass.prune(STATEFUL, path, Percentile(0.5), sample_data=samples),
    ],
    ids=["compare", "sweep", "prune"],
)
def test_what_fails_is_named_by_its_sample_and_its_step(use, fault, tmp_path):
    samples = lm_sequences(3, 3)
    samples[1][2] |= FAULTS[fault]
    with pytest.raises(MlpassError, match="sample 1, step 2: "):
        use(samples, tmp_path / "out.mlpackage")


@pytest.mark.slow
def test_a_sweep_calibrates_and_compares_on_sequences(pruned, tmp_path):
    samples = lm_sequences(6, 2)
    folder = on_disk(tmp_path, samples)
    configs = [Percentile(0.5), {"target_sparsity": 0.5, "method": "sparsegpt"}]
    report = mlpass.sweep(STATEFUL, str(folder), configs, jobs=1)
    free, solved = report.trials
    assert report.samples == 2
    assert free.outputs[0].snr == pytest.approx(snr_by_hand(pruned, samples), abs=1e-3)
    output = tmp_path / "solved.mlpackage"
    mlpass.prune(STATEFUL, output, Percentile(0.5), sample_data=samples)
    assert solved.outputs[0].snr == pytest.approx(snr_by_hand(output, samples), abs=1e-3)
    assert solved.outputs[0].snr > free.outputs[0].snr


@pytest.mark.slow
def test_choose_measures_and_trains_on_sequences(tmp_path):
    choice = mlpass.choose(
        STATEFUL,
        tmp_path / "out.mlpackage",
        sample_data=lm_sequences(4, 4),
        max_size="0.8x",
        finetune_steps=2,
    )
    assert choice.picked is not None
    trained = [one for one in choice.attempts if one.rung == "fine-tuning"]
    assert trained and all(one.trial.failed is None for one in trained)


def test_sequences_of_any_length_are_trained_on_where_a_choice_climbs_so_far(pruned, tmp_path):
    out = tmp_path / "out.mlpackage"
    train = built_in_finetune(8)
    report = train(
        str(pruned), str(out), on_disk(tmp_path / "data", lm_sequences(2, 3)), str(STATEFUL)
    )
    assert report.sparsity == pytest.approx(mlpass.inspect(pruned).sparsity, abs=1e-3)
    assert "polished for 8 steps" in report.notes[0]
