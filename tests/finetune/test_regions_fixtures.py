"""Every fixture, tuned region by region: none comes out worse, and a run goes on where it ended."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

import mlpass
from mlpass.finetune import tune
from mlpass.finetune.training import divided
from tests.conftest import PACKAGES
from tests.finetune.networks import FIXTURES
from tests.finetune.samples import samples_of
from tests.finetune.test_stored_writing import constants
from tests.finetune.tuned import aimed, interrupted, losses_of
from tests.program.packages import tree

LARGE = ("basic_pitch.mlpackage", "efficientnet_lite0.mlpackage")


@pytest.mark.slow_but_every(10)
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n in LARGE else []) for n in PACKAGES]
)
@pytest.mark.parametrize(
    "way",
    [{}, pytest.param({"target": "best", "window": 2}, marks=pytest.mark.slow)],
    ids=["alone", "windows"],
)
def test_every_fixture_goes_through_targets_and_regions_and_is_not_worse(name, way, tmp_path):
    solved, output = tmp_path / "solved.mlpackage", tmp_path / "o.mlpackage"
    options = replace(aimed(name, solved), **way)
    report = tune(solved, output, FIXTURES / name, samples_of(name, 4), options)
    losses = losses_of(report)
    assert losses
    assert all(after <= before for before, after in losses.values())
    assert constants(output) == constants(solved)
    told = re.match(r"outputs on these: loss (\S+) -> ([^\s:]+)(: that is worse)?", report.notes[1])
    assert told[3] or float(told[2]) <= float(told[1])
    assert (tree(output) == tree(solved)) == (told[3] is not None or "; 0 came" in report.notes[0])
    held, _ = divided(4, options.held_out, options.seed)
    samples = [samples_of(name, 4)[number] for number in held]
    before, after = (mlpass.compare(FIXTURES / name, one, samples) for one in (solved, output))
    for old, new in zip(before.outputs, after.outputs, strict=True):
        assert old.snr is None or new.snr >= old.snr - 0.5  # each by itself, in dB


@pytest.mark.slow
@pytest.mark.parametrize("name", PACKAGES)
def test_every_fixture_gives_the_same_bytes_again_and_after_it_died(name, tmp_path, monkeypatch):
    solved, whole, output = (tmp_path / f"{number}.mlpackage" for number in range(3))
    options, samples = aimed(name, solved), samples_of(name, 4)
    report = tune(solved, whole, FIXTURES / name, samples, options)
    half = max(1, len(losses_of(report)) // 2)
    begun = interrupted(monkeypatch, lambda begun: len(begun) == half)
    with pytest.raises(KeyboardInterrupt):
        tune(solved, output, FIXTURES / name, samples, options)
    again = tune(solved, output, FIXTURES / name, samples, options, resume=True)
    assert len(begun) == len(losses_of(report)) + 1
    assert again.notes == report.notes
    assert tree(output) == tree(whole)
