"""Outputs that are not finite: masked logits, and models that fail."""

from __future__ import annotations

import math
import warnings

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil.mil import Builder as mb

import mlpass
from mlpass import Percentile
from mlpass.cli import main
from mlpass.examine.compare import Made, tally_outputs
from tests.report.test_plain import strict
from tests.runtime.programs import convert

pytestmark = pytest.mark.filterwarnings("ignore:Implicitly cleaning up:ResourceWarning")

INF, NAN = math.inf, math.nan
WEIGHT = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
MASK = np.triu(np.full((8, 64), -np.inf, np.float32), 40)
SAMPLES = [
    {"x": one} for one in np.random.default_rng(1).standard_normal((16, 8, 64)).astype(np.float32)
]


def record_of(wanted, made):
    pairs = [
        ({"y": np.asarray(a)}, Made(None, {"y": np.asarray(b)}))
        for a, b in zip(wanted, made, strict=True)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (record,) = tally_outputs({None: ["y"]}, pairs)
    return record


@pytest.mark.parametrize(
    ("wanted", "made", "snr", "largest", "mean"),
    [
        ([[3.0, -INF, 4.0]], [[3.0, -INF, 5.0]], 10 * math.log10(25), 1.0, 1 / 3),
        ([[INF, -INF]], [[INF, -INF]], INF, 0.0, 0.0),
        ([[1.0, -INF]], [[1.0, INF]], -INF, INF, INF),
        ([[1.0, -INF]], [[1.0, -1e30]], -INF, INF, INF),
        ([[1.0, 2.0]], [[1.0, INF]], -INF, INF, INF),
        ([[1.0, 2.0]], [[1.0, NAN]], -INF, INF, INF),
        ([[1.0, NAN]], [[1.0, 2.0]], -INF, INF, INF),
        ([[1.0, INF]], [[1.0, NAN]], -INF, INF, INF),
        ([[3.0, NAN, 4.0]], [[3.0, NAN, 5.0]], 10 * math.log10(25), 1.0, 0.5),
        ([[NAN, NAN]], [[NAN, NAN]], None, None, None),
        ([[3.0], [-INF]], [[4.0], [-INF]], 10 * math.log10(9), 1.0, 0.5),
        ([1.0], [INF], -INF, INF, INF),
        ([5.0], [5.0], INF, 0.0, 0.0),
        ([[0.0, 0.0]], [[0.0, 1.0]], -INF, 1.0, 0.5),
        ([[1e-150]], [[1e30]], 10 * (-300 - 60), 1e30, 1e30),
    ],
)
def test_a_record(wanted, made, snr, largest, mean):
    record = record_of(wanted, made)
    assert (record.snr, record.max_error, record.mean_error) == pytest.approx((snr, largest, mean))


def test_the_best_place_where_some_are_not_numbers():
    rows = [[1.0, -INF, 3.0], [-INF, -INF, -INF], [1.0, 2.0, 0.0], [1.0, NAN, 0.0]]
    others = [[1.0, -INF, 4.0], [-INF, -INF, -INF], [1.0, NAN, 0.0], [1.0, NAN, 0.0]]
    assert record_of([rows], [others]).top1 == pytest.approx(2 / 3)
    assert record_of([[NAN, NAN]], [[NAN, NAN]]).top1 is None


@pytest.fixture
def masked(tmp_path):
    """Logits of which a part is masked."""

    @mb.program(input_specs=[mb.TensorSpec((8, 64))], opset_version=ct.target.iOS17)
    def built(x):
        return mb.add(x=mb.linear(x=x, weight=WEIGHT, name="head"), y=MASK, name="logits")

    path = tmp_path / "masked.mlpackage"
    convert(built).save(str(path))
    return path


def pruned(path, sparsity):
    """What numpy has for a pruned model: the smallest weights are gone."""
    ranked = np.argsort(np.abs(WEIGHT).reshape(-1), kind="stable")
    left = WEIGHT.reshape(-1).copy()
    left[ranked[: int(sparsity * left.size)]] = 0
    return [sample["x"] @ left.reshape(WEIGHT.shape).T for sample in SAMPLES]


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_masked_logits_are_measured_where_they_are_not_masked(masked, tmp_path, backend):
    other = tmp_path / "pruned.mlpackage"
    mlpass.prune(masked, other, Percentile(0.75))
    (record,) = mlpass.compare(masked, other, SAMPLES, backend=backend).outputs
    free = np.isfinite(MASK)
    dense = np.stack([(s["x"] @ WEIGHT.T)[free] for s in SAMPLES]).astype(np.float64)
    sparse = np.stack([one[free] for one in pruned(masked, 0.75)])
    noise = np.abs(dense - sparse)
    assert record.max_error == pytest.approx(noise.max(), rel=1e-4)
    assert record.snr == pytest.approx(10 * np.log10((dense**2).sum() / (noise**2).sum()), abs=1e-3)
    assert record.mean_error == pytest.approx(noise.sum() / (free.size * len(SAMPLES)), rel=1e-4)
    assert record.max_error > 1


def test_a_choice_holds_its_target(masked, tmp_path):
    out = tmp_path / "out.mlpackage"
    choice = mlpass.choose(masked, out, sample_data=SAMPLES, min_snr=15.0, up_to="data-free")
    tried = [(attempt.trial.snr, attempt.misses) for attempt in choice.attempts]
    assert all(math.isfinite(snr) and (snr >= 15) == (not misses) for snr, misses in tried)
    assert any(misses for _, misses in tried)
    (record,) = mlpass.compare(masked, out, SAMPLES[3::4]).outputs  # those kept back
    assert record.snr == pytest.approx(choice.picked.snr)
    assert choice.picked.snr >= 15


def test_fine_tuning_towards_masked_logits(masked, tmp_path):
    from mlpass.finetune import MagnitudePruner, distill, to_module
    from mlpass.finetune.schedules import ConstantSparsity

    module = to_module(masked)
    pruner = MagnitudePruner(module, Percentile(0.75), ConstantSparsity(1))
    pruner.prepare()
    losses = distill(module, masked, SAMPLES, 6, pruner=pruner, batch_size=1)
    assert all(math.isfinite(loss) for loss in losses)
    pruner.finalize(tmp_path / "out.mlpackage")
    assert mlpass.compare(masked, tmp_path / "out.mlpackage", SAMPLES).outputs[0].snr > 0


def value_nan(path):
    return math.nan


def value_inf(path):
    return math.inf


def value_minus(path):
    return -math.inf


@pytest.mark.parametrize("evaluate", [value_nan, value_inf, value_minus])
def test_a_value_that_is_not_finite(masked, tmp_path, evaluate):
    output = tmp_path / "report.json"
    configs = [Percentile(0.5), Percentile(0.9)]
    report = mlpass.sweep(masked, SAMPLES, configs, evaluate=evaluate, output=output)
    content = strict(output.read_text())
    assert content["value_before"] is None
    assert [one["value"] for one in content["trials"]] == [None, None]
    assert [one.front for one in report.trials].count(True) == (evaluate is not value_nan)
    out = tmp_path / "out.mlpackage"
    options = {"sample_data": SAMPLES, "evaluate": evaluate, "up_to": "data-free"}
    choice = mlpass.choose(masked, out, min_accuracy=0.5, **options)
    assert (choice.picked is not None) == (evaluate is value_inf)


def test_a_sweep_that_died_goes_on_with_the_same_numbers(masked, tmp_path, monkeypatch):
    from mlpass.study import sweep as module

    output = tmp_path / "report.json"
    configs = [Percentile(0.0), Percentile(0.9)]
    options = {"evaluate": value_minus, "output": output, "resume": True}
    wanted = mlpass.sweep(masked, SAMPLES, configs, evaluate=value_minus)

    def die(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(module, "write_report", die)
        with pytest.raises(KeyboardInterrupt):
            mlpass.sweep(masked, SAMPLES, configs, **options)
    (folder,) = tmp_path.glob(".*.resume")
    for file in folder.glob("*.json"):
        strict(file.read_text())
    with monkeypatch.context() as patched:
        patched.setattr(module, "run_trial", die)  # nothing is left to run
        report = mlpass.sweep(masked, SAMPLES, configs, **options)
    for one, other in zip(report.trials, wanted.trials, strict=True):
        assert (one.value, one.outputs, one.front) == (other.value, other.outputs, other.front)
    assert report.trials[0].snr == math.inf


@pytest.mark.slow
def test_the_json_of_every_command(masked, tmp_path, capsys):
    samples, out = tmp_path / "samples.npz", tmp_path / "out.mlpackage"
    x = np.stack([sample["x"] for sample in SAMPLES])
    np.savez(samples, x=x)
    given = ["--sample-data", str(samples), "--json"]
    half, first = ["--target-sparsity", "0.5"], ["--up-to", "data-free", "--max-size", "0.9x"]
    trained, chosen = str(tmp_path / "t.mlpackage"), str(tmp_path / "c.mlpackage")
    commands = [
        ["prune", str(masked), "-o", str(out), *half, *given],
        ["inspect", str(out), "--json"],
        ["compare", str(masked), str(masked), *given],
        ["compare", str(masked), str(out), *given],
        ["sweep", str(masked), "--jobs", "1", *given],
        ["finetune", str(masked), "-o", trained, "--steps", "2", *half, *given],
        ["choose", str(masked), "-o", chosen, *first, *given],
    ]
    for command in commands:
        assert main(command) == 0, command
        strict(capsys.readouterr().out)
    x[3, 2, 5] = NAN
    np.savez(samples, x=x)
    for command in (commands[2], commands[3], commands[4]):
        assert main(command) == 0, command
        strict(capsys.readouterr().out)


def test_samples_of_nan_alone_tell_nothing(masked, tmp_path):
    samples = [{"x": np.full((8, 64), NAN, np.float32)}]
    comparison = mlpass.compare(masked, masked, samples)
    (record,) = comparison.outputs
    assert (record.snr, record.max_error, record.top1) == (None, None, None)
    out = tmp_path / "out.mlpackage"
    choice = mlpass.choose(masked, out, sample_data=samples, min_snr=5.0, up_to="data-free")
    assert choice.picked is None
    assert not out.exists()
    assert "SNR - is below 5" in choice.reason
