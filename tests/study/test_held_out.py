"""Samples that are kept back, and what is told of them."""

from __future__ import annotations

import numpy as np
import pytest

import mlpass
from mlpass import CalibrationError, Percentile, Wanda
from mlpass.runtime.samples import load_samples
from mlpass.study.held_out import FITTED, divided, told_of

EIGHT = [{"x": np.full(3, float(n))} for n in range(8)]


def firsts(samples):
    return [sample["x"][0] for sample in load_samples(samples)]


def test_a_quarter_of_eight_is_kept_back(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, x=np.stack([one["x"] for one in EIGHT]))
    for data in (EIGHT, path, str(path)):
        solved, judged = divided(data, None)
        assert firsts(solved) == [0, 1, 2, 4, 5, 6]
        assert firsts(judged) == [3, 7]
        assert told_of(solved, judged, None).startswith("solved on 6 of 8 samples, judged by the 2")
    solved, judged = divided(EIGHT, None, keep=False)
    assert solved is judged and firsts(solved) == list(range(8))


def test_few_are_used_twice_and_others_are_taken_as_given(tmp_path):
    solved, judged = divided(EIGHT[:7], None)
    assert solved is judged and len(solved) == 7
    assert told_of(solved, judged, None) == FITTED
    solved, judged = divided(EIGHT, EIGHT[:2])
    assert firsts(solved) == list(range(8)) and firsts(judged) == [0, 1]
    assert told_of(solved, judged, EIGHT[:2]) is None
    assert divided(None, None) == (None, None)
    assert told_of(None, None, None) is None
    with pytest.raises(CalibrationError, match="sample_data"):
        divided(3, None)


def test_a_sweep_is_judged_by_what_no_method_saw(model, samples, tmp_path):
    tokens, rng = samples[0]["tokens"], np.random.default_rng(0)
    eight = [{"tokens": rng.permutation(tokens, axis=1)} for _ in range(8)]
    report = mlpass.sweep(model, eight, [Percentile(0.5)], method="wanda", jobs=1)
    assert report.samples == 2
    assert report.notes[0].startswith("solved on 6 of 8 samples")
    solved, judged = divided(eight, None)
    out = tmp_path / "out.mlpackage"
    single = mlpass.prune(model, out, Percentile(0.5), method=Wanda(), sample_data=solved)
    assert report.trials[0].report.layers == single.layers
    (record,) = mlpass.compare(model, out, judged).outputs
    assert report.trials[0].snr == pytest.approx(record.snr)
    free = mlpass.sweep(model, eight, [Percentile(0.5)], jobs=1)  # nothing that fits samples
    assert (free.samples, free.notes) == (8, ())
