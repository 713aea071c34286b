"""Records of a sweep: kept, read back, shown."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace

import pytest

from mlpass.report.choice import Attempt, Choice, Target
from mlpass.report.comparison import OutputRecord
from mlpass.report.front import with_front
from mlpass.report.plain import keep, kept
from mlpass.report.records import FunctionRecord, LayerRecord, Report
from mlpass.report.study import Pattern, SweepReport, Trial, trial_from_record

LAYER = LayerRecord(
    "w", "linear", "weight", (4, 8), "fp16", "NM(2:4)", "magnitude", 16, 0.5, "sparse", 64, 36
)


def trial(name="NM(2:4)", nbytes=400, snr=20.0, **fields):
    report = Report("in", None, 1000, nbytes, (FunctionRecord("", "f", 17, {"relu": 1}),), (LAYER,))
    outputs = (OutputRecord("y", snr, 0.1, 0.01, 0.75), OutputRecord("z", None, None, None, 1.0))
    pattern = Pattern("w", ("1010", "0101"))
    given = {"outputs": outputs, "weight_bytes": 36, "layer_errors": (0.25,), "pattern": pattern}
    return Trial(name, "magnitude", {}, report, **{**given, **fields})


def sweep(*trials, **fields):
    given = {"command": "mlpass sweep", "seconds": 2.0, "value_before": None, **fields}
    return SweepReport(
        model="in.mlpackage",
        bytes_before=1000,
        weight_bytes_before=64,
        samples=3,
        latency_before=None,
        trials=with_front(trials),
        **given,
    )


@pytest.mark.parametrize(
    "one",
    [
        trial(),
        trial(snr=math.inf),
        trial(snr=-math.inf, value=-math.inf, layer_errors=(math.inf, None)),
        trial(snr=None),
        trial(latency={"CPU_ONLY": 2.0}, value=0.5),
        Trial("x", "admm", {"allocate": "error"}, None, failed="why"),
    ],
)
def test_a_kept_trial_is_the_same(one):
    assert trial_from_record(kept(keep(asdict(one)))) == one


def test_a_trial_is_judged_by_its_worst_output():
    other = OutputRecord("z", 3.0, 0.1, 0.0, None)
    assert trial(outputs=(*trial().outputs, other)).snr == 3.0
    assert trial().snr == 20.0
    assert trial().top1 == 0.75
    assert trial().ratio == 2.5
    assert trial(value=0.5).quality == 0.5
    assert [trial(snr=snr).no_better_than_zeros for snr in (1e-3, 0.0, -5.0, -math.inf, None)] == [
        *(False, True, True, True, False)
    ]
    failed = Trial("x", "admm", {}, None, failed="why")
    assert failed.snr is failed.top1 is failed.quality is None
    assert sweep(trial(), failed).failed is sweep().failed is None
    assert sweep(failed, failed, replace(failed, failed="else")).failed == "why; else"


def test_json_and_table():
    report = sweep(trial(), trial("b", snr=math.inf), Trial("x", "admm", {}, None, failed="why"))
    content = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert content["trials"][1]["snr"] is None
    assert content["trials"][0]["report"]["layers"][0]["name"] == "w"
    assert content["trials"][2]["report"] is None
    text = str(report)
    *_, told, failed = text.splitlines()
    assert told.startswith("in.mlpackage: 1.0 kB, 3 configs on 3 samples in 2 s")
    assert failed == "x, admm failed: why"
    assert sum(line.rstrip().endswith("*") for line in text.splitlines()) == 1


def test_why_trials_failed_is_told_once():
    bad = [Trial(name, "admm", {}, None, failed="there is no y") for name in "ab"]
    other = Trial("c", "wanda", {}, None, failed="z")
    for report in (
        sweep(*bad, other),
        Choice(
            "in.mlpackage",
            1000,
            Target(nbytes=1),
            tuple(Attempt("admm", one, ("failed",)) for one in (*bad, other)),
            None,
            None,
            "every step failed",
        ),
    ):
        lines = str(report).splitlines()
        assert [line for line in lines if "there is no y" in line] == [
            "a, admm; b, admm failed: there is no y"
        ]
        assert "c, wanda failed: z" in lines
        assert max(map(len, lines)) < 140  # no reason makes a column wide


def test_a_budget_is_named_once():
    one = replace(trial("budget"), method="sparsegpt", options={"budget": "0.4x", "seed": 1})
    assert one.title == "budget 0.4x, sparsegpt, seed 1"


def test_latency_that_was_not_measured_is_an_estimate():
    report = replace(sweep(trial("b")), multiplications=10)
    (guess,) = (report.estimate_of(one) for one in report.trials)
    assert guess is not None and guess.ratio == 36 / 64
    text = str(report)
    assert "estimated latency    front" in text and "0.56 (memory)" in text
    assert "estimated latency: not measured, which needs macOS" in text
    assert "Sources: Apple's newsroom" in text
    assert report.to_dict()["trials"][0]["latency_estimate"]["ratio"] == 36 / 64
    timed = replace(report, trials=(replace(report.trials[0], latency={"all": 1.5}),))
    assert "estimated" not in str(timed) and "all 1.50 ms" in str(timed)
    unknown = replace(report, multiplications=None)
    assert unknown.to_dict()["trials"][0]["latency_estimate"] is None
    assert "not measured" not in str(unknown)


def test_what_a_target_misses():
    target = Target(nbytes=300, snr=25.0, value=0.7)
    assert str(target) == ("at most 300 B and an SNR of at least 25 dB and a value of at least 0.7")
    assert target.misses(trial(value=0.7)) == [
        "400 B is more than 300 B",
        "SNR 20.00 is below 25",
    ]
    assert target.misses(trial(nbytes=300, snr=25.0, value=math.nan)) == ["value nan is below 0.7"]
    assert target.misses(trial(nbytes=300, snr=25.0)) == ["value - is below 0.7"]
    assert target.misses(Trial("x", "admm", {}, None, failed="why")) == ["failed"]
    assert Target(snr=10.0).misses(trial()) == []
