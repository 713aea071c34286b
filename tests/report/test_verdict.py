"""The sentence of a sweep, and what decibels mean for its model."""

from __future__ import annotations

import math

import pytest

from mlpass.report.comparison import OutputRecord
from mlpass.report.study import Trial
from mlpass.report.verdict import knee, scale_of, verdict
from tests.report.test_study import sweep, trial


def claims(*trials, **fields):
    return [(one.lead, one.trial and one.trial.name) for one in verdict(sweep(*trials, **fields))]


def at(snr, top1):
    outputs = (OutputRecord("y", snr, 0.1, 0.01, top1),)
    return trial(f"{snr:g}", nbytes=int(100 * snr) if math.isfinite(snr) else 99, outputs=outputs)


def test_half_a_quarter_and_the_best_for_its_size():
    points = [(200, 5.0), (480, 18.0), (524, 20.95), (530, 21.0), (900, 22.0)]
    trials = [trial(f"c{size}", nbytes=size, snr=snr) for size, snr in points]
    assert claims(*trials) == [
        ("half the size, best for its size", "c524"),  # nearly half of 1000
        ("a quarter", "c200"),
    ]
    points = [(200, 5.0), (480, 6.0), (700, 21.0), (900, 22.0)]
    assert claims(*(trial(f"c{size}", nbytes=size, snr=snr) for size, snr in points)) == [
        ("half the size", "c480"),
        ("a quarter", "c200"),
        ("best for its size", "c700"),
    ]


def test_a_size_is_told_once_and_what_is_not_there_is_said():
    assert claims(trial("tiny", nbytes=100), trial("big", nbytes=900, snr=30.0)) == [
        ("a quarter, best for its size", "tiny"),
    ]
    assert claims(trial("big", nbytes=900), trial("bad", nbytes=100, snr=-3.0)) == [
        ("nothing worth having is half the size; the smallest, best for its size", "big"),
    ]


def test_nothing_is_claimed_that_was_not_measured():
    (failed,) = claims(Trial("x", "admm", {}, None, failed="why"))
    assert failed == ("no config could be applied: the table says why", None)
    (unknown,) = claims(trial("a", nbytes=300, snr=None), trial("b", nbytes=200, snr=None))
    assert unknown == ("what it costs was not measured; the smallest", "b")
    (zeros,) = claims(trial(snr=-3.0))
    assert zeros == ("nothing here is better than a model that gives nothing but zeros", None)


def test_the_knee_is_the_corner_of_the_front():
    points = [(100, 1.0), (200, 18.0), (300, 19.0), (400, 20.0)]
    trials = [trial(f"c{n}", nbytes=n, snr=snr) for n, snr in points]
    assert knee(sweep(*trials)).name == "c200"
    below = [trial("bad", nbytes=50, snr=-30.0), trial("worse", nbytes=40, snr=-60.0)]
    assert knee(sweep(*trials, *below)).name == "c200"
    assert knee(sweep(trials[0])).name == "c100"
    assert knee(sweep(Trial("x", "admm", {}, None, failed="why"))) is None
    assert knee(sweep(*below)).name == "worse"  # something is shown
    perfect = [trial("all", nbytes=900, snr=math.inf), trial("less", nbytes=800, snr=math.inf)]
    assert knee(sweep(*perfect)).name == "less"


def test_where_quality_falls_faster_than_size_the_largest_is_the_best():
    points = [(200, 2.0), (300, 6.0), (400, 20.0)]
    assert knee(sweep(*(trial(f"c{n}", nbytes=n, snr=snr) for n, snr in points))).name == "c400"


def test_the_knee_of_the_users_own_measure_starts_at_the_smallest():
    points = [(200, 0.5), (300, 0.8), (400, 0.82)]
    trials = [trial(f"c{n}", nbytes=n, value=value) for n, value in points]
    assert knee(sweep(*trials, value_before=0.9)).name == "c300"
    assert knee(sweep(*trials[:1], value_before=0.9)).name == "c200"
    assert knee(sweep(*trials[:2], value_before=0.9)).name == "c200"
    assert knee(sweep(trials[0], trials[0], value_before=0.9)).name == "c200"


def test_no_bargain_disagrees_more_often_than_not():
    assert knee(sweep(at(1.0, 0.1), at(18.0, 0.4), at(20.0, 0.9), at(30.0, 1.0))).name == "20"
    assert knee(sweep(at(1.0, 0.1), at(18.0, 0.4))).name == "1"


def test_where_top1_begins_to_change():
    scale = scale_of(sweep(at(50.0, 1.0), at(40.0, 1.0), at(30.0, 0.98), at(20.0, 1.0)))
    assert (scale.same.name, scale.changed.name) == ("40", "30")
    assert [(share, held.name) for share, held in scale.shares] == []  # no trial shows less
    trials = [at(40.0, 1.0), at(30.0, 0.995), at(25.0, 0.99), at(15.0, 0.7), at(9.0, 0.4)]
    scale = scale_of(sweep(*trials))
    assert (scale.same.name, scale.changed.name) == ("40", "30")
    assert [(share, held.name) for share, held in scale.shares] == [
        (0.99, "25"),  # and so 90% do
        (0.5, "15"),
    ]


@pytest.mark.parametrize(
    ("trials", "same", "changed"),
    [
        ((at(30.0, 1.0), at(20.0, 1.0)), "20", None),
        ((at(30.0, 0.9), at(20.0, 0.8)), None, "30"),
        ((at(math.inf, 1.0), at(20.0, 0.8)), None, "20"),
        ((at(0.0, 0.8), at(-20.0, 0.3)), None, "0"),
    ],
)
def test_what_begins_beyond_the_trials_is_not_told(trials, same, changed):
    scale = scale_of(sweep(*trials))
    assert (scale.same and scale.same.name) == same
    assert (scale.changed and scale.changed.name) == changed


def test_it_is_silent_where_it_cannot_be_told():
    assert scale_of(sweep(at(20.0, None), at(math.inf, 1.0), trial(snr=None, outputs=()))) is None
    assert scale_of(sweep()) is None
