"""Latency: a median of what a clock says, never anything else."""

from __future__ import annotations

import itertools
import platform
from types import SimpleNamespace

import pytest

import mlpass
from mlpass.study.latency import can_measure, measure_latency


class FakeModel:
    """Takes as long as its clock says."""

    def __init__(self, seconds, clock, states=()):
        self._seconds = itertools.cycle(seconds)
        self._clock = clock
        self._states = states

    def get_spec(self):
        return SimpleNamespace(description=SimpleNamespace(state=self._states))

    def make_state(self):
        return "new"

    def predict(self, inputs, state=None):
        assert (state == "new") == bool(self._states)
        assert inputs == {"x": 1}
        self._clock.now += next(self._seconds)


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.mark.parametrize("states", [(), ("cache",)])
def test_the_median_without_the_warm_up(states):
    clock, seen = Clock(), []

    def load(path, unit, function_name):
        seen.append((path, unit, function_name))
        warm = {"CPU_ONLY": 4.0, "CPU_AND_GPU": 2.0, "CPU_AND_NE": 1.0}[unit]
        return FakeModel([99, 99, 99, *[warm / 1e3] * 19, 0.5], clock, states)

    latency = measure_latency("p", {"x": 1}, function_name="f", load=load, clock=clock)
    assert latency == {
        "CPU_ONLY": pytest.approx(4.0),
        "CPU_AND_GPU": pytest.approx(2.0),
        "CPU_AND_NE": pytest.approx(1.0),
    }
    assert seen[0] == ("p", "CPU_ONLY", "f")


@pytest.mark.skipif(platform.system() == "Darwin", reason="Core ML is here")
def test_elsewhere_it_says_what_it_needs(model, samples):
    assert not can_measure()
    report = mlpass.sweep(model, samples, [mlpass.NM(2, 4)])
    assert report.trials[0].latency is report.latency_before is None
    assert report.to_dict()["trials"][0]["latency"] == "needs macOS"
    assert "needs macOS" in str(report)


def test_a_model_that_core_ml_cannot_load(tmp_path):
    from mlpass.runtime.backends.coreml import load_on

    with pytest.raises(mlpass.BackendError, match="Core ML cannot load .* on CPU_ONLY"):
        load_on(str(tmp_path / "none.mlpackage"), "CPU_ONLY")


def test_on_macos_every_trial_has_one(model, samples, monkeypatch, tmp_path):
    from mlpass.study import sweep as module

    monkeypatch.setattr(module, "can_measure", lambda: True)
    monkeypatch.setattr(module, "measure_latency", lambda path, sample, **_: {"CPU_ONLY": 1.5})
    report = mlpass.sweep(model, samples, [mlpass.NM(2, 4)], output=tmp_path / "r.json")
    assert report.trials[0].latency == report.latency_before == {"CPU_ONLY": 1.5}
    assert "CPU_ONLY 1.50 ms" in str(report)
    without = mlpass.sweep(model, None, [mlpass.NM(2, 4)])
    assert without.trials[0].latency is None
