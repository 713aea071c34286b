"""The front: what nothing beats by more than noise, and what is never on it."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from mlpass.report.front import SIZE_NOISE, SNR_NOISE, with_front
from mlpass.report.study import Trial
from tests.report.test_study import trial


def front_of(*points, **fields):
    trials = [trial(str(n), nbytes=size, snr=snr, **fields) for n, (size, snr) in enumerate(points)]
    return [one.name for one in with_front(trials) if one.front]


def test_ties_are_both_in_front():
    points = (400, 20.0), (400, 20.0), (400, 19.0), (300, 5.0), (500, None)
    assert front_of(*points) == ["0", "1", "3"]
    assert with_front([Trial("x", "admm", {}, None, failed="why")])[0].front is False


def test_differences_below_noise_are_none():
    assert front_of((10_000, 20.05), (9000, 20.0)) == ["1"]
    assert front_of((10_000, 20.2), (9000, 20.0)) == ["0", "1"]
    assert front_of((10_000, 20.0), (9960, 10.0)) == ["0"]
    assert front_of((10_000, 20.0), (9900, 10.0)) == ["0", "1"]
    assert front_of((10_000, math.inf), (9000, math.inf), (8000, 3.0)) == ["1", "2"]


@pytest.mark.parametrize("seed", range(20))
def test_what_is_not_on_it_is_beaten_by_one_that_is(seed):
    rng = np.random.default_rng(seed)
    trials = with_front(
        [trial(str(n), nbytes=int(10_000 + 10 * n), snr=20 + 0.02 * n) for n in range(60)]
        + [
            trial(nbytes=int(rng.integers(9000, 12_000)), snr=float(rng.uniform(15, 25)))
            for _ in range(60)
        ]
    )
    front = sorted((one for one in trials if one.front), key=lambda one: one.nbytes)
    for one in trials:
        size, snr = one.nbytes * (1 + 2 * SIZE_NOISE), one.snr - SNR_NOISE - 1e-9
        assert any(other.nbytes <= size and other.snr >= snr for other in front)
    for small, large in pairwise(front):
        assert large.snr > small.snr + SNR_NOISE
        assert small.nbytes < large.nbytes * (1 - SIZE_NOISE)


def test_what_is_no_better_than_zeros_is_not_on_it():
    assert front_of((100, -6.0), (200, 0.0), (300, 8.0), (50, -math.inf)) == ["2"]
    assert front_of((100, -6.0)) == []


def test_a_measure_of_the_users_own_has_no_floor_and_no_noise():
    assert front_of((100, -6.0), (200, 9.0), value=0.5) == ["0"]
    near = [trial(nbytes=200, value=0.5), trial(nbytes=100, snr=-6.0, value=0.4999)]
    assert [one.front for one in with_front(near)] == [True, True]


def test_of_those_that_noise_does_not_tell_apart_the_one_that_its_processor_takes_best():
    zeros, both = {"zeros": "few"}, {"zeros": "few", "tables": "many"}

    def fronts(*trials):
        return [one.front for one in with_front(trials)]

    small = trial(nbytes=10_000, snr=20.0, cautions=zeros)
    near = trial(nbytes=10_040, snr=19.95)
    assert fronts(small, near) == [False, True]
    assert fronts(small, replace(near, cautions=zeros)) == [True, False]
    assert fronts(small, replace(near, cautions=both)) == [True, False]
    assert fronts(replace(small, cautions=both), replace(near, cautions=zeros)) == [False, True]
    assert fronts(small, replace(small, cautions={})) == [False, True]
    assert fronts(small, trial(nbytes=10_000, snr=19.5)) == [True, False]
    assert fronts(small, trial(nbytes=10_200, snr=20.0)) == [True, False]
    mine = [trial(value=0.9, cautions=zeros), trial(value=0.8999)]
    assert fronts(*mine) == [True, False]  # a measure of the user's own: every difference counts
