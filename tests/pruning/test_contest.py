"""A division and its rival: the one that is nearer on samples that no solve saw is written."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil.mil import Builder as mb

import mlpass
from mlpass import Percentile, SparseGPT
from mlpass.calibrate import budget
from mlpass.calibrate.budget import Division
from mlpass.calibrate.calibration import Calibration
from mlpass.calibrate.journal import Journal
from mlpass.calibrate.layers import prune_calibrated
from mlpass.plan.steps import Step
from mlpass.program.mlpackage import Package
from mlpass.pruning import contest
from mlpass.pruning.contest import better, split
from mlpass.report.records import BudgetRecord
from mlpass.runtime.calls import Call
from mlpass.storage.palette import Palette
from mlpass.weights.sites import find_sites
from tests.calibrate.layers import samples, save, weights, weights_of


@pytest.fixture
def model(tmp_path):
    first, second = weights(2)

    def build(x):
        return mb.linear(x=mb.linear(x=x, weight=first), weight=second, name="one")

    return save(build, tmp_path)


@pytest.fixture
def single(tmp_path):
    (weight,) = weights(1)
    return save(lambda x: mb.linear(x=x, weight=weight, name="one"), tmp_path)


@pytest.mark.parametrize(("first", "second", "name"), [(1, 4, "second"), (4, 1, "first")])
def test_the_nearer_is_taken(single, first, second, name):
    calibration, held = split(Calibration(SparseGPT(), samples()))
    (weight,) = weights_of(single).values()
    inputs = np.concatenate([one["x"] for one in held]).astype(float)
    truth = inputs @ weight.T.astype(float)
    made = {}
    with Package(single) as package:
        (site,) = find_sites(package.programs)

        def division(bits, name):
            steps = [Step(site, Percentile(0.0), None, storage=Palette(bits, 0))]
            return Division(steps, {site: 1.0}, BudgetRecord(9, 9, 9, 0.1), name=name)

        def solve(tried, editor, found):
            layers = prune_calibrated(
                package, tried.steps, calibration, editor, Journal(), found
            ).values()
            other = inputs @ found[site].T.astype(float)
            made[tried.name] = np.sum((other - truth) ** 2) / np.sum(truth**2)
            return list(layers)

        tried = replace(division(first, "first"), rival=division(second, "second"))
        won = better(package, tried, calibration, held, solve)
        assert won.division.name == name == min(made, key=made.get)
        told = ", ".join(f"{made[each]:.3g} with {each}" for each in sorted(made, key=made.get))
        assert won.division.record.judged == f"outputs' error on 4 samples kept back: {told}"
        assert won.layers[0].storage == str(won.division.steps[0].storage)


def test_what_chance_may_make_does_not_decide(monkeypatch, single):
    """The rival is nearer on three of four samples, and over all, by less than samples differ."""
    calibration, held = split(Calibration(SparseGPT(), samples()))
    for rival, winner in (([0.9, 0.9, 0.9, 1.25], "first"), ([0.9, 0.8, 0.9, 0.95], "second")):
        errors = iter([1.0, *[1.0] * 4, 0.9, *rival])  # over all first, then of each sample
        monkeypatch.setattr(contest, "error_of", lambda dense, other, errors=errors: next(errors))
        with Package(single) as package:
            (site,) = find_sites(package.programs)
            step = Step(site, Percentile(0.0), None, storage=Palette(4, 0))
            steps = [step, replace(step, storage=Palette(3, 0))]
            second, first = (
                Division([each], {site: 1.0}, BudgetRecord(9, 9, 9, 0.1), name=name)
                for each, name in zip(steps, ("second", "first"), strict=True)
            )
            tried = replace(first, rival=second)
            won = better(package, tried, calibration, held, lambda *_: [])
        assert won.division.name == winner
        told = {"first": "1 with first, 0.9 with second", "second": "0.9 with second, 1 with first"}
        assert told[winner] in won.division.record.judged  # what was written comes first


@pytest.mark.parametrize(("count", "kept"), [(7, 0), (8, 1), (128, 16), (1000, 32)])
def test_samples_are_solved_on_or_judged_on(count, kept):
    every = [{"x": np.full((1, 1), number)} for number in range(count)]
    calibration, held = split(Calibration(SparseGPT(), every))
    assert len(held) == kept
    numbers = [int(one["x"][0, 0]) for one in (*calibration.sample_data, *held)]
    assert sorted(numbers) == list(range(count))


def test_few_samples_are_all_solved_on(model, tmp_path):
    out = tmp_path / "out.mlpackage"
    report = mlpass.prune(model, out, budget="0.3x", sample_data=samples(7))
    assert report.budget.judged is None
    assert report.layers[0].samples == 7


def test_the_report_says_what_it_was_judged_by(model, tmp_path):
    out = tmp_path / "out.mlpackage"
    report = mlpass.prune(model, out, budget="0.2x", sample_data=samples(16))
    assert "outputs' error on 2 samples kept back: " in str(report)
    assert report.layers[0].samples == 14


@pytest.mark.parametrize("alike", [0.0, np.inf])
def test_a_rival_that_is_expected_to_do_as_well_is_taken_at_once(alike, tmp_path, monkeypatch):
    def build(x):
        y = x
        for weight, scale in zip(weights(3), (0.01, 0.1, 1), strict=True):
            y = mb.add(x=x, y=mb.linear(x=y, weight=weight * np.float32(scale)))
        return y

    monkeypatch.setattr(budget, "_ALIKE", alike)
    model = save(build, tmp_path, minimum_deployment_target=ct.target.iOS18)
    out = tmp_path / "out.mlpackage"
    report = mlpass.prune(model, out, budget="0.15x", sample_data=samples(16))
    names = ["all weights in", "a form for each weight"]
    assert [name in report.budget.judged for name in names] == [True, alike == 0]
    assert 0.9 * report.budget.nbytes < report.budget.used <= report.budget.nbytes


def test_a_rival_that_is_the_same_is_not_solved_for(single, tmp_path):
    out = tmp_path / "out.mlpackage"
    report = mlpass.prune(single, out, budget="0.3x", sample_data=samples(16))
    assert "all weights in" not in report.budget.judged


@pytest.mark.parametrize(
    ("counts", "kept"),
    [
        ({"a": 7, "b": 1}, {"a": 1}),
        ({"a": 20, "b": 2}, {"a": 2, "b": 1}),
        ({"a": 3, "b": 3}, {}),
        ({"b": 1, "a": 300}, {"a": 30}),
    ],
)
def test_every_function_is_solved_on(counts, kept):
    every = [Call(name, {}) for name, count in counts.items() for _ in range(count)]
    calibration, held = split(Calibration(SparseGPT(), every, functions=tuple(counts)))
    assert Counter(one.function for one in held) == kept
    assert {one.function for one in calibration.sample_data} == {*counts}


def test_where_no_output_is_of_floats_nothing_is_judged(tmp_path):
    (weight,) = weights(1)

    def build(x):
        return mb.reduce_argmax(x=mb.linear(x=x, weight=weight), axis=1, keep_dims=False)

    model = save(build, tmp_path, minimum_deployment_target=ct.target.iOS18)
    report = mlpass.prune(model, tmp_path / "out.mlpackage", budget="0.2x", sample_data=samples(8))
    assert report.budget.judged == "not judged on 1 samples kept back: no output is of floats"
    assert report.layers[0].storage is not None
