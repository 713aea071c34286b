"""JSON that every reader takes: the numbers that it does not have are null, or told in words."""

from __future__ import annotations

import ast
import json
import math
from pathlib import Path

import numpy as np
import pytest

import mlpass
from mlpass.report.choice import Attempt, Choice, Target
from mlpass.report.comparison import Comparison, OutputRecord
from mlpass.report.plain import keep, kept, plain, to_json
from mlpass.report.records import LayerRecord, Report
from mlpass.report.sensitivity import LayerSensitivity, SensitivityReport
from tests.report.test_study import sweep, trial

ODD = [math.nan, math.inf, -math.inf, np.float64("nan")]


def refuse(name):
    raise AssertionError(f"JSON has no {name}")


def strict(text):
    """Reads JSON as a reader that knows no NaN does."""
    return json.loads(text, parse_constant=refuse)


def test_the_reader_can_refuse():
    with pytest.raises(AssertionError, match="JSON has no NaN"):
        strict(json.dumps([math.nan]))


def test_numbers_that_are_not_finite_are_null_at_any_depth():
    content = {"a": [*ODD, 1.5, 2, True, None, "nan"], "b": {"c": ({"d": math.inf},)}}
    wanted = {"a": [None] * 4 + [1.5, 2, True, None, "nan"], "b": {"c": [{"d": None}]}}
    assert plain(content) == wanted
    assert strict(to_json(content)) == strict(to_json(content, indent=2)) == wanted


def test_what_is_kept_is_read_back():
    content = {"a": [math.inf, -math.inf, 0.1, None], "b": {"inf": "inf", "c": {}}}
    strict(keep(content))
    assert kept(keep(content)) == content
    assert math.isnan(kept(keep([math.nan]))[0])
    with pytest.raises(TypeError, match="set is not JSON serializable"):
        keep({"a": {1}})


@pytest.mark.parametrize("odd", ODD)
def test_every_report(odd):
    layer = LayerRecord(
        "w", "linear", "weight", (2, 2), "fp16", "m", "n", 1, 0.25, "dense", 8, 8, error=odd
    )
    one = trial(snr=odd, value=odd, layer_errors=(odd,), latency={"ALL": odd})
    reports = [
        Report("a", None, 8, 8, (), (layer,)),
        Comparison("a", "b", 1, (OutputRecord("y", odd, odd, odd, odd),)),
        sweep(one, value_before=odd, seconds=odd),
        Choice("a", 1, Target(snr=odd), (Attempt("admm", one, ()),), one, "out", "why"),
        SensitivityReport("a", "m", 1, (0.5,), (LayerSensitivity("w", 4, (odd,), (1,)),)),
    ]
    for report in reports:
        content = report.to_dict()
        assert strict(json.dumps(content, allow_nan=False)) == strict(to_json(content))
        assert "null" in to_json(content)
        str(report)


def test_nothing_else_writes_json():
    writers = set()
    for path in Path(mlpass.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            named = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
            if named and node.value.id == "json" and node.attr.startswith(("dump", "JSONE")):
                writers.add(path.name)
            if isinstance(node, ast.ImportFrom) and node.module == "json":
                writers.add(path.name)
    # ExecuTorch's own, which hold no numbers but sizes:
    assert writers == {"plain.py", "hosted.py", "inmemoryfs.py"}
