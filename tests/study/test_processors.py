"""Studies for a processor: what it takes badly is told, and decides between what noise does not."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

import mlpass
from mlpass import NM, Config, ConfigError, OpConfig, Palette, Percentile
from mlpass.cli import main
from mlpass.report.choice import Attempt, Target
from mlpass.study.climb import Climb
from mlpass.study.trial import Setting
from tests.report.test_study import trial

ROWS = Config(op_name_configs={"layers_0_up_weight_to_fp16": Palette(4, group_size=1)})
CONFIGS = [Percentile(0.5), OpConfig(Percentile(0.8)), NM(2, 4), ROWS]


@pytest.mark.slow_but_every(4)
@pytest.mark.parametrize(
    ("processor", "kinds"),
    [
        ("ane", [["zeros"], [], ["zeros"], ["tables"]]),
        ("cpu", [["zeros"], ["zeros"], [], []]),
        ("gpu", [["zeros"], ["zeros"], ["zeros"], []]),
        (None, [[], [], [], []]),
    ],
)
def test_each_processor_has_its_facts_as_explain_tells_them(model, processor, kinds, tmp_path):
    options = {"minimum_deployment_target": "iOS18", "jobs": 1}
    report = mlpass.sweep(model, None, CONFIGS, processor=processor, **options)
    assert [list(one.cautions) for one in report.trials] == kinds
    out = tmp_path / "out.mlpackage"
    mlpass.prune(model, out, CONFIGS[0])
    found = mlpass.explain(out, processor=processor or "ane").findings
    wanted = {one.kind: one.text for one in found if one.processor}
    assert wanted
    assert report.trials[0].cautions == (wanted if processor else {})
    assert ("mind" in str(report).splitlines()[0]) == bool(processor)
    assert all(f"{kind}: {text}" in str(report) for kind, text in wanted.items()) == bool(processor)


def test_of_two_that_noise_does_not_tell_apart_it_takes_the_one_without(model, tmp_path):
    def best(*trials, **target):
        climb = Climb(Setting(model, processor="ane"), Target(**target), tmp_path)
        climb.attempts = [Attempt("admm", one, ()) for one in trials]
        return climb.best

    zeros = {"zeros": "few"}
    slow, far = trial(snr=20.0, cautions=zeros), trial(snr=19.5)
    near = trial(snr=19.95, nbytes=399)
    assert best(slow, near, far, nbytes=500) == 1
    assert best(slow, far, nbytes=500) == 0
    assert best(slow, replace(near, cautions=zeros), nbytes=500) == 0
    assert best(slow, replace(near, cautions={**zeros, "tables": "many"}), nbytes=500) == 0
    small, as_small = trial(nbytes=10_000, cautions=zeros), trial(nbytes=10_005)
    assert best(small, as_small, trial(nbytes=10_100), snr=10.0) == 1
    mine = trial(value=0.9, cautions=zeros), trial(value=0.8999)
    assert best(*mine, nbytes=500) == 0  # a measure of the user's own: every difference counts
    assert best(nbytes=500) is None


def test_on_the_command_line(model, tmp_path, stacked, capsys):
    out = tmp_path / "out.mlpackage"
    command = ["choose", model, "--sample-data", str(stacked), "-o", str(out), "--up-to"]
    assert main([*command, "data-free", "--max-size", "0.6x", "--for", "gpu"]) == 0
    shown = capsys.readouterr().out
    assert "zeros: sparse weights are unpacked again at each load" in shown
    grid = tmp_path / "grid.yaml"
    grid.write_text("- {target_sparsity: 0.5}\n")
    assert main(["sweep", model, "--configs", str(grid), "--for", "gpu", "--json"]) == 0
    (one,) = json.loads(capsys.readouterr().out)["trials"]
    assert list(one["cautions"]) == ["zeros"]


def test_a_processor_that_there_is_not(model, samples, tmp_path):
    with pytest.raises(ConfigError, match="processor: must be one of ane, cpu, gpu, or None"):
        mlpass.sweep(model, processor="npu")
    with pytest.raises(ConfigError, match="processor: must be one of ane, cpu, gpu, or None"):
        mlpass.choose(model, tmp_path / "o", sample_data=samples, min_snr=3, processor="npu")
