"""Marks: what no better than zeros, or worse than int8 at no fewer bytes, is told as such."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from mlpass import Quantized
from mlpass.report.choice import Attempt, Choice, Target
from mlpass.report.study import INT8, Trial, marks
from tests.report.test_study import sweep, trial

FREE = trial(INT8, nbytes=500, snr=40.0)


def test_int8_is_called_so():
    assert str(Quantized("int8")) == INT8


@pytest.mark.parametrize(
    ("nbytes", "snr", "mark"),
    [
        (500, 39.0, "worse than int8"),
        (600, 39.0, "worse than int8"),
        (600, 40.0, ""),
        (600, 41.0, ""),
        (499, 3.0, ""),
        (499, 0.0, "worse than zeros"),
        (600, -1.0, "worse than zeros"),
        (499, None, ""),
        (600, math.nan, ""),
    ],
)
def test_each_is_held_against_zeros_and_int8(nbytes, snr, mark):
    assert marks([FREE, trial(nbytes=nbytes, snr=snr)]) == ["", mark]


def test_without_int8_zeros_are_left():
    other = [trial(nbytes=600, snr=30.0), trial(snr=-3.0)]
    assert marks(other) == ["", "worse than zeros"]
    solved = replace(FREE, method="sparsegpt")  # not what one line without samples gives
    failed = Trial(INT8, "magnitude", {}, None, failed="why")
    assert marks([solved, failed, *other]) == ["", "", "", "worse than zeros"]


def test_a_measure_of_the_users_own_has_no_zeros():
    free = trial(INT8, nbytes=500, snr=-5.0, value=0.5)
    others = [trial(nbytes=600, snr=-5.0, value=value) for value in (0.4, 0.6)]
    assert marks([free, *others]) == ["", "worse than int8", ""]


def test_tables_and_json_show_them():
    bad = trial("bad", nbytes=600, snr=30.0)
    report = sweep(FREE, bad)
    line = next(line for line in str(report).splitlines() if line.startswith("bad"))
    assert line.rstrip().endswith("worse than int8")
    assert "worse than int8: int8 without samples is better, at no more bytes" in str(report)
    assert "worse than zeros" not in str(report)
    assert [one["mark"] for one in json.loads(json.dumps(report.to_dict()))["trials"]] == [
        *(None, "worse than int8")
    ]
    attempts = Attempt("storages", FREE, ()), Attempt("admm", bad, ("too large",))
    choice = Choice("in", 1000, Target(snr=30.0), attempts, FREE, "out", "why")
    assert "too large; worse than int8" in str(choice)
    assert "int8 without samples is better, at no more bytes" in str(choice)
    assert choice.to_dict()["attempts"][1]["mark"] == "worse than int8"
    assert "worse" not in str(replace(choice, attempts=attempts[:1]))
